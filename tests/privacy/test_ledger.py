import errno
import json
import os

import pytest

from rapid_dist.errors import BudgetExceededError, PrivacyError, SpecError, StorageError
from rapid_dist.privacy.accounting import epsilon_pld
from rapid_dist.privacy.charges import Charge
from rapid_dist.privacy.ledger import Ledger, join_ledger, open_ledger, read_ledger
from rapid_dist.storage.store import Store

TARGET = {"target_epsilon": 1.0, "target_delta": 1e-5}


def steps(num_steps: int, **changes) -> Charge:
    values = {"mechanism": "poisson_gaussian", "noise_multiplier": 4.0, "sample_rate": 0.05, "purpose": "training"}
    return Charge(num_steps=num_steps, **{**values, **changes})


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "ledger")


@pytest.fixture
def ledger(store) -> Ledger:
    """One attempt, two charges: entries 0 to 3."""
    ledger = open_ledger(store, **TARGET)
    attempt = ledger.begin_attempt({"noise_multiplier": 4.0, "sample_rate": 0.05})
    ledger.charge(steps(10), attempt=attempt, first_step=0)
    ledger.charge(steps(20), attempt=attempt, first_step=10)
    return ledger


def files(store: Store) -> dict[str, bytes]:
    return {name: store.read_bytes(name) for name in store.list_files()}


def test_an_empty_folder_becomes_a_ledger_that_has_spent_nothing(store):
    ledger = open_ledger(store, **TARGET)
    assert ledger.spent_epsilon() == 0
    assert ledger.spent_steps == 0
    assert ledger.target == {**TARGET, "neighboring_relation": "add_or_remove_one", "unit": "example"}
    assert store.list_files() == ["000000.json"]


def test_entries_are_one_canonical_json_file_each(ledger, store):
    entries = [json.loads(data) for data in files(store).values()]
    assert list(files(store)) == [f"00000{i}.json" for i in range(4)]
    assert [e["kind"] for e in entries] == ["open", "attempt", "charge", "charge"]
    assert [e["previous_digest"] for e in entries[1:]] == [e["digest"] for e in entries[:-1]]
    assert entries[3]["body"] == {"attempt": 1, "first_step": 10, "charge": steps(20).to_dict()}


def test_epsilon_is_that_of_all_charges_of_all_attempts(ledger, store):
    attempt = ledger.begin_attempt({})
    ledger.charge(steps(5), attempt=attempt, first_step=10)
    assert attempt == 2
    assert ledger.spent_steps == 35
    assert ledger.spent_epsilon() == epsilon_pld([steps(35)], 1e-5)
    assert read_ledger(store).spent_epsilon() == ledger.spent_epsilon()


def test_spent_epsilon_never_decreases_after_restart(store):
    spent = [0.0]
    for restart in range(4):
        ledger = open_ledger(store, **TARGET)
        assert ledger.spent_epsilon() == spent[-1]
        attempt = ledger.begin_attempt({})
        assert attempt == restart + 1
        ledger.charge(steps(10), attempt=attempt, first_step=0)
        spent.append(ledger.spent_epsilon())
    assert spent == sorted(set(spent))


@pytest.mark.parametrize(
    "change", [{"target_epsilon": 2.0}, {"target_delta": 1e-6}, {"unit": "person"}, {"target_epsilon": 0.5}]
)
def test_another_target_is_refused(ledger, store, change):
    with pytest.raises(PrivacyError, match="another folder"):
        open_ledger(store, **{**TARGET, **change})


@pytest.mark.parametrize(
    "change",
    [{"target_epsilon": 0}, {"target_delta": 1}, {"neighboring_relation": "replace_one"}, {"unit": ""}],
)
def test_an_impossible_target_is_refused_and_leaves_nothing(store, change):
    with pytest.raises(PrivacyError):
        open_ledger(store, **{**TARGET, **change})
    assert store.list_files() == []


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    "tamper",
    [
        lambda text: text.replace(b'"request":"', b'"request":"0'),
        lambda text: text + b" ",
        lambda text: text[:-5],
        lambda text: b"",
        lambda text: b"[]",
        lambda text: text.replace(b":", b": "),
    ],
)
def test_an_altered_entry_is_detected(ledger, store, index, tamper):
    name = f"00000{index}.json"
    store.write_bytes(name, tamper(store.read_bytes(name)))
    for look in (lambda: open_ledger(store, **TARGET), lambda: read_ledger(store)):
        with pytest.raises(PrivacyError):
            look()


