"""The whole run as a Ray job: `ray job submit --working-dir . -- python jobs/run.py --spec ... --out s3://...`."""

from rapid_dist.cli.jobs import job
from rapid_dist.run import STAGES

if __name__ == "__main__":
    job(*STAGES)()
