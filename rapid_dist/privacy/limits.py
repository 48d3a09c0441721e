"""What could still weaken the guarantee, each with a severity class, as the statement lists it.

The three classes are those of jax_privacy: they say how much the formal guarantee suffers, not how likely harm is.
"""

from __future__ import annotations

from rapid_dist.privacy.noise import grid_for

CRITICAL, THEORETICAL, NEGLIGIBLE = "Critical", "Theoretical", "Negligible"
SEVERITIES = {
    CRITICAL: "the stated epsilon does not hold, and no attacker is needed for that",
    THEORETICAL: "the stated epsilon can fail in the worst case, against an active attacker with rare means",
    NEGLIGIBLE: "the stated epsilon holds up to an amount too small to matter, from rounding",
}


def known_limits(*, max_grad_norm: float, is_private: bool) -> list[dict[str, str]]:
    """What is known to remain, worst first: dicts of severity, limit and what is done about it."""
    fixed_key = (
        CRITICAL,
        "the noise and the sampling come from a fixed debugging key, so anyone can remove them",
        "nothing: everything this run makes is stamped NOT PRIVATE",
    )
    grid = grid_for(max_grad_norm)
    rows = (
        (
            THEORETICAL,
            "noise is made of float64 numbers, so its set of possible values differs a little from a Gaussian's",
            "each value is the sum of four 53-bit draws (arXiv 2107.10138), none of them drawn again whatever it is, "
            f"and the noisy sum is rounded to multiples of {grid:g} after adding (arXiv 2112.05307); an exact "
            "discrete Gaussian is not used",
        ),
        (
            THEORETICAL,
            "noise and sampling are as secret as ChaCha20, keyed BLAKE2b and the memory of driver and workers",
            "256-bit key from the operating system, fresh for every attempt, never on disk or in an artefact",
        ),
        (
            THEORETICAL,
            "the time and memory of a step depend on how many records it included",
            "times in the ledger are whole hours; logs, dashboards and traffic must be kept as private as the data",
        ),
        (
            THEORETICAL,
            "clipped gradients are added in floating point, so with contrived data one record may move the sum by "
            "rounding errors more than the clip",
            "norms and sums over micro-batches and workers are float64, sums inside a micro-batch full float32 even "
            "under autocast or TF32; a model that itself runs in less rounds to that, and kernels may round otherwise "
            "in another micro-batch",
        ),
        (
            NEGLIGIBLE,
            "accountants round",
            "PLD rounds towards more loss, and is refused when PRV or RDP contradicts it",
        ),
        (
            NEGLIGIBLE,
            "a sample rate is a multiple of 2^-64",
            "it is rounded down, which only lowers the loss",
        ),
    )
    return [
        {"severity": severity, "limit": limit, "handling": handling}
        for severity, limit, handling in (rows if is_private else (fixed_key, *rows))
    ]
