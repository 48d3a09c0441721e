"""A sweep as a Ray job: `ray job submit --working-dir . -- python jobs/sweep.py --spec ... --out s3://...`."""

from rapid_dist.cli.tune import sweep_job

if __name__ == "__main__":
    sweep_job()