def test_a_charge_made_smaller_is_detected_even_with_its_own_digest_made_right(ledger, store):
    from rapid_dist.privacy.ledger_file import _with_digest

    fields = json.loads(store.read_bytes("000002.json"))
    del fields["digest"]
    fields["body"]["charge"]["num_steps"] = 1
    store.write_bytes("000002.json", _with_digest(fields))
    with pytest.raises(PrivacyError, match="does not follow"):
        read_ledger(store)


@pytest.mark.parametrize("index", range(3))
def test_a_missing_entry_is_detected(ledger, store, index):
    store.delete(f"00000{index}.json")
    with pytest.raises(PrivacyError, match="missing"):
        open_ledger(store, **TARGET)


def test_entries_in_another_order_are_detected(ledger, store):
    second, third = store.read_bytes("000002.json"), store.read_bytes("000003.json")
    store.write_bytes("000002.json", third)
    store.write_bytes("000003.json", second)
    with pytest.raises(PrivacyError):
        read_ledger(store)


def test_a_cut_tail_is_detected_by_who_has_seen_it(ledger, store):
    head = ledger.head
    assert open_ledger(store, **TARGET, must_contain=head).head == head
    store.delete("000003.json")
    with pytest.raises(PrivacyError, match="now has 3"):
        ledger.spent_epsilon()
    with pytest.raises(PrivacyError, match="cut or swapped"):
        open_ledger(store, **TARGET, must_contain=head)


def test_a_ledger_swapped_for_another_is_detected_by_who_has_seen_it(ledger, store, tmp_path):
    other = Store(tmp_path / "other")
    fresh = open_ledger(other, **TARGET)
    fresh.begin_attempt({})
    fresh.charge(steps(1), attempt=1)
    fresh.charge(steps(1), attempt=1)
    for name, data in files(other).items():
        store.write_bytes(name, data)
    with pytest.raises(PrivacyError, match="changed after"):
        ledger.charge(steps(1), attempt=1)


def test_a_foreign_file_is_refused_and_leftovers_of_a_crash_are_not(ledger, store):
    store.write_bytes(".tmp-123", b"half a write")
    assert read_ledger(store).spent_steps == 30
    store.write_bytes("notes.txt", b"?")
    with pytest.raises(PrivacyError):
        read_ledger(store)


def test_a_charge_over_the_budget_is_refused_and_leaves_the_ledger_unchanged(ledger, store):
    before, spent = files(store), ledger.spent_epsilon()
    with pytest.raises(BudgetExceededError, match="nothing was charged"):
        ledger.charge(steps(100_000), attempt=1, first_step=30)
    assert files(store) == before
    assert ledger.spent_epsilon() == spent
    ledger.charge(steps(1), attempt=1, first_step=30)


def test_the_budget_holds_across_attempts_and_kinds_of_charges(store):
    ledger = open_ledger(store, **TARGET)
    n = ledger.affordable_steps(steps(1), 1000)
    ledger.charge(steps(n), attempt=ledger.begin_attempt({}), first_step=0)
    attempt = ledger.begin_attempt({})
    for charge in (steps(1), steps(1, mechanism="gaussian", sample_rate=1.0, noise_multiplier=5.0)):
        with pytest.raises(BudgetExceededError):
            ledger.charge(charge, attempt=attempt)


def test_affordable_steps_is_the_largest_number_that_fits(ledger):
    n = ledger.affordable_steps(steps(1), 1000)
    assert epsilon_pld([steps(30 + n)], 1e-5) <= 1.0 < epsilon_pld([steps(30 + n + 1)], 1e-5)
    assert ledger.affordable_steps(steps(1), n + 1) == n
    assert ledger.affordable_steps(steps(7), n) == n
    assert ledger.affordable_steps(steps(1), 3) == 3
    assert ledger.affordable_steps(steps(1), 0) == 0
    assert ledger.affordable_steps(steps(1), -1) == 0
    assert ledger.affordable_steps(steps(1, noise_multiplier=0.5), 5) == 0


