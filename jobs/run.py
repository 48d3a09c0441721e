"""The whole run as a Ray job: `ray job submit --working-dir . -- python jobs/run.py SPEC --out s3://...`."""

import sys

from rapid_dist.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
