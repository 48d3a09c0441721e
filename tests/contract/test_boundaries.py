"""Where a line may stand: ray only in runtime/ and tune/, no formula beside it, and nobody climbs to the stages."""

from __future__ import annotations

import ast

import pytest

from tests.contract.sources import FILES, PACKAGE, RAY_ROOMS, dotted, imported_modules, name_of, tree_of, violations

MATHS_MODULES = {"cmath", "hashlib", "math", "random", "scipy", "sklearn", "statistics"}
# Names of what computes on values rather than moves, counts or addresses them. Adding a name is always right.
MATHS_NAMES = """
abs acos add_noise affine_grid argmax argmin argsort asin atan average backward bernoulli beta bincount choice
clamp clip conv2d cos cosine_similarity cov cross_entropy cumprod cumsum det diff div dot einsum erf exp expm1
exponential fft floor_divide gamma grad histogram interp interpolate inv laplace lerp linalg log log10 log1p
log2 log_softmax logsumexp matmul mean median mm mse_loss mul multinomial multivariate_normal norm normal
normalize pairwise_distances percentile poisson pow prod quantile rand randint randn random relu round rsqrt
sigmoid sin softmax softplus sqrt square standard_normal std sub svd tan tanh uniform var vdot
"""
MATHS_CALLS = frozenset(MATHS_NAMES.split())


def ray_imports(tree: ast.AST) -> list[str]:
    return [m for m in imported_modules(tree) if m.split(".")[0] == "ray"]


def room_of(name: str) -> str:
    """The folder of a file of the package; the file itself where it stands at the top."""
    return name.split("/")[0]


def test_ray_is_imported_only_in_its_rooms():
    found = violations(FILES, ray_imports)
    assert {room_of(name) for name in found} == set(RAY_ROOMS), found


@pytest.mark.parametrize(
    "line", ["import ray", "def f():\n    import ray.data", "from ray import train", "import_module('ray.tune')"]
)
def test_an_import_of_ray_would_be_noticed(line):
    assert ray_imports(ast.parse(line))


def formulas(tree: ast.AST) -> list[str]:
    """What a file computes that it should only pass on, as `line: what`.

    A formula is: an import of a maths module, `**`, `@` or `/`, a floating-point number inside arithmetic, or a
    call whose last name is in MATHS_CALLS. Whole-number addressing (`part * size`, `id % count`) is none, nor is
    naming a search domain to Ray Tune (`tune.uniform(low, high)`), which draws nothing.
    """
    found = [f"0: import {m}" for m in imported_modules(tree) if m.split(".")[0] in MATHS_MODULES]
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.BinOp | ast.AugAssign):
            operands = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
            if isinstance(node.op, ast.Pow | ast.MatMult | ast.Div):
                found.append(f"{line}: {type(node.op).__name__}")
            found += [f"{line}: {o.value}" for o in operands if isinstance(getattr(o, "value", None), float)]
        elif isinstance(node, ast.Call) and _computes(dotted(node.func)):
            found.append(f"{line}: {dotted(node.func)}")
    return found


def _computes(name: str) -> bool:
    return name.split(".")[-1] in MATHS_CALLS and name.split(".")[0] != "tune"


def test_a_file_that_imports_ray_holds_no_formula():
    with_ray = [f for f in FILES if ray_imports(tree_of(f)) or room_of(name_of(f)) == "runtime"]
    assert violations(with_ray, formulas) == {}


# Who runs stages: the run itself, studies and commands. Everybody else is run by them.
MAY_IMPORT_STAGES = {"stages", "tune", "cli", "run.py", "__init__.py"}


def stage_imports(tree: ast.AST) -> list[str]:
    return [m for m in imported_modules(tree) if m.startswith("rapid_dist.stages")]


def test_nobody_but_the_run_studies_and_commands_imports_stages():
    assert {room_of(name) for name in violations(FILES, stage_imports)} <= MAY_IMPORT_STAGES


