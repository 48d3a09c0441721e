"""Commands on the ledger of a private dataset: give it a budget, see what was charged, check that it is whole."""

from __future__ import annotations

import json
from typing import Any

import click

from rapid_dist.cli_edge import json_option, translated
from rapid_dist.cli_privacy import print_accountants


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
    jobs = {job: _job_facts(book, job) for job in book.jobs}
    if as_json:
        charges = [charge.to_dict() for charge in book.charges]
        plain = {**target, "spent_epsilon": spent, "attempts": len(book.attempts), "jobs": jobs, "charges": charges}
        click.echo(json.dumps(plain))
        return
    click.echo(
        f"{'job':<17} {'purpose':<20} {'mechanism':<17} {'noise multiplier':>16} {'sample rate':>12} {'steps':>7}"
    )
    for job in book.jobs:
        for c in book.charges_of(job):
            click.echo(
                f"{job:<17} {c.purpose:<20} {c.mechanism:<17} {c.noise_multiplier:>16.4f} {c.sample_rate:>12.6f}"
                f" {c.num_steps:>7}"
            )
    for job, facts in jobs.items():
        click.echo(f"job {job}: epsilon {facts['spent_epsilon']:.4f}, {facts['attempts']} attempts")
    click.echo(
        f"epsilon {spent:.4f} of {target['target_epsilon']:g} at delta {target['target_delta']:g}, "
        f"{len(book.attempts)} attempts, {target['neighboring_relation']}, {target['unit']}"
    )


def _job_facts(book: Any, job: str) -> dict[str, Any]:
    from rapid_dist.privacy.accounting import epsilon_pld

    delta = book.target["target_delta"]
    return {"spent_epsilon": epsilon_pld(book.charges_of(job), delta), "attempts": len(book.attempts_of(job))}


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
        click.echo(json.dumps(plain))
        return
    click.echo(f"the chain is whole; its head is {book.head}")
    print_accountants(result)
