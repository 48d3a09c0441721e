"""Commands that only count: what settings cost, what noise a target needs, what a ledger says was spent."""

from __future__ import annotations

import json
from typing import Any

import click

from rapid_dist.cli_edge import json_option, translated

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
    """Print the epsilon of DP-SGD by three accountants, for adding or removing one record or replacing it."""
    from rapid_dist.privacy.accounting import check_agreement, compute_epsilon

    charge = _training_charge(sample_rate, noise_multiplier, steps)
    result = compute_epsilon((charge,), delta=delta, neighboring_relation=neighboring_relation)
    check_agreement(result)
    if as_json:
        accountants = {"pld": result.pld, "prv": result.prv, "rdp": result.rdp}
        click.echo(json.dumps({**accountants, "delta": delta, "neighboring_relation": neighboring_relation}))
        return
    _print_accountants(result)


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

    noise_multiplier = calibrate_noise_multiplier(
        target_epsilon=target_epsilon,
        delta=delta,
        sample_rate=sample_rate,
        num_steps=steps,
        neighboring_relation=neighboring_relation,
    )
    charge = _training_charge(sample_rate, noise_multiplier, steps)
    spent = epsilon_pld((charge,), delta, neighboring_relation=neighboring_relation)
    if as_json:
        plain = {"noise_multiplier": noise_multiplier, "pld": spent, "delta": delta}
        click.echo(json.dumps({**plain, "neighboring_relation": neighboring_relation}))
        return
    click.echo(f"noise multiplier {noise_multiplier:.4f}: epsilon {spent:.4f} of {target_epsilon:g} at delta {delta:g}")


@click.group()
def ledger() -> None:
    """Look at the ledger of a run: what was charged, and what it comes to."""


def _open(uri: str) -> Any:
    from rapid_dist import layout
    from rapid_dist.artifacts.storage import Store
    from rapid_dist.privacy.ledger import read_ledger

    run = Store(uri)
    inside = run.child(layout.LEDGER)
    return read_ledger(inside if inside.list_files() else run)


@ledger.command("show")
@click.argument("uri", metavar="RUN")
@json_option
@translated
def show(uri: str, as_json: bool) -> None:
    """List every charge of the run in folder RUN and the epsilon they come to."""
    book = _open(uri)
    spent, target = book.spent_epsilon(), book.target
    if as_json:
        charges = [charge.to_dict() for charge in book.charges]
        plain = {**target, "spent_epsilon": spent, "attempts": len(book.attempts), "charges": charges}
        click.echo(json.dumps(plain))
        return
    click.echo(f"{'purpose':<20} {'mechanism':<18} {'noise multiplier':>16} {'sample rate':>12} {'steps':>7}")
    for c in book.charges:
        row = f"{c.purpose:<20} {c.mechanism:<18} {c.noise_multiplier:>16.4f} {c.sample_rate:>12.6f} {c.num_steps:>7}"
        click.echo(row)
    click.echo(
        f"epsilon {spent:.4f} of {target['target_epsilon']:g} at delta {target['target_delta']:g}, "
        f"{len(book.attempts)} attempts, {target['neighboring_relation']}, {target['unit']}"
    )


@ledger.command("verify")
@click.argument("uri", metavar="RUN")
@json_option
@translated
def verify(uri: str, as_json: bool) -> None:
    """Check the chain of the ledger and compute its epsilon anew by PLD, PRV and RDP."""
    from rapid_dist.privacy.accounting import check_agreement, compute_epsilon

    book = _open(uri)
    result = compute_epsilon(book.charges, delta=book.target["target_delta"])
    check_agreement(result)
    if as_json:
        plain = {"verified": True, "head": book.head, "pld": result.pld, "prv": result.prv, "rdp": result.rdp}
        click.echo(json.dumps(plain))
        return
    click.echo(f"the chain is whole; its head is {book.head}")
    _print_accountants(result)


def _training_charge(sample_rate: float, noise_multiplier: float, steps: int) -> Any:
    from rapid_dist.privacy.charges import Charge

    return Charge(
        mechanism="poisson_gaussian",
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        num_steps=steps,
        purpose="training",
    )


def _print_accountants(result: Any) -> None:
    click.echo(f"PLD {result.pld:.4f}   the number to state")
    prv = f"{result.prv:.4f}" if result.prv is not None else f"not available: {result.prv_reason}"
    click.echo(f"PRV {prv}   its upper end, an independent code")
    click.echo(f"RDP {result.rdp:.4f}   an upper bound")
