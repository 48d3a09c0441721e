"""Commands on the ledger of a private dataset: give it a budget, see what was charged, check that it is whole."""

from __future__ import annotations

import json
import math
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated
from rapid_dist.cli.privacy import print_accountants


@click.group()
def ledger() -> None:
    """The ledger of a private dataset: its budget, what was charged, and what it comes to."""


def _ledger_store(uri: str) -> Any:
    """Where the ledger lies for a run's folder, a dataset's folder, or the ledger's own."""
    from rapid_dist import layout
    from rapid_dist.artifacts.storage import Store
    from rapid_dist.pipeline import Run
    from rapid_dist.specs import parse_spec

    store = Store(uri)
    if store.exists(layout.SPEC):
        spec = parse_spec(store.read_bytes(layout.SPEC).decode(), source=f"{store.uri}/{layout.SPEC}")
        return Run(spec, store).ledger
    inside = store.child(layout.LEDGER)
    return inside if inside.list_files() else store


def _open(uri: str) -> Any:
    from rapid_dist.privacy.ledger import read_ledger

    return read_ledger(_ledger_store(uri))


@ledger.command("init")
@click.argument("dataset", metavar="DATASET")
@click.option("--epsilon", type=float, required=True, help="What all uses of the dataset together may cost.")
@click.option("--delta", type=float, required=True, help="The delta that epsilon is stated at.")
@click.option("--unit", default="one image", show_default=True, help="What one person contributes; specs must agree.")
@json_option
@translated
def init(dataset: str, epsilon: float, delta: float, unit: str, as_json: bool) -> None:
    """Give the ingested private DATASET a budget that no use of it, by any job, may exceed."""
    from rapid_dist import layout
    from rapid_dist.artifacts.images import INGEST
    from rapid_dist.artifacts.manifest import open_artifact
    from rapid_dist.artifacts.storage import Store
    from rapid_dist.privacy.ledger import open_ledger

    store = Store(dataset)
    open_artifact(store, stage=INGEST, privacy_classes=("private",))
    book = open_ledger(store.child(layout.LEDGER), target_epsilon=epsilon, target_delta=delta, unit=unit)
    spent = book.spent_epsilon()
    if as_json:
        click.echo(json.dumps({**book.target, "spent_epsilon": spent, "ledger": store.child(layout.LEDGER).uri}))
        return
    click.echo(f"{store.uri} may cost epsilon {epsilon:g} at delta {delta:g}, {unit}; spent so far {spent:.4f}")


@ledger.command("show")
@click.argument("uri", metavar="RUN|DATASET")
@json_option
@translated
def show(uri: str, as_json: bool) -> None:
    """List every charge against the dataset of RUN, or DATASET, and the epsilon they come to."""
    book = _open(uri)
    spent, target = book.spent_epsilon(), book.target
    jobs = {job: _facts(book, book.charges_of(job), book.attempts_of(job)) for job in book.jobs}
    studies = {name: _study_facts(book, name) for name in book.studies}
    if as_json:
        charges = [charge.to_dict() for charge in book.charges]
        plain = {**target, "spent_epsilon": spent, "attempts": len(book.attempts), "jobs": jobs}
        click.echo(json.dumps({**plain, "studies": studies, "charges": charges}))
        return
    click.echo(
        f"{'job':<17} {'purpose':<20} {'mechanism':<19} {'noise multiplier':>16} {'sample rate':>12} {'steps':>7}"
    )
    for job in book.jobs:
        for charge in book.charges_of(job):
            click.echo(f"{job:<17} {charge.purpose:<20} {charge.mechanism:<19} {_numbers(charge)}")
    for job, facts in jobs.items():
        click.echo(f"job {job}: epsilon {_shown(facts['spent_epsilon'])}, {facts['attempts']} attempts")
    for name, facts in studies.items():
        click.echo(
            f"study {name}: epsilon {_shown(facts['spent_epsilon'])} of {facts['target_epsilon']:g} at delta "
            f"{facts['target_delta']:g}, {facts['attempts']} attempts"
        )
    click.echo(
        f"epsilon {spent:.4f} of {target['target_epsilon']:g} at delta {target['target_delta']:g}, "
        f"{len(book.attempts)} attempts, {target['neighboring_relation']}, {target['unit']}"
    )


def _numbers(charge: Any) -> str:
    """The parameters of a Gaussian mechanism, or the bound of a charge that has only that."""
    from rapid_dist.privacy.charges import Charge

    if isinstance(charge, Charge):
        return f"{charge.noise_multiplier:>16.4f} {charge.sample_rate:>12.6f} {charge.num_steps:>7}"
    epsilon, delta = charge.bound
    return f"epsilon {epsilon:.4f} at delta {delta:g}"


def _facts(book: Any, charges: Any, attempts: Any, delta: float | None = None) -> dict[str, Any]:
    from rapid_dist.privacy.accounting import epsilon_pld

    spent = epsilon_pld(charges, delta or book.target["target_delta"])
    return {"spent_epsilon": spent if math.isfinite(spent) else None, "attempts": len(attempts)}


def _shown(epsilon: float | None) -> str:
    return "not finite" if epsilon is None else f"{epsilon:.4f}"


def _study_facts(book: Any, study: str) -> dict[str, Any]:
    view = book.of_study(study)
    epsilon, delta = view.own_target
    return {**_facts(book, view.charges, view.attempts, delta), "target_epsilon": epsilon, "target_delta": delta}


@ledger.command("verify")
@click.argument("uri", metavar="RUN|DATASET")
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
        if result.of_gaussians is not None:
            rest = result.of_gaussians
            plain |= {"rdp": None, "without_bounds": {"pld": rest.pld, "prv": rest.prv, "rdp": rest.rdp}}
        click.echo(json.dumps(plain))
        return
    click.echo(f"the chain is whole; its head is {book.head}")
    print_accountants(result)
