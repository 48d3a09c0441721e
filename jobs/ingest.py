"""Reading the images as a Ray job: `ray job submit --working-dir . -- python jobs/ingest.py --spec ... --out s3://...`."""

from rapid_dist.cli.jobs import job

if __name__ == "__main__":
    job("ingest")()
