"""The scaling benchmark on two real workers of Ray Train."""

from __future__ import annotations

import pytest

from rapid_dist.bench.privacy_overhead import MNIST_SETTINGS
from rapid_dist.bench.scaling import ScalingSettings
from rapid_dist.specs import parse_spec
from rapid_dist.stages.audit import run_scaling
from tests.bench.test_privacy_overhead import TINY


@pytest.mark.slow
def test_two_workers_take_their_turns(ray_cluster):
    spec = parse_spec(MNIST_SETTINGS, overrides=(*TINY, "training.steps=20"))
    result = run_scaling(spec, ScalingSettings(rounds=2, steps=2))
    assert len(result.efficiencies) == 2
    assert result.parts_two["all_reduce"] > 0
