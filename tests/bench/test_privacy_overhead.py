import dataclasses
import json
from pathlib import Path

import pytest
import torch

from rapid_dist.bench.privacy_overhead import (
    MNIST_SETTINGS,
    OTHER_PARTS,
    PRIVACY_PARTS,
    measure_privacy_overhead,
    table_lines,
)
from rapid_dist.specs import load_spec, parse_spec

MNIST_SPEC = Path(__file__).parents[2] / "rapid_dist" / "recipes" / "rapid.yaml"
TINY = (
    "privacy.nominal_size=200",
    "privacy.target_delta=1.0e-3",
    "privacy.sample_rate=0.2",
    "training.steps=6",
    "training.checkpoint_every=2",
    "privacy.spare_steps=0",
    "denoiser.width=8",
    "autoencoder.latent_dim=6",
)


@pytest.fixture(scope="module")
def tiny_result():
    return measure_privacy_overhead(parse_spec(MNIST_SETTINGS, overrides=TINY), num_steps=5, num_threads=1)


def test_the_built_in_settings_are_those_of_the_mnist_spec():
    built_in = parse_spec(MNIST_SETTINGS)
    spec = load_spec(str(MNIST_SPEC), overrides=("data.private=none", "data.public=none"))
    for name in ("denoiser", "schedule", "privacy"):
        assert built_in.sections(name) == spec.sections(name)
    ours, theirs = (s.training for s in (built_in, spec))
    for name in ("steps", "objective", "noise_multiplicity", "checkpoint_every"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (built_in.autoencoder.kind, built_in.autoencoder.latent_dim) == ("conv", spec.autoencoder.latent_dim)
    assert built_in.runtime == spec.runtime


def test_every_part_is_measured_and_the_ratio_is_their_sum(tiny_result):
    r = tiny_result
    assert set(r.wall_ms) == set(r.cpu_ms) == {*PRIVACY_PARTS, *OTHER_PARTS}
    assert all(value > 0 for value in r.wall_ms.values())
    assert r.step_ms == pytest.approx(sum(r.wall_ms.values()))
    assert r.overhead_ratio == pytest.approx(sum(r.wall_ms[name] for name in PRIVACY_PARTS) / r.step_ms)
    assert r.wall_ms["ledger"] == pytest.approx(r.ledger_block_ms / r.steps_a_block)
    assert r.is_within_limit is (r.overhead_ratio <= r.limit)
    assert r.clipping_engine == "linear"
    assert r.opacus_over_ours > 0


def test_the_asked_for_steps_are_taken_and_the_threads_given_back(tiny_result):
    assert (tiny_result.measured_steps, tiny_result.steps_a_block, tiny_result.num_threads) == (5, 2, 1)
    assert (tiny_result.num_records, tiny_result.noise_multiplicity) == (200, 4)
    before = torch.get_num_threads()
    measure_privacy_overhead(parse_spec(MNIST_SETTINGS, overrides=TINY), num_steps=1, num_threads=before + 1)
    assert torch.get_num_threads() == before


def test_the_table_says_what_json_says(tiny_result):
    assert json.loads(json.dumps(dataclasses.asdict(tiny_result)))["limit"] == 0.05
    text = "\n".join(table_lines(tiny_result))
    for name in (*PRIVACY_PARTS, *OTHER_PARTS):
        assert f"\n{name} " in text
    assert f"{tiny_result.overhead_ratio:.2%} of the step" in text
    assert f"takes {tiny_result.opacus_over_ours:.2f} of the CPU time of the engine linear" in text
    assert ("within" if tiny_result.is_within_limit else "over") + " the limit of 5%" in text
