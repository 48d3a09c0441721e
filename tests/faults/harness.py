"""A training run in a process of its own, whose parts a test may kill, and what must hold when it is over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from rapid_dist import layout
from rapid_dist.diffusion.process import denoising_loss
from rapid_dist.privacy.accounting import check_agreement, compute_epsilon
from rapid_dist.privacy.keyed import RunKey
from rapid_dist.privacy.ledger import PaidSteps, read_ledger
from rapid_dist.privacy.plan import OneWorker, PrivacyPlan
from rapid_dist.specs import RunSpec, load_spec
from rapid_dist.storage.manifest import Manifest, read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import table_arrays
from rapid_dist.training.plan import build_plan, private_run
from rapid_dist.training.private import learning_rate_factor
from rapid_dist.training.private_data import load_private_inputs, make_private_batch, start_model
from rapid_dist.training.state import TrainState
from tests.tiny import tiny_settings, write_spec

MARK = "RAPID_DIST_FAULT_MARK"
PATIENCE_SECONDS = 400
FIXED_KEY = 7
ROOT = Path(__file__).parents[2]
WORKER, LEDGER_ACTOR = "RayTrainWorker", "_LedgerServer"


class FaultyRun:
    """`rapid-dist train` on a tiny run whose public stages are done; started, killed and started again by a test.

    The noise key is the debugging one, so that the final model can be compared with a legal run made afterwards.
    """

    command = "train"

    def __init__(self, finished_run: Any, sources: Any, folder: Path, **sections: Mapping[str, Any]):
        self.folder, self.out = folder, folder / "out"
        copied = (layout.PUBLIC_IMAGES, layout.PRIVATE_IMAGES, layout.PRETRAIN, layout.KNOWLEDGE_BASE)
        for name in copied:
            shutil.copytree(finished_run.store(name).uri, self.out / name)
        shutil.rmtree(self.out / layout.PRIVATE_IMAGES / layout.LEDGER)
        changed = {
            "privacy": {"spare_steps": 120, "debug_fixed_key": FIXED_KEY},
            "training": {"steps": 60, "checkpoint_every": 5},
            "runtime": {"num_workers": 2, "max_failures": 3},
        }
        for name, values in sections.items():
            changed[name] = {**changed.get(name, {}), **values}
        tune = changed.pop("tune", None)
        settings = tiny_settings(sources, **changed) | ({} if tune is None else {"tune": tune})
        self.spec_path = write_spec(folder / "spec.yaml", settings)
        self.images = Store(self.out / layout.PRIVATE_IMAGES)
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen | None = None
        self._num_starts = 0

    @property
    def ledger(self) -> Store:
        """The ledger of the run's private dataset."""
        return self.images.child(layout.LEDGER)

    @property
    def mark(self) -> str:
        return f"{self.folder.name}-{os.getpid()}-{self._num_starts}"

    def start(self, *overrides: str) -> None:
        """Starts the command with its settings overridden."""
        self._num_starts += 1
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        options = [argument for override in overrides for argument in ("--set", override)]
        command = [sys.executable, "-m", "rapid_dist", self.command, str(self.spec_path), "--out", str(self.out)]
        command += options
        self._process = subprocess.Popen(
            command,
            env={**kept, "PYTHONPATH": str(ROOT), **self.environment, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> tuple[int, str]:
        """Waits for the command; its exit code and what it said on stderr. Leaves none of its processes behind."""
        try:
            _, said = self._process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            self.kill_all()
        return self._process.returncode, said

    def kill_driver(self) -> None:
        """SIGKILL to the command itself; everything of its own Ray must then go too."""
        self._process.kill()
        self._process.communicate(timeout=PATIENCE_SECONDS)
        self.wait_until(lambda: not self.processes(), is_running=False)

    def kill_all(self) -> None:
        """SIGKILL to whatever is left of this start."""
        while pids := self.processes():
            for pid in pids:
                _kill(pid)

    def processes(self, title: str = "") -> list[int]:
        """Process ids of this start whose command line holds the title."""
        return sorted(pid for pid, line in _marked(self.mark) if title in line)

    def kill_one(self, title: str, rank: int = -1) -> bool:
        """SIGKILL to one process of that title; False when there is none just now."""
        pids = self.processes(title)
        if pids:
            _kill(pids[rank])
        return bool(pids)

    def wait_until(self, condition: Callable[[], Any], *, is_running: bool = True) -> None:
        """Looks again until the condition holds; fails when the command ends first or patience does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            assert not is_running or self._process.poll() is None, self._process.communicate()
            time.sleep(0.05)

    def wait_for_charges(self, at_least: int) -> None:
        """Waits until the ledger holds so many charges, by counting files besides its opening and first attempt."""
        self.wait_until(lambda: len(self.ledger.list_files()) >= at_least + 2)

    def spent(self) -> float:
        """Spent epsilon by the ledger as it is now, 0 before it exists."""
        return read_ledger(self.ledger).spent_epsilon() if self.ledger.list_files() else 0.0

    @property
    def spec(self) -> RunSpec:
        return load_spec(str(self.spec_path))

    @property
    def train_folder(self) -> Store:
        return Store(self.out / layout.TRAIN)

    def check_finished(self, *, at_least: float = 0.0) -> Manifest:
        """The finished run's ledger is verified, its epsilon covers every attempt, its model is that of a legal run."""
        manifest, plan = read_manifest(self.train_folder), build_plan(self.spec)
        paid = read_ledger(self.ledger)
        result = compute_epsilon(paid.charges, delta=plan.target_delta)
        check_agreement(result)
        assert manifest.facts["completed"]
        assert manifest.facts["statement"]["epsilon"] == result.pld == paid.spent_epsilon()
        assert at_least <= result.pld <= plan.target_epsilon
        last_entry = manifest.facts["statement"]["ledger_head"]
        paid.require_entry(last_entry)
        replayed = replay(self)
        weights = load_file(self.out / layout.TRAIN / "denoiser.safetensors")
        for name, values in replayed.items():
            np.testing.assert_allclose(weights[name], values, rtol=2e-4, atol=2e-6, err_msg=name)
        return manifest


def replay(run: FaultyRun) -> dict[str, np.ndarray]:
    """The averaged weights of one process that takes each step under the attempt whose result the run kept.

    An attempt that resumes at step f throws away what earlier attempts did from f on; nothing else may differ.
    """
    spec, plan = run.spec, build_plan(run.spec)
    attempt_of = _attempts_that_count(run, plan)
    assert sorted(attempt_of) == list(range(spec.training.steps))
    knowledge_base = Store(run.out / layout.KNOWLEDGE_BASE) if spec.uses_retrieval else None
    inputs = load_private_inputs(
        spec,
        images=run.images,
        pretrain=Store(run.out / layout.PRETRAIN),
        knowledge_base=knowledge_base,
        collective=OneWorker(),
        device="cpu",
    )
    votes = None
    if plan.votes_charge() is not None:
        data = run.train_folder.read_bytes("votes.parquet")
        votes = table_arrays(data, where="votes")["noisy_votes"]
    model = start_model(spec, inputs, votes)
    state = TrainState(model, learning_rate=spec.training.learning_rate, ema_decay=spec.training.ema_decay)
    key = RunKey.fixed_for_debugging(FIXED_KEY)
    for step in range(spec.training.steps):
        paid = PaidSteps(attempt=attempt_of[step], first_step=step, charge=plan.training_charge(1), entry="")
        (private_step,) = plan.private_steps(key, paid)
        batch = make_private_batch(
            inputs.partition,
            private_step.included(inputs.partition.example_id),
            private_run(spec, plan, inputs.models.alphas_cumprod, device="cpu"),
            step=step,
        )
        local_sum = private_step.clipped_sum(
            denoising_loss, model, batch.rows(), rows_per_example=batch.rows_per_example
        )
        state.set_gradients(private_step.release(local_sum, OneWorker()))
        state.apply(learning_rate_factor=learning_rate_factor(step, spec.training))
    return {name: tensor.detach().numpy() for name, tensor in state.averaged_weights().items()}


def _attempts_that_count(run: FaultyRun, plan: PrivacyPlan) -> dict[int, int]:
    chosen: dict[int, int] = {}
    began: set[int] = set()
    for body in read_ledger(run.ledger)._bodies("charge"):
        if body["charge"]["purpose"] != plan.training_charge(1).purpose:
            continue
        attempt, first = body["attempt"], body["first_step"]
        if attempt not in began:
            began.add(attempt)
            chosen = {step: a for step, a in chosen.items() if step < first}
        chosen |= dict.fromkeys(range(first, first + body["charge"]["num_steps"]), attempt)
    return chosen


def _marked(mark: str) -> list[tuple[int, str]]:
    """(pid, command line) of the living processes that carry the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                    found.append((int(folder.name), (folder / "cmdline").read_bytes().decode().replace("\0", " ")))
            except OSError:
                continue
    return [(pid, line) for pid, line in found if line]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


torch.set_num_threads(1)
