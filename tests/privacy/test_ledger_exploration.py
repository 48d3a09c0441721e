"""The ledger protocol explored: two writers and a crash, a lost answer or a repeated request at every storage call.

In no history is a release uncounted, a budget overspent, or the chain unverifiable.
"""

from __future__ import annotations

import pytest

from rapid_dist.errors import BudgetExceededError, PrivacyError, StorageError
from rapid_dist.privacy import ledger_file as ledger_chain
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import Ledger, join_ledger, open_ledger, read_ledger
from tests.privacy.ledger_world import Choices, Crashed, FinalStore, World, all_histories, random_choices

DELTA, BLOCK = 1e-3, 2
ALLOWED_ENDS = (Crashed, StorageError, PrivacyError, BudgetExceededError)


def steps(num_steps: int) -> Charge:
    return Charge(
        mechanism="poisson_gaussian", noise_multiplier=1.0, sample_rate=0.2, num_steps=num_steps, purpose="training"
    )


BUDGET = {"target_epsilon": epsilon_pld([steps(3 * BLOCK)], DELTA) + 1e-6, "target_delta": DELTA}  # three blocks
JOB = {"target_epsilon": epsilon_pld([steps(2 * BLOCK)], DELTA) + 1e-6, "target_delta": DELTA}  # two of them


class Releases:
    """What left the mechanism: the receipts of charges that returned, noted where the noise would be drawn."""

    def __init__(self):
        self.receipts = []

    def trainer(self, name: str, num_blocks: int):
        """The program of a job that joins and releases its blocks one by one."""

        def program(store) -> None:
            ledger = join_ledger(store, **BUDGET)
            self._release(ledger, name, ledger.begin_attempt(JOB, job=name), num_blocks)

        return program

    def begun_trainer(self, name: str, num_blocks: int, *, attempt: int):
        """As trainer, but past joining and beginning: every storage call is one of a charge."""

        def program(store) -> None:
            ledger = Ledger(store, is_read_only=False)
            ledger._chain.entries = OPENED_ENTRIES
            self._release(ledger, name, attempt, num_blocks)

        return program

    def _release(self, ledger: Ledger, name: str, attempt: int, num_blocks: int) -> None:
        for block in range(num_blocks):
            paid = ledger.charge(steps(BLOCK), attempt=attempt, first_step=block * BLOCK)
            self.receipts.append((name, paid))

    def fitting_trainer(self, name: str, num_blocks: int):
        """As trainer, but taking what still fits, as training does."""

        def program(store) -> None:
            ledger, step = join_ledger(store, **BUDGET), 0
            attempt = ledger.begin_attempt(JOB, job=name)
            for _ in range(num_blocks):
                paid = ledger.charge_up_to(steps(1), BLOCK, attempt=attempt, first_step=step)
                if paid is None:
                    return
                self.receipts.append((name, paid))
                step += len(paid.steps)

        return program


def check(world: World, releases: Releases, ends: dict[str, BaseException | None]) -> None:
    """What must hold after any history."""
    for end in ends.values():
        assert end is None or isinstance(end, ALLOWED_ENDS), repr(end)
    if not world.files:
        assert not releases.receipts
        return
    ledger = read_ledger(FinalStore(world.files))  # raises when the chain is not whole
    written = {(body["attempt"], body["first_step"]): body["charge"] for body in ledger._bodies("charge")}
    for name, paid in releases.receipts:
        assert Charge.from_dict(written[(paid.attempt, paid.first_step)]) == paid.charge
        assert paid.charge in ledger.charges_of(name)
        ledger.require_entry(paid.entry)
    released = [(paid.attempt, step) for _, paid in releases.receipts for step in paid.steps]
    assert len(set(released)) == len(released)
    assert sum(len(paid.steps) for _, paid in releases.receipts) <= ledger.spent_steps
    assert ledger.spent_epsilon() <= BUDGET["target_epsilon"]
    for job in ledger.jobs:
        assert epsilon_pld(ledger.charges_of(job), DELTA) <= JOB["target_epsilon"]
    # Whoever comes next can go on: the folder never needs a repair by hand.
    late = FinalStore(world.files)
    assert join_ledger(late, **BUDGET).begin_attempt(JOB, job="next") == len(ledger.attempts) + 1


def opened_ledger() -> tuple[dict[str, bytes], tuple]:
    """Files and entries of a ledger with an attempt of each of two jobs, nothing charged yet."""
    store = FinalStore({})
    ledger = open_ledger(store, **BUDGET)
    for job in ("a", "b"):
        ledger.begin_attempt(JOB, job=job)
    return {name: store.read_bytes(name) for name in store.list_files()}, ledger._chain.entries


OPENED_FILES, OPENED_ENTRIES = opened_ledger()