def test_what_is_known_to_fit_covers_parts_of_itself_only(ledger, monkeypatch):
    n = ledger.affordable_steps(steps(1), 100)
    monkeypatch.setattr("rapid_dist.privacy.calibration.epsilon_pld", lambda *a, **k: 99.0)
    monkeypatch.setattr("rapid_dist.privacy.calibration.is_within", lambda *a, **k: False)
    for first in range(30, 30 + n, 10):
        ledger.charge(steps(10), attempt=1, first_step=first)
    with pytest.raises(BudgetExceededError):
        ledger.charge(steps(1), attempt=1, first_step=30 + n)
    with pytest.raises(BudgetExceededError):
        ledger.charge(steps(1, noise_multiplier=3.9), attempt=1)


def test_an_attempt_must_be_begun_before_it_is_charged(ledger, store):
    before = files(store)
    for attempt in (0, 2, -1, True, 1.0):
        with pytest.raises(PrivacyError):
            ledger.charge(steps(1), attempt=attempt)
    assert files(store) == before


@pytest.mark.parametrize(("first_step", "num_steps"), [(0, 1), (5, 100), (29, 1), (10, 20), (0, 30)])
def test_noise_of_a_step_is_not_paid_twice_in_one_attempt(ledger, first_step, num_steps):
    """The same address with another batch would give the same noise: the difference has none."""
    with pytest.raises(PrivacyError, match="begin a new attempt"):
        ledger.charge(steps(num_steps), attempt=1, first_step=first_step)
    ledger.charge(steps(1), attempt=1, first_step=30)
    ledger.charge(steps(1, purpose="votes"), attempt=1, first_step=0)
    ledger.charge(steps(num_steps), attempt=ledger.begin_attempt({}), first_step=first_step)


@pytest.mark.parametrize("first_step", [-1, 1.5, True])
def test_first_steps_outside_their_range_are_refused(ledger, store, first_step):
    before = files(store)
    with pytest.raises(PrivacyError):
        ledger.charge(steps(1, purpose="other"), attempt=1, first_step=first_step)
    assert files(store) == before


def test_entries_of_a_second_process_count_for_the_first(ledger, store):
    open_ledger(store, **TARGET).charge(steps(300), attempt=1, first_step=100)
    assert ledger.spent_epsilon() == epsilon_pld([steps(330)], 1e-5)
    n = ledger.affordable_steps(steps(1), 1000)
    with pytest.raises(BudgetExceededError):
        ledger.charge(steps(n + 1), attempt=1)


def let_a_rival_go_first(monkeypatch, act):
    """The next entry that anyone writes comes after act() has written its own."""
    real = Store.create_exclusive

    def rival_first(self, relative, data):
        monkeypatch.setattr(Store, "create_exclusive", real)
        act()
        return real(self, relative, data)

    monkeypatch.setattr(Store, "create_exclusive", rival_first)


def test_of_two_writers_at_once_one_wins_and_the_other_looks_again_and_follows(ledger, store, monkeypatch):
    rival = open_ledger(store, **TARGET)
    let_a_rival_go_first(monkeypatch, lambda: rival.charge(steps(3), attempt=1, first_step=50))
    ledger.charge(steps(4), attempt=1, first_step=60)
    assert [c.num_steps for c in read_ledger(store).charges] == [10, 20, 3, 4]
    assert ledger.spent_epsilon() == rival.spent_epsilon() == epsilon_pld([steps(37)], 1e-5)


def test_two_writers_at_once_cannot_overspend(ledger, store, monkeypatch):
    rival = open_ledger(store, **TARGET)
    n = ledger.affordable_steps(steps(1), 1000)
    let_a_rival_go_first(monkeypatch, lambda: rival.charge(steps(n), attempt=1, first_step=100))
    with pytest.raises(BudgetExceededError):
        ledger.charge(steps(1), attempt=1, first_step=5000)
    assert read_ledger(store).spent_epsilon() <= 1.0


