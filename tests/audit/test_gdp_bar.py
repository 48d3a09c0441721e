"""The audit is strong and never too strong: at q = 1 its GDP estimate is close under the claim."""

from __future__ import annotations

import pytest

from rapid_dist.audit.battery import Runs, canary_layer
from rapid_dist.audit.trials import AuditSettings
from rapid_dist.storage.store import Store
from tests.training.helpers import returned, run_workers


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_the_gdp_estimate_is_between_four_fifths_of_the_claim_and_the_claim(seed, tmp_path):
    settings = AuditSettings(seed=seed)

    def work(collective):
        runs = Runs(collective, Store(tmp_path), lambda done, name: None, {})
        return canary_layer(settings, runs, is_full_batch=True)[0]

    result = returned(run_workers(2, work))[0]
    assert 0.8 * result.claimed_epsilon <= result.bounds.gdp <= result.claimed_epsilon
