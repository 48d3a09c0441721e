"""Commands on the ledger of a private dataset: give it a budget, see what was charged, check that it is whole."""

from __future__ import annotations

import json
import math
import sys
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
    from rapid_dist.privacy.ledger import has_ledger
    from rapid_dist.specs import parse_spec

    store = Store(uri)
    if store.exists(layout.SPEC):
        spec = parse_spec(store.read_bytes(layout.SPEC).decode(), source=f"{store.uri}/{layout.SPEC}")
        return Run(spec, store).ledger
    inside = store.child(layout.LEDGER)
    return inside if has_ledger(inside) else store


def _open(uri: str, *, must_contain: str | None = None) -> Any:
    from rapid_dist.privacy.ledger import read_ledger

    return read_ledger(_ledger_store(uri), must_contain=must_contain)


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
    """List every charge against the dataset of RUN, or DATASET, and the epsilon they come to.

    Charges and jobs of attempts that are not private (a debugging key was used) are marked. When there are any, the
    last line begins with NOT PRIVATE, and with --json not_private_reasons is not empty.
    """
    book = _open(uri)
    spent, target, delta = book.spent_epsilon(), book.target, book.target["target_delta"]
    jobs = {job: _facts(book.of_job(job), delta) for job in book.jobs}
    studies = {name: _study_facts(book.of_study(name)) for name in book.studies}
    reasons = book.not_private_reasons
    if as_json:
        plain = {**target, "spent_epsilon": spent, "attempts": len(book.attempts), "jobs": jobs, "studies": studies}
        charges = [charge.to_dict() for charge in book.charges]
        click.echo(json.dumps({**plain, "not_private_reasons": reasons, "charges": charges}))
        return
    click.echo(
        f"{'job':<17} {'purpose':<20} {'mechanism':<19} {'noise multiplier':>16} {'sample rate':>12} {'steps':>7}"
    )
    marked = _marked_attempts(book)
    for job in book.jobs:
        for attempt, charge in book.of_job(job).numbered_charges:
            mark = "  NOT PRIVATE" if attempt in marked else ""
            click.echo(f"{job:<17} {charge.purpose:<20} {charge.mechanism:<19} {_numbers(charge)}{mark}")
    for job, facts in jobs.items():
        click.echo(f"job {job}: {_facts_words(facts)}")
    for name, facts in studies.items():
        of = f" of {facts['target_epsilon']:g} at delta {facts['target_delta']:g}"
        click.echo(f"study {name}: {_facts_words(facts, of)}")
    stamp = f"NOT PRIVATE: {'; '.join(reasons)}; counted as if it were not so: " if reasons else ""
    click.echo(
        f"{stamp}epsilon {spent:.4f} of {target['target_epsilon']:g} at delta {delta:g}, "
        f"{len(book.attempts)} attempts, {target['neighboring_relation']}, {target['unit']}"
    )


def _marked_attempts(book: Any) -> set[int]:
    from rapid_dist.privacy.ledger_view import attempt_reasons

    return {number for number, plan in book.numbered_attempts.items() if attempt_reasons(plan)}


def _numbers(charge: Any) -> str:
    """The parameters of a Gaussian mechanism, or the bound of a charge that has only that."""
    from rapid_dist.privacy.charges import Charge

    if isinstance(charge, Charge):
        return f"{charge.noise_multiplier:>16.4f} {charge.sample_rate:>12.6f} {charge.num_steps:>7}"
    epsilon, delta = charge.bound
    return f"epsilon {epsilon:.4f} at delta {delta:g}"


def _facts(view: Any, delta: float) -> dict[str, Any]:
    from rapid_dist.privacy.accounting import epsilon_pld

    spent = epsilon_pld(view.charges, delta)
    return {
        "spent_epsilon": spent if math.isfinite(spent) else None,
        "attempts": len(view.attempts),
        "not_private_reasons": list(view.not_private_reasons),
    }


def _study_facts(view: Any) -> dict[str, Any]:
    epsilon, delta = view.own_target
    return {**_facts(view, delta), "target_epsilon": epsilon, "target_delta": delta}


def _facts_words(facts: dict[str, Any], of: str = "") -> str:
    spent = "not finite" if facts["spent_epsilon"] is None else f"{facts['spent_epsilon']:.4f}"
    stamp = "NOT PRIVATE, " if facts["not_private_reasons"] else ""
    return f"{stamp}epsilon {spent}{of}, {facts['attempts']} attempts"


@ledger.command("verify")
@click.argument("uri", metavar="RUN|DATASET")
@click.option(
    "--head",
    metavar="DIGEST",
    help="A head seen earlier, which must still be in the chain: a ledger restored or copied back from before is "
    "refused. It is printed here, and stands as ledger_head in every statement (train/manifest.json, statement.json, "
    "the header of a checkpoint) and as 'Last ledger entry' in the report.",
)
@json_option
@translated
def verify(uri: str, head: str | None, as_json: bool) -> None:
    """Check the chain of the ledger and compute its epsilon anew by PLD, PRV and RDP.

    The exit code is 0 when the chain is unbroken and every attempt is private, 1 when the chain is unbroken but the
    result is NOT PRIVATE (a debugging key was used; with --json see not_private_reasons), 2 when it is refused.
    """
    from rapid_dist.privacy.accounting import check_agreement, compute_epsilon

    book = _open(uri, must_contain=head)
    result = compute_epsilon(book.charges, delta=book.target["target_delta"])
    check_agreement(result)
    reasons = book.not_private_reasons
    if as_json:
        plain = {"verified": True, "head": book.head, "pld": result.pld, "prv": result.prv, "rdp": result.rdp}
        if result.of_gaussians is not None:
            rest = result.of_gaussians
            plain |= {"rdp": None, "without_bounds": {"pld": rest.pld, "prv": rest.prv, "rdp": rest.rdp}}
        click.echo(json.dumps({**plain, "not_private_reasons": reasons}))
    else:
        click.echo(f"the chain is unbroken{' and holds that entry' if head else ''}; its head is {book.head}")
        print_accountants(result)
        if reasons:
            click.echo(f"NOT PRIVATE: {'; '.join(reasons)}; the numbers above count as if it were not so")
    if reasons:
        sys.exit(1)
