import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from pydantic import Field, StrictBool, StrictInt, model_validator

from rapid_dist.errors import SpecError
from rapid_dist.specs.parsing import (
    Count,
    ListOf,
    Number,
    PositiveNumber,
    Section,
    check_value,
    from_mapping,
    nearest_name,
    require,
    settings,
    to_plain,
)
from rapid_dist.storage.digest import differing_keys


@settings("inner")
class Inner:
    rate: Number = Field(1.0, le=9, description="A rate.")
    scale: PositiveNumber | None = None
    count: Count = 1

    @model_validator(mode="after")
    def _check(self):
        require(self.count < self.rate + 100, f"inner.count is {self.count}; expected below rate + 100")
        return self


@settings("")
class Outer:
    needed: str = Field()
    flag: StrictBool = Field(False)
    maybe: StrictInt | None = Field(None)
    names: ListOf[str] = Field(())
    shares: ListOf[Number] | None = Field(None)
    table: dict[StrictInt, StrictInt] = Field(default_factory=dict)
    inner: Section[Inner] = Field(default_factory=Inner)


def parse(**values) -> Outer:
    return from_mapping(Outer, {"needed": "x", **values}, "")


def test_values_of_the_right_type_are_kept():
    spec = parse(flag=True, maybe=3, names=["a", "b"], shares=[1, 0.5], table={3: 1}, inner={"rate": 2, "count": 4})
    assert spec == Outer(
        needed="x",
        flag=True,
        maybe=3,
        names=("a", "b"),
        shares=(1.0, 0.5),
        table={3: 1},
        inner=Inner(rate=2.0, count=4),
    )
    assert [type(v) for v in spec.shares] == [float, float]
    assert type(spec.inner.rate) is float


def test_yaml_reads_1e_5_as_text_and_it_is_still_a_number():
    assert parse(inner={"rate": "1e-5"}).inner.rate == 1e-5


def test_a_number_is_taken_as_text_where_text_is_wanted():
    assert parse(names=[0, 1, 2.5]).names == ("0", "1", "2.5")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"inner": {"count": True}}, "inner.count is True"),
        ({"inner": {"count": 1.5}}, "inner.count is 1.5"),
        ({"inner": {"count": "3"}}, "inner.count is '3'"),
        ({"inner": {"count": None}}, "inner.count is None"),
        ({"inner": {"rate": True}}, "inner.rate is True"),
        ({"inner": {"rate": "fast"}}, "inner.rate is 'fast'"),
        ({"flag": 1}, "flag is 1"),
        ({"flag": "yes"}, "flag is 'yes'"),
        ({"needed": True}, "needed is True"),
        ({"needed": None}, "needed is None"),
        ({"maybe": "x"}, "maybe is 'x'"),
        ({"names": "abc"}, "names is 'abc' (str); expected a list"),
        ({"names": {"abc"}}, "names is {'abc'} (set); expected a list"),
        ({"names": [None]}, "names[0] is None"),
        ({"shares": [0.5, "half"]}, "shares[1] is 'half'"),
        ({"table": {"a": 1}}, "table is 'a'"),
        ({"table": {True: 1}}, "table is True"),
        ({"table": {2: 1.5}}, "table.2 is 1.5"),
        ({"table": [1, 2]}, "table is [1, 2] (list); expected a mapping"),
        ({"inner": 5}, "inner is int; expected a mapping"),
        ({"inner": [1]}, "inner is list; expected a mapping"),
    ],
)
def test_a_wrong_type_is_refused_with_its_full_name(values, named):
    with pytest.raises(SpecError) as caught:
        parse(**values)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 0}, "inner.count is 0; expected a whole number above 0"),
        ({"rate": 9.5}, "inner.rate is 9.5; expected a number at most 9; `rapid-dist spec --explain inner.rate`"),
        ({"rate": float("nan")}, "inner.rate is nan; expected a number at most 9"),
        ({"rate": float("inf")}, "inner.rate is inf; expected a number at most 9"),
        ({"scale": 0}, "inner.scale is 0.0; expected a number above 0, or null"),
        ({"count": 500}, "inner.count is 500; expected below rate + 100"),
        ({"cuont": 1}, "unknown key 'inner.cuont': did you mean 'count'?"),
    ],
)
def test_a_section_says_the_same_however_it_is_made(values, said):
    ways = (
        lambda: parse(inner=values),
        lambda: from_mapping(Inner, values, "inner"),
        lambda: Inner(**values),
        lambda: replace(Inner(), **values),
    )
    for make in ways:
        with pytest.raises(SpecError) as caught:
            make()
        assert str(caught.value).startswith(said)
        assert "\n" not in str(caught.value)


