"""A whole run whose sources and artefacts lie on S3."""

import json
import os
import subprocess
import sys

import pytest

from rapid_dist import layout
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.storage.store import Store
from tests.tiny import tiny_settings, write_spec


@pytest.mark.slow
def test_a_run_from_s3_to_s3_leaves_a_report_and_a_ledger_and_no_secret(s3, tiny_sources, tmp_path):
    for name in ("private", "public", "test"):
        with open(getattr(tiny_sources, name), "rb") as f:
            Store(f"{s3}/sources").write_bytes(f"{name}.npz", f.read())
    settings = tiny_settings(tiny_sources, runtime={"num_workers": 1})
    settings["data"] |= {name: f"{s3}/sources/{name}.npz" for name in ("private", "public", "test")}
    command = [sys.executable, "-m", "rapid_dist", "run", str(write_spec(tmp_path / "s.yaml", settings))]
    command += ["--out", f"{s3}/run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    run = Store(f"{s3}/run")
    paid = read_ledger(run.child(f"{layout.PRIVATE_IMAGES}/{layout.LEDGER}"))
    assert report["spent_epsilon"] == pytest.approx(paid.spent_epsilon())
    assert run.exists("evaluation/grid.png")
    assert "never-shown" not in done.stdout + done.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=100, env=dict(os.environ))
    assert all(stage["skipped"] for stage in json.loads(again.stdout.splitlines()[-1])["stages"])