def test_an_import_of_a_stage_would_be_noticed():
    assert stage_imports(ast.parse("def f():\n    from rapid_dist.stages import train"))


# Privacy is for any trainer: it knows neither what is trained nor how a run is described.
PRIVACY_MAY_IMPORT = {"errors", "lazy", "privacy", "storage"}


def rooms_imported(tree: ast.AST) -> set[str]:
    """The rooms and files of the package that a file imports from."""
    return {m.split(".")[1] for m in imported_modules(tree) if m.startswith("rapid_dist.")}


def test_privacy_imports_no_diffusion_no_spec_and_no_trainer():
    found = violations(
        [f for f in FILES if room_of(name_of(f)) == "privacy"],
        lambda tree: sorted(rooms_imported(tree) - PRIVACY_MAY_IMPORT),
    )
    assert found == {}


@pytest.mark.parametrize("module", ["specs", "specs.run", "diffusion.process", "models.denoisers", "training.plan"])
def test_an_import_into_privacy_would_be_noticed(module):
    line = ast.parse(f"def f():\n    from rapid_dist.{module} import name")
    assert rooms_imported(line) - PRIVACY_MAY_IMPORT


@pytest.mark.parametrize(
    "formula",
    [
        "import math",
        "def f():\n    from scipy import stats",
        "x = torch.exp(y)",
        "x = y.square().sum()",
        "noise = rng.normal(0, 1, shape)",
        "x = y @ z",
        "x = y ** 2",
        "x = total / count",
        "x = y * 0.5",
        "x += 0.5",
    ],
)
def test_a_formula_would_be_noticed(formula):
    assert formulas(ast.parse(formula))


@pytest.mark.parametrize("addressing", ["x = part * size + 1", "n = -(-a // b)", "mine = ids % count == index"])
def test_whole_number_addressing_is_no_formula(addressing):
    assert formulas(ast.parse(addressing)) == []


# What draws for, clips for or pays for a private step, and the files that may name it.
PRIVATE_PRIMITIVES = {
    "draw_inclusion": {"privacy/inclusion.py", "privacy/plan.py"},
    "draw_gaussian": {"privacy/noise.py", "privacy/plan.py", "privacy/release.py"},
    "add_noise_on_grid": {"privacy/noise.py", "privacy/plan.py", "privacy/release.py"},
    "clipped_gradient_sum": {"privacy/clipping.py", "privacy/plan.py"},
    "PrivateStep": {"privacy/plan.py"},
}


# What a user of the library gets by name; it calls nothing, so it puts nothing together.
DOOR = "privacy/__init__.py"


def names_in(tree: ast.AST) -> set[str]:
    """Every identifier that a file uses, imports or reads off something."""
    found = set()
    for node in ast.walk(tree):
        found |= {getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "name", None)}
    return found - {None}


@pytest.mark.parametrize("name", PRIVATE_PRIMITIVES)
def test_only_the_plan_makes_a_private_step_and_only_the_step_draws_for_it(name):
    """So rate, clip, noise and charge come from one plan: nothing else can put a private step together."""
    users = {name_of(f) for f in FILES if name in names_in(tree_of(f))} - {DOOR}
    measured = {user for user in users if user.startswith(("bench/", "audit/"))}  # they measure, not release
    assert users - measured == PRIVATE_PRIMITIVES[name]


def test_the_door_of_privacy_calls_nothing_but_its_own_opening():
    calls = [node for node in ast.walk(tree_of(PACKAGE / DOOR)) if isinstance(node, ast.Call)]
    assert [dotted(call.func) for call in calls] == ["lazy_names"]


def test_only_the_ledger_issues_a_receipt():
    makers = {
        name_of(f)
        for f in FILES
        for node in ast.walk(tree_of(f))
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "PaidSteps"
    }
    assert makers == {"privacy/ledger.py"}


def test_every_folder_of_python_files_is_a_package():
    assert not [name_of(f.parent) for f in FILES if not (f.parent / "__init__.py").exists()]
    assert (PACKAGE / "__main__.py").exists()
