"""A training run to do harm to, and the S3 endpoint that the faults of the ledger's store need."""

from __future__ import annotations

import pytest

from tests.faults.harness import FaultyRun
from tests.s3.conftest import s3, s3_server  # noqa: F401


@pytest.fixture
def faulty_run(finished_run, tiny_sources, tmp_path):
    """The function of changed sections that makes a run; whatever is left of it is killed when the test is over."""
    made = []

    def make(**sections):
        made.append(FaultyRun(finished_run, tiny_sources, tmp_path, **sections))
        return made[-1]

    yield make
    for run in made:
        run.kill_all()
