"""A comparison of methods: what it plans, what it makes once, and its table; two tiny runs on Ray."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rapid_dist.errors import SpecError
from rapid_dist.recipes import recipe_names
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.training.plan import statistics_noise
from rapid_dist.tune.compare import ComparedRow, comparison, run_comparison, table_lines
from tests.tiny import write_tiny_sources

PATHS = ["data.private=p", "data.public=q"]
ROW = ComparedRow(
    recipe="one",
    epsilon=1.0,
    seed=0,
    folder="one-eps-1-seed-0",
    spent_epsilon=0.991,
    delta=1e-5,
    accuracy=0.9,
    low=0.88,
    high=0.92,
    worst_class=0.7,
    fid=12.345,
    recall=0.5,
    real=0.99,
    public_only=None,
    minutes=3.0,
)


def test_every_recipe_is_a_whole_spec_within_its_epsilon():
    for row in comparison(recipe_names(), (0.5, 10.0), overrides=PATHS):
        assert row.spec.privacy.target_epsilon == row.epsilon
        assert row.spec.name == row.recipe


def test_a_seed_seeds_all_that_is_drawn_in_public():
    spec = comparison(("rapid",), (1.0,), seeds=(7,), overrides=PATHS)[0].spec
    assert {spec.pretrain.seed, spec.training.seed, spec.sampling.seed, spec.evaluation.seed} == {7}


@pytest.mark.parametrize(
    ("recipes", "epsilons", "seeds"),
    [(("rapid", "rapid"), (1,), (0,)), (("rapid",), (1, 1), (0,)), (("rapid",), (), (0,))],
)
def test_what_is_named_twice_or_not_at_all_is_refused(recipes, epsilons, seeds):
    with pytest.raises(SpecError, match="each once"):
        comparison(recipes, epsilons, seeds=seeds, overrides=PATHS)


def test_the_table_has_the_best_of_each_epsilon_first_and_the_price_of_all():
    rows = [
        ROW,
        replace(ROW, recipe="two", accuracy=0.95),
        replace(ROW, recipe="three", epsilon=0.2, accuracy=None, low=None),
    ]
    lines = table_lines(rows)
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["three", "two", "one"]
    assert "| 95.0% (88.0 to 92.0) | 70.0% | 12.3 | 0.5 | 3.0 |" in lines[3]
    assert any("epsilon 2.98 at delta 3e-05" in line for line in lines)  # 3 x 0.991, rounded up


@pytest.fixture(scope="module")
def compared(ray_cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    sources = write_tiny_sources(folder)
    overrides = [
        f"data.private={sources.private}",
        f"data.public={sources.public}",
        f"data.test={sources.test}",
        "data.num_classes=4",
        "privacy.nominal_size=128",
        "autoencoder.latent_dim=4",
        "autoencoder.steps=2",
        "autoencoder.width=4",
        "sampling.num_samples=24",
        "evaluation.classifier_epochs=1",
    ]
    late = ["training.steps=4", "training.warm_up_steps=3", "training.checkpoint_every=2", "privacy.sample_rate=0.2"]
    rows = (
        *comparison(("statistics",), (1.0,), overrides=overrides),
        *comparison(("rapid-statistics",), (5.0,), overrides=[*overrides, *late, "sampling.num_steps=4"]),
    )
    out = Store(folder / "out")
    return rows, out, run_comparison(rows, out)


def test_every_run_is_charged_alone_within_its_epsilon(compared):
    _, out, answers = compared
    assert [a.epsilon for a in answers] == [1.0, 5.0]
    assert all(0 < a.spent_epsilon <= a.epsilon for a in answers)
    assert json.loads(out.read_bytes("private/comparison.json"))[1]["spent_epsilon"] == answers[1].spent_epsilon
    assert out.read_bytes("private/comparison.md").decode().startswith("| method |")


def test_public_models_that_two_recipes_share_are_made_once(compared):
    rows, out, _ = compared
    one, other = (out.child(f"{row.folder}/pretrain").read_bytes("autoencoder.safetensors") for row in rows)
    assert one == other
    assert not out.exists(f"{rows[1].folder}/pretrain/checkpoints/autoencoder")
    assert not out.exists(f"{rows[1].folder}/images/public/manifest.json")


def test_the_private_model_is_warmed_up_and_starts_from_what_was_released(compared):
    rows, out, _ = compared
    train = out.child(f"{rows[1].folder}/train")
    assert train.exists("statistics.parquet")
    assert list(Path(train.path("checkpoints")).glob("warm_up-*/step-*.safetensors"))
    assert read_manifest(train).facts["statistics_noise_multiplier"] == statistics_noise(rows[1].spec)
    assert not out.exists(f"{rows[1].folder}/knowledge_base/manifest.json")


def test_the_same_call_again_skips_everything(compared):
    rows, out, answers = compared
    before = out.child(f"{rows[0].folder}/images/private/ledger").list_files()
    again = run_comparison(rows, out)
    assert again == answers
    assert out.child(f"{rows[0].folder}/images/private/ledger").list_files() == before
