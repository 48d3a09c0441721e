import dataclasses
import json
import math

import pyarrow.parquet as pq
import pytest

from rapid_dist.errors import ArtifactError, SpecError
from rapid_dist.storage.tables import table_bytes
from rapid_dist.tune.trials import TrialRow, best_row, by_score, read_trials, trials_table, without_times

from .example_rows import make_row, make_rows


def full_row():
    return make_row(
        3,
        status="stopped",
        rungs=((10, 0.25), (20, 0.5)),
        step=20,
        steps=40,
        noise_multiplier=1.5,
        sample_rate=0.01,
        expected_batch_size=64.0,
        max_grad_norm=1.0,
        epsilon=0.75,
        attempts=2,
        seconds=12.5,
        reason="why",
    )


def test_a_row_survives_json_with_every_field_set():
    row = full_row()
    defaults = [f.name for f in dataclasses.fields(row) if getattr(row, f.name) == f.default]
    assert defaults == []  # or the round trip would not tell a lost field
    assert TrialRow.from_dict(json.loads(json.dumps(row.to_dict(), allow_nan=False))) == row


@pytest.mark.parametrize("rows", [[], [full_row()], make_rows(30)], ids=["none", "one", "thirty"])
def test_rows_survive_parquet(rows):
    assert read_trials(trials_table(rows)) == rows


def test_a_table_of_rows_without_times_has_no_column_of_seconds(tmp_path):
    rows = without_times([full_row(), *make_rows(2)])
    (tmp_path / "trials.parquet").write_bytes(trials_table(rows))
    assert "seconds" not in pq.read_schema(tmp_path / "trials.parquet").names
    assert read_trials(trials_table(rows)) == rows
    assert [dataclasses.replace(row, seconds=12.5) for row in rows[:1]] == [full_row()]


def test_each_dotted_key_is_a_column_with_nulls_where_absent(tmp_path):
    rows = [
        make_row(0, proposal={"a.x": 1, "a.on": True}),
        make_row(1, proposal={"a.x": 2.5, "b.kind": "linear"}),
    ]
    (tmp_path / "trials.parquet").write_bytes(trials_table(rows))
    columns = pq.read_table(tmp_path / "trials.parquet").to_pydict()
    assert columns["a.x"] == [1.0, 2.5]
    assert columns["a.on"] == [True, None]
    assert columns["b.kind"] == [None, "linear"]
    assert columns["epsilon"] == [None, None]


def test_settings_of_mixed_kinds_and_lists_keep_value_and_type():
    proposals = [{"a.x": v} for v in (1, "auto", True, None, [0.5, 0.5])] + [{}]
    rows = [make_row(i, proposal=p) for i, p in enumerate(proposals)]
    read = [row.proposal for row in read_trials(trials_table(rows))]
    assert read == proposals
    assert [type(p.get("a.x")) for p in read] == [type(p.get("a.x")) for p in proposals]


def test_a_setting_named_like_a_fixed_column_is_refused():
    with pytest.raises(SpecError, match="'score' is named like a fixed column"):
        trials_table([make_row(proposal={"score": 1})])


@pytest.mark.parametrize("data", [b"", b"no table", table_bytes({})], ids=["empty", "text", "other table"])
def test_what_is_no_table_of_trials_is_refused(data):
    with pytest.raises(ArtifactError, match="not a table of trials"):
        read_trials(data)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_counts_as_not_measured(score):
    row = make_row(score=score, rungs=((1, 0.5), (2, score)))
    assert row.score is None
    assert row.rungs == ((1, 0.5),)
    assert "Infinity" not in json.dumps(row.to_dict())
    assert best_row([row]) is None


@pytest.mark.parametrize(
    "changes", [{"epsilon": math.inf}, {"noise_multiplier": math.nan}, {"proposal": {"a.x": math.inf}}]
)
def test_an_infinite_cost_or_setting_is_refused(changes):
    with pytest.raises(SpecError, match="expected a finite number"):
        make_row(**changes)


def test_an_unknown_status_or_key_is_refused():
    with pytest.raises(SpecError, match="status of t0000 is 'done'"):
        make_row(status="done")
    with pytest.raises(SpecError, match="colour"):
        TrialRow.from_dict({**make_row().to_dict(), "colour": "red"})
    with pytest.raises(SpecError, match="proposal"):
        TrialRow.from_dict({"trial": "t0000", "status": "failed"})


def test_the_best_is_the_highest_finished_score_and_the_earliest_of_equals():
    rows = [
        make_row(0, score=None),
        make_row(1, score=0.6),
        make_row(2, score=0.9, status="stopped"),
        make_row(3, score=0.95, status="failed"),
        make_row(4, score=0.7),
        make_row(5, score=0.7),
    ]
    assert best_row(rows).trial == "t0004"
    assert best_row(rows[2:4]) is None
    assert best_row([]) is None


def test_order_is_finished_by_score_then_others_by_score_then_unscored():
    rows = [
        make_row(0, score=None, status="failed"),
        make_row(1, score=-3.0),
        make_row(2, score=0.9, status="stopped"),
        make_row(3, score=-1.0),
        make_row(4, score=-3.0),
        make_row(5, score=0.1, status="running"),
    ]
    assert [row.trial for row in by_score(rows)] == ["t0003", "t0001", "t0004", "t0002", "t0005", "t0000"]