def test_of_several_faults_the_first_is_told_and_how_many_more_there_are():
    with pytest.raises(SpecError, match=r"^flag is 1 .* \(and 2 more faults\)$"):
        parse(flag=1, maybe="x", inner={"count": 0})


def test_a_misspelt_key_is_told_before_what_is_missing_for_it():
    with pytest.raises(SpecError, match=r"^unknown key 'neded': did you mean 'needed'\? \(and 1 more fault\)$"):
        from_mapping(Outer, {"neded": "x"}, "")
    with pytest.raises(SpecError, match="unknown key '7'"):
        from_mapping(Outer, {"needed": "x", 7: 1}, "")


def test_a_value_alone_is_checked_as_in_its_section():
    check_value(Inner, "rate", "1e-5", "x")
    check_value(Outer, "names", ["a", 1], "x")
    check_value(Inner, "scale", None, "x")
    for name, value in (("rate", True), ("rate", 10), ("count", 1.0), ("scale", -1)):
        with pytest.raises(SpecError, match=r"^x is "):
            check_value(Inner, name, value, "x")


def test_a_spec_is_frozen_and_travels():
    spec = parse(table={1: 2}, inner={"rate": 2})
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
    assert hash(spec.inner) == hash(Inner(rate=2.0))
    with pytest.raises(FrozenInstanceError):
        spec.inner.rate = 3.0


def test_an_absent_optional_value_stays_absent():
    assert parse(maybe=None, shares=None) == parse()


def test_an_empty_section_means_its_defaults():
    assert parse(inner=None).inner == Inner()


def test_an_unknown_key_names_the_nearest_known_one():
    with pytest.raises(SpecError, match=r"unknown key 'inner\.cuont': did you mean 'count'\?"):
        parse(inner={"cuont": 1})
    with pytest.raises(SpecError, match="unknown key 'zzz': known: needed, flag"):
        parse(zzz=1)


def test_a_missing_value_says_how_to_give_it():
    with pytest.raises(SpecError, match=r"run\.needed is missing.*--set run\.needed="):
        from_mapping(Outer, {}, "run")


def test_nearest_name_lists_all_when_none_is_near():
    assert nearest_name("qqq", ["alpha", "beta"]) == "known: alpha, beta"
    assert nearest_name("alhpa", ["alpha", "beta"]) == "did you mean 'alpha'?"


def test_plain_values_parse_back_to_the_same_spec():
    spec = parse(names=["a"], shares=[0.25], table={10: 1, 2: 0}, inner={"rate": 0.1})
    assert from_mapping(Outer, to_plain(spec), "") == spec


def test_differing_keys_names_changed_added_and_removed_values():
    old = {"a": {"x": 1, "y": 2, "gone": 3}, "b": [1, 2]}
    new = {"a": {"x": 1, "y": 5, "added": 4}, "b": [1, 3]}
    assert differing_keys(old, new) == [
        "a.y: 2 -> 5",
        "a.gone: 3 -> None",
        "a.added: None -> 4",
        "b: [1, 2] -> [1, 3]",
    ]
    assert differing_keys(old, old) == []