def test_a_block_shrinks_to_what_a_quicker_writer_left(ledger, store, monkeypatch):
    rival = open_ledger(store, **TARGET)
    n = ledger.affordable_steps(steps(1), 1000)
    let_a_rival_go_first(monkeypatch, lambda: rival.charge(steps(n - 2), attempt=1, first_step=100))
    paid = ledger.charge_up_to(steps(1), 20, attempt=1, first_step=5000)
    assert paid.steps == range(5000, 5002)
    assert ledger.charge_up_to(steps(1), 20, attempt=1, first_step=6000) is None
    assert read_ledger(store).spent_epsilon() <= 1.0


def test_of_two_that_open_a_dataset_at_once_the_first_sets_the_budget(store, monkeypatch):
    let_a_rival_go_first(monkeypatch, lambda: open_ledger(store, target_epsilon=0.5, target_delta=1e-5))
    joined = join_ledger(store, **TARGET)
    assert joined.target["target_epsilon"] == 0.5
    assert store.list_files() == ["000000.json"]


def test_a_lost_answer_for_the_very_same_entry_counts_as_success(ledger, store, monkeypatch):
    real = Store.create_exclusive

    def write_but_answer_as_a_retry_would(self, relative, data):
        assert real(self, relative, data)
        return False

    monkeypatch.setattr(Store, "create_exclusive", write_but_answer_as_a_retry_would)
    ledger.charge(steps(3), attempt=1, first_step=30)
    assert ledger.spent_steps == 33
    assert read_ledger(store).spent_steps == 33


def test_equal_charges_of_two_writers_are_two_entries(store):
    first, second = open_ledger(store, **TARGET), open_ledger(store, **TARGET)
    first.begin_attempt({})
    for ledger in (first, second):
        ledger.charge(steps(10), attempt=1)
    assert first.spent_epsilon() == epsilon_pld([steps(20)], 1e-5)


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_full_disk_raises_and_counts_nothing_as_charged(ledger, store, monkeypatch, call):
    before, spent = files(store), ledger.spent_epsilon()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageError, match="no space left"):
            ledger.charge(steps(10), attempt=1, first_step=30)
        with pytest.raises(StorageError):
            ledger.begin_attempt({})
    assert files(store) == before
    assert ledger.spent_epsilon() == spent
    ledger.charge(steps(10), attempt=1, first_step=30)
    assert ledger.spent_steps == 40


def test_a_write_that_fails_after_the_fact_is_counted_and_never_forgotten(ledger, store, monkeypatch):
    real = Store.create_exclusive

    def write_then_fail(self, relative, data):
        real(self, relative, data)
        raise StorageError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "create_exclusive", write_then_fail)
        with pytest.raises(StorageError):
            ledger.charge(steps(10), attempt=1, first_step=30)
    assert ledger.spent_epsilon() == epsilon_pld([steps(40)], 1e-5)
    with pytest.raises(PrivacyError, match="begin a new attempt"):
        ledger.charge(steps(10), attempt=1, first_step=30)


def test_a_read_only_ledger_does_not_write(ledger, store):
    reader, before = read_ledger(store), files(store)
    with pytest.raises(PrivacyError):
        reader.charge(steps(1), attempt=1)
    with pytest.raises(PrivacyError):
        reader.begin_attempt({})
    assert files(store) == before


def test_a_folder_without_a_ledger_is_not_read_as_nothing_spent(store):
    with pytest.raises(PrivacyError):
        read_ledger(store)


@pytest.mark.parametrize("plan", [{"a": float("nan")}, {"a": object()}])
def test_a_plan_that_is_not_plain_json_is_refused(ledger, store, plan):
    before = files(store)
    with pytest.raises(SpecError):
        ledger.begin_attempt(plan)
    assert files(store) == before


def test_plans_are_kept(ledger, store):
    ledger.begin_attempt({"steps": (1, 2)})
    assert read_ledger(store).attempts == ({"noise_multiplier": 4.0, "sample_rate": 0.05}, {"steps": [1, 2]})


def test_entries_tell_the_time_to_the_hour_only(ledger, store):
    """Finer times would tell how long a block of private batches took."""
    for data in files(store).values():
        date, hour = json.loads(data)["written_at"].split("T")
        assert len(date) == 10
        assert len(hour) == 3
