"""All commands under one name."""

from __future__ import annotations

import click

from rapid_dist.cli.bench import bench
from rapid_dist.cli.compare import compare
from rapid_dist.cli.docs import docs
from rapid_dist.cli.kb import kb
from rapid_dist.cli.metrics import metrics
from rapid_dist.cli.privacy import audit, calibrate, epsilon, ledger
from rapid_dist.cli.release import RELEASE_COMMANDS
from rapid_dist.cli.spec import spec
from rapid_dist.cli.stages import STAGE_COMMANDS, demo, ingest, run
from rapid_dist.cli.tune import tune


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rapid-dist")
def main() -> None:
    """Private synthetic images at scale: retrieval augmented private diffusion (RAPID) on Ray."""


_PRIVACY = (epsilon, calibrate, ledger, audit)
_STAGES = (run, compare, ingest, *STAGE_COMMANDS, *RELEASE_COMMANDS)
for _command in (demo, *_STAGES, spec, tune, *_PRIVACY, kb, metrics, bench, docs):
    main.add_command(_command)