def two_jobs_that_charge(blocks_a: int, blocks_b: int, max_faults: int):
    def run(choices: Choices) -> None:
        releases, world = Releases(), World(choices, max_faults=max_faults)
        world.files.update(OPENED_FILES)
        programs = {
            "a": releases.begun_trainer("a", blocks_a, attempt=1),
            "b": releases.begun_trainer("b", blocks_b, attempt=2),
        }
        check(world, releases, world.run(programs))

    return run


def two_that_open_at_once(max_faults: int):
    def run(choices: Choices) -> None:
        world = World(choices, max_faults=max_faults)
        join = {name: lambda store: join_ledger(store, **BUDGET) and None for name in ("a", "b")}
        check(world, Releases(), world.run(join))

    return run


def long_history(seed: int) -> int:
    """Four jobs that want more than there is, restarts of those that ended badly, many faults; how many releases."""
    choices, wants_fault = random_choices(seed, fault_share=0.06)
    releases, world = Releases(), World(choices, max_faults=12, wants_fault=wants_fault)
    programs = {"a": releases.fitting_trainer("a", 2), "b": releases.trainer("b", 2)}
    for _ in range(3):
        ends = world.run(programs)
        check(world, releases, ends)
        programs = {name: releases.fitting_trainer(name, 2) for name, end in ends.items() if end is not None}
    return len(releases.receipts)


def count(histories) -> int:
    return sum(1 for _ in histories)


def test_every_history_of_two_charges_at_once_with_a_fault_keeps_the_ledger_right():
    assert count(all_histories(two_jobs_that_charge(1, 1, 1))) > 300


def test_every_history_of_two_that_open_a_dataset_at_once_with_a_fault_keeps_the_ledger_right():
    assert count(all_histories(two_that_open_at_once(1))) > 300


def test_long_histories_keep_the_ledger_right():
    assert sum(long_history(seed) for seed in range(300)) > 300


def middling_history(seed: int) -> None:
    """Two charges of each of two jobs at once, with up to three faults, drawn by seed."""
    choices, wants_fault = random_choices(seed, fault_share=0.15)
    releases, world = Releases(), World(choices, max_faults=3, wants_fault=wants_fault)
    world.files.update(OPENED_FILES)
    programs = {name: releases.begun_trainer(name, 2, attempt=i) for i, name in enumerate("ab", start=1)}
    check(world, releases, world.run(programs))


@pytest.mark.slow
def test_at_least_a_hundred_thousand_histories_keep_the_ledger_right():
    """Every history of the first three kinds, and further ones by seed."""
    counts = {
        "one charge each, up to two faults": count(all_histories(two_jobs_that_charge(1, 1, 2))),
        "opening at once, up to two faults": count(all_histories(two_that_open_at_once(2))),
        "two charges each, no fault": count(all_histories(two_jobs_that_charge(2, 2, 0))),
        "two charges each, up to three faults, by seed": sum(1 for seed in range(40_000) if not middling_history(seed)),
        "four jobs, restarts, up to twelve faults, by seed": sum(1 for seed in range(3_000) if long_history(seed) >= 0),
    }
    print(counts)
    assert sum(counts.values()) >= 100_000


PROTOCOL_BUGS = {
    "overwrites instead of creating": "overwrite",
    "believes that a place it did not get is its own": "believes",
    "checks the budget on what it saw at first": "stale",
}


@pytest.mark.parametrize("bug", PROTOCOL_BUGS.values(), ids=PROTOCOL_BUGS)
def test_a_broken_protocol_would_be_found(bug, monkeypatch):
    real_append = ledger_chain.Chain.append

    def overwrite(self, kind, make_body, request=None):
        self.refresh()
        entry = ledger_chain.make_entry(kind, make_body(), before=self.entries, request=request or "r")
        name = f"{len(self.entries):06d}.json"
        if not self.store.create_exclusive(name, entry.data):
            self.store._world.files[name] = entry.data
        self.entries = (*self.entries, entry)
        return entry

    def believes(self, kind, make_body, request=None):
        self.refresh()
        entry = ledger_chain.make_entry(kind, make_body(), before=self.entries, request=request or "r")
        self.store.create_exclusive(f"{len(self.entries):06d}.json", entry.data)
        self.entries = (*self.entries, entry)
        return entry

    def stale(self, kind, make_body, request=None):
        self.refresh()
        body = make_body()
        return real_append(self, kind, lambda: body, request)

    monkeypatch.setattr(
        ledger_chain.Chain, "append", {"overwrite": overwrite, "believes": believes, "stale": stale}[bug]
    )
    with pytest.raises((AssertionError, PrivacyError, KeyError)):
        for _ in all_histories(two_jobs_that_charge(2, 2, 0)):
            pass
