"""The knowledge base as a Ray job: `ray job submit --working-dir . -- python jobs/build_kb.py --spec ... --out s3://...`."""

from rapid_dist.cli.jobs import job

if __name__ == "__main__":
    job("build-kb")()
