"""Ctrl-C in the middle of private training, and the same line again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rapid_dist import layout
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from tests.tiny import tiny_settings, write_spec

STEPS, BLOCK, SPARE = 600, 20, 60
MARK = "RAPID_DIST_TEST_MARK"
PATIENCE_SECONDS = 300


@pytest.fixture
def command(finished_run, tiny_sources, tmp_path):
    """The command line of a longer run whose public stages are already done, with their copies in its folder."""
    out = tmp_path / "out"
    for folder in (layout.PUBLIC_IMAGES, layout.PRIVATE_IMAGES, layout.TEST_IMAGES, layout.PRETRAIN):
        shutil.copytree(finished_run.store(folder).uri, out / folder)
    shutil.rmtree(out / layout.PRIVATE_IMAGES / layout.LEDGER)  # its budget is spent
    settings = tiny_settings(
        tiny_sources,
        schedule={"split_step": 100},  # no retrieval: fewer stages
        privacy={"votes_noise_multiplier": None, "spare_steps": SPARE},
        training={"steps": STEPS, "objective": "denoise", "class_init": "distinct", "checkpoint_every": BLOCK},
        sampling={"starts": "nearest", "num_samples": 20},
        runtime={"num_workers": 1},
    )
    spec = write_spec(tmp_path / "spec.yaml", settings)
    return [sys.executable, "-m", "rapid_dist", "run", str(spec), "--out", str(out)]


def start(command, mark):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        command,
        env={**environment, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def marked_processes(mark):
    """Command lines of the processes that carry the mark in their environment, and are not zombies."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
            except OSError:
                continue
    return found


def wait_until(condition, process=None):
    """Looks again until the condition holds; gives up when the process ends or patience does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_an_interrupted_run_ends_cleanly_and_the_same_line_finishes_it_paying_for_both(command, tmp_path):
    out, ledger = tmp_path / "out", Store(tmp_path / "out" / layout.PRIVATE_IMAGES / layout.LEDGER)
    first = start(command, "first")
    try:
        wait_until(lambda: list((out / layout.TRAIN / "checkpoints").glob("*.json")), first)
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does: to the whole group
        _, said = first.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if first.poll() is None:
            first.kill()
    lines = said.strip().splitlines()
    assert first.returncode == 130, said
    assert lines[-1] == "rapid-dist: interrupted; run the same line again to resume"
    assert "Traceback" not in said
    wait_until(lambda: marked_processes("first") == [])
    entries, before = ledger_files(ledger), read_ledger(ledger)
    spent, steps = before.spent_epsilon(), before.spent_steps
    assert 0 < steps < STEPS
    assert read_manifest(Store(out / layout.TRAIN)) is None

    second = start(command, "second")
    try:
        _, said = second.communicate(timeout=PATIENCE_SECONDS)
    finally:
        if second.poll() is None:
            second.kill()
    assert second.returncode == 0, said
    after = read_ledger(ledger)
    # The first attempt's entries stand, byte for byte; the second paid for what was left of the steps.
    assert dict(list(ledger_files(ledger).items())[: len(entries)]) == entries
    assert len(after.attempts) == 2
    assert STEPS <= after.spent_steps <= STEPS + BLOCK
    assert spent < after.spent_epsilon() <= 8
    manifest = read_manifest(Store(out / layout.TRAIN))
    assert manifest.facts["steps"] == STEPS
    assert manifest.facts["completed"]
    assert manifest.facts["statement"]["epsilon"] == pytest.approx(after.spent_epsilon(), rel=1e-9)
    wait_until(lambda: marked_processes("second") == [])


def ledger_files(ledger):
    return {name: ledger.read_bytes(name) for name in ledger.list_files()}
