"""Commands that only count: what settings cost and what noise a target needs."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated

_relation_option = click.option(
    "--neighboring-relation",
    type=click.Choice(["add_or_remove_one", "replace_one"]),
    default="add_or_remove_one",
    show_default=True,
    help="What one person may change: be in or out, or be another.",
)


@click.command()
@click.option("--sample-rate", type=float, required=True, help="Poisson inclusion probability a step.")
@click.option("--noise-multiplier", type=float, required=True, help="Noise stddev over the clipping norm.")
@click.option("--steps", type=int, required=True, help="Number of training steps.")
@click.option("--delta", type=float, required=True, help="The delta that epsilon is stated at.")
@_relation_option
@json_option
@translated
def epsilon(
    sample_rate: float, noise_multiplier: float, steps: int, delta: float, neighboring_relation: str, as_json: bool
) -> None:
    """Print the epsilon of DP-SGD: by three accountants for adding or removing a record, by PLD for replacing it."""
    from rapid_dist.privacy.accounting import check_agreement, compute_epsilon
    from rapid_dist.privacy.charges import training_charge

    charge = training_charge(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=steps)
    result = compute_epsilon((charge,), delta=delta, neighboring_relation=neighboring_relation)
    check_agreement(result)
    if as_json:
        accountants = {"pld": result.pld, "prv": result.prv, "rdp": result.rdp if math.isfinite(result.rdp) else None}
        click.echo(json.dumps({**accountants, "delta": delta, "neighboring_relation": neighboring_relation}))
        return
    print_accountants(result)


@click.command()
@click.option("--target-epsilon", type=float, required=True, help="The epsilon not to exceed.")
@click.option("--delta", type=float, required=True, help="The delta that epsilon is stated at.")
@click.option("--sample-rate", type=float, required=True, help="Poisson inclusion probability a step.")
@click.option("--steps", type=int, required=True, help="Number of training steps.")
@_relation_option
@json_option
@translated
def calibrate(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, neighboring_relation: str, as_json: bool
) -> None:
    """Print the smallest noise multiplier whose epsilon stays within the target."""
    from rapid_dist.privacy.accounting import epsilon_pld
    from rapid_dist.privacy.calibration import calibrate_noise_multiplier
    from rapid_dist.privacy.charges import training_charge

    noise_multiplier = calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        delta=delta,
        sample_rate=sample_rate,
        num_steps=steps,
        neighboring_relation=neighboring_relation,
    )
    charge = training_charge(sample_rate=sample_rate, noise_multiplier=noise_multiplier, num_steps=steps)
    spent = epsilon_pld((charge,), delta, neighboring_relation=neighboring_relation)
    if as_json:
        plain = {"noise_multiplier": noise_multiplier, "pld": spent, "delta": delta}
        click.echo(json.dumps({**plain, "neighboring_relation": neighboring_relation}))
        return
    click.echo(f"noise multiplier {noise_multiplier:.4f}: epsilon {spent:.4f} of {target_epsilon:g} at delta {delta:g}")


def print_accountants(result: Any) -> None:
    """One line for each accountant's epsilon."""
    click.echo(f"PLD {result.pld:.4f}   the number to state")
    if result.neighboring_relation == "replace_one":
        click.echo("PLD stands alone: PRV and RDP count adding or removing one record only")
        return
    prv = f"{result.prv:.4f}" if result.prv is not None else f"not available: {result.prv_reason}"
    click.echo(f"PRV {prv}   its upper end, an independent code")
    if result.of_gaussians is None:
        click.echo(f"RDP {result.rdp:.4f}   an upper bound")
        return
    click.echo("RDP not available: a charge is known by its bound only; the others alone are counted by all three:")
    print_accountants(result.of_gaussians)
