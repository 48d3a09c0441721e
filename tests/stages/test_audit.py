"""The audit on real Ray Train workers finds a planted mistake by its name; the right trainer runs in tests/audit."""

from __future__ import annotations

from rapid_dist.audit.battery import restart_ledger
from rapid_dist.audit.trials import AuditSettings
from rapid_dist.privacy.ledger import read_ledger
from rapid_dist.specs import RuntimeSpec
from rapid_dist.stages.audit import audit_worker, run_audit
from rapid_dist.storage.store import Store
from tests.audit.planted import BUGS

SMALL = AuditSettings(
    num_canaries=1500, num_sampled=300, restart_steps=80, steps=60, full_batch_rounds=3, sampled_rounds=1
)
ONE_WORKER = RuntimeSpec(num_workers=1)


def worker_with_averaged_noise(collective, arguments):
    """Plants the mistake in this worker's process alone, then does what a worker of the audit does."""
    BUGS["noise_on_every_rank_then_averaged"](setattr)
    return audit_worker(collective, arguments)


def test_a_planted_bug_is_named(ray_cluster, tmp_path):
    result = run_audit(SMALL, ONE_WORKER, Store(tmp_path), worker=worker_with_averaged_noise)
    assert not result.passed
    words = "\n".join(check.words for check in result.violations)
    assert "standard deviation over the planned one: 0.70" in words
    assert "every record in every step: epsilon is at least (gdp)" in words
    ledger = read_ledger(restart_ledger(Store(tmp_path)))  # written by the ledger's actor
    assert len(ledger.attempts) == 2
    assert ledger.spent_steps == 40 + 60
