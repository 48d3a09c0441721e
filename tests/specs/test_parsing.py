from dataclasses import dataclass, field

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.specs.parsing import from_mapping, nearest_name, to_plain
from rapid_dist.storage.digest import differing_keys


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Outer:
    needed: str
    flag: bool = False
    maybe: int | None = None
    names: tuple[str, ...] = ()
    shares: tuple[float, ...] | None = None
    table: dict[int, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


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
        ({"names": "abc"}, "names is 'abc'; expected a list"),
        ({"names": [None]}, "names[0] is None"),
        ({"shares": [0.5, "half"]}, "shares[1] is 'half'"),
        ({"table": {"a": 1}}, "table is 'a'"),
        ({"table": {True: 1}}, "table is True"),
        ({"table": {2: 1.5}}, "table.2 is 1.5"),
        ({"table": [1, 2]}, "table is [1, 2]; expected a mapping"),
        ({"inner": 5}, "inner is int; expected a mapping"),
        ({"inner": [1]}, "inner is list; expected a mapping"),
    ],
)
def test_a_wrong_type_is_refused_with_its_full_name(values, named):
    with pytest.raises(SpecError) as caught:
        parse(**values)
    assert named in str(caught.value)


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
