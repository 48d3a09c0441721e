"""What `import rapid_dist` gives: what is exported is what is promised, and nothing is loaded before it is used."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import rapid_dist as rd
from rapid_dist import errors, knowledge_base, privacy
from tests.contract.test_light_imports import HEAVY

PROMISED = {
    rd: """
        ArtifactError BudgetExceededError InputError PrivacyError RapidDistError Run RunPlan RunSpec SpecError
        StorageError __version__ knowledge_base load_spec privacy
    """,
    privacy: """
        Charge EpsilonResult Ledger LedgerView OneWorker PaidSteps PrivacyPlan RunKey add_noise_on_grid
        build_statement calibrate calibrate_noise_multiplier check_agreement check_network clip_factors
        clipped_gradient_sum compute_epsilon draw_gaussian epsilon grid_for join_ledger make_plan open_ledger
        read_ledger training_charge
    """,
    knowledge_base: "KnowledgeBase QueryResult open",
}
DOORS = pytest.mark.parametrize("door", PROMISED, ids=lambda door: door.__name__)


@DOORS
def test_what_is_exported_is_what_is_promised(door):
    assert door.__all__ == sorted(door.__all__, key=lambda name: (name[0] != name[0].upper() or name[0] == "_", name))
    assert set(door.__all__) == set(PROMISED[door].split())


@DOORS
def test_every_name_is_there_and_listed_and_documented(door):
    assert set(door.__all__) <= set(dir(door))
    for name in door.__all__:
        value = getattr(door, name)
        assert name == "__version__" or inspect.getdoc(value), name


@DOORS
def test_a_star_import_gives_the_promised_names(door):
    names: dict[str, object] = {}
    exec(f"from {door.__name__} import *", names)
    assert set(door.__all__) <= set(names)


@DOORS
def test_an_unknown_name_is_an_attribute_error(door):
    with pytest.raises(AttributeError, match=f"module '{door.__name__}' has no attribute 'no_such_name'"):
        door.no_such_name  # noqa: B018


def test_all_errors_of_the_tree_are_exported():
    assert {cls.__name__ for cls in errors._descendants(errors.RapidDistError)} <= set(rd.__all__)


@pytest.mark.parametrize(
    "line",
    ["dir(rd)", "rd.privacy, rd.knowledge_base, dir(rd.privacy)", "rd.SpecError", "rd.Run.plan, rd.load_spec"],
)
def test_looking_at_the_door_loads_nothing_heavy(line):
    code = f"import json, sys, rapid_dist as rd; {line}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    answer = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == []
