"""Commands on privacy: epsilon and noise by hand, the ledger of a dataset, the audit."""

from __future__ import annotations

import json
import math
import sys
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


@click.group()
def ledger() -> None:
    """The ledger of a private dataset: its budget, what was charged, and what it comes to."""


def _ledger_store(uri: str) -> Any:
    """Where the ledger lies for a run's folder, a dataset's folder, or the ledger's own."""
    from rapid_dist import layout
    from rapid_dist.privacy.ledger import has_ledger
    from rapid_dist.run import Run
    from rapid_dist.storage.store import Store

    store = Store(uri)
    if store.exists(layout.SPEC):
        return Run.open(store).ledger
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
    from rapid_dist.privacy.ledger import open_ledger
    from rapid_dist.storage.manifest import open_artifact
    from rapid_dist.storage.store import Store
    from rapid_dist.storage.tables import INGEST

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
    from rapid_dist.privacy.ledger import attempt_reasons

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


@click.command()
@click.argument("spec_path", metavar="[SPEC]", required=False, type=click.Path())
@click.option("--out", default="rapid-audit", show_default=True, metavar="URI", help="Folder of the results.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting of SPEC.")
@json_option
@translated
def audit(spec_path: str | None, out: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the road to a release from outside: source files, replays, moments of noise and sampling, canaries.

    Takes made-up files of every kind from ingest to release with and without one of them, then runs the trainer itself,
    on two workers at least, with the mechanism of SPEC (or a default one) on made-up records; no private record is read
    and no budget is spent. Exit code 1 when a violation is found.
    """
    from rapid_dist.audit.plot import draw_plot
    from rapid_dist.audit.trials import AuditSettings, settings_of
    from rapid_dist.runtime.session import ray_session
    from rapid_dist.specs import RuntimeSpec, load_spec
    from rapid_dist.stages.audit import audit_runtime, run_audit
    from rapid_dist.storage.store import Store

    if overrides and spec_path is None:
        raise click.UsageError("--set changes a SPEC; give one")
    spec = None if spec_path is None else load_spec(spec_path, overrides=overrides)
    store = Store(out)
    runtime = audit_runtime(RuntimeSpec(num_cpus=2) if spec is None else spec.runtime)
    with ray_session(runtime):
        result = run_audit(AuditSettings() if spec is None else settings_of(spec), runtime, _new_work_folder(store))
    plain = result.to_plain()
    store.write_bytes("audit.json", json.dumps(plain, indent=1).encode())
    store.write_bytes("audit.png", draw_plot(result))
    if as_json:
        click.echo(json.dumps({**plain, "out": store.uri}))
    else:
        _print(result, store)
    sys.exit(0 if result.passed else 1)


def _new_work_folder(store: Any) -> Any:
    """Ledgers and checkpoints of the audit's own runs; a new one each time, since a ledger is never begun anew."""
    import secrets

    return store.child(f"runs/{secrets.token_hex(4)}")


def _print(result: Any, store: Any) -> None:
    click.echo(f"{'epsilon':<30} {'claimed':>8} {'GDP estimate':>13} {'one run':>8} {'Clopper-Pearson':>16}")
    for kind in (result.full_batch, result.sampled):
        b = kind.bounds
        click.echo(
            f"{kind.name:<30} {kind.claimed_epsilon:>8.3f} {b.gdp:>13.3f} {b.one_run:>8.3f} {b.clopper_pearson:>16.3f}"
        )
    for layer, counts in result.to_plain()["layers"].items():
        found = f"{counts['violations']} violations" if counts["violations"] else "no violation"
        click.echo(f"{layer:<30} {counts['checks']:>4} checks, {found}")
    for check in result.violations:
        click.echo(f"VIOLATION  {check.words}")
    click.echo(
        f"{'passed' if result.passed else 'FAILED'}; numbers {store.uri_of('audit.json')}, "
        f"picture {store.uri_of('audit.png')}"
    )
