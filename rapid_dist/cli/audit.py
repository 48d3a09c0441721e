"""The audit command: run it, print the bounds beside the claim, save the numbers and the picture."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from rapid_dist.cli.edge import json_option, translated


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
    from rapid_dist.artifacts.storage import Store
    from rapid_dist.distributed.audit import audit_runtime, run_audit
    from rapid_dist.distributed.session import ray_session
    from rapid_dist.privacy.audit.plot import draw_plot
    from rapid_dist.specs import RuntimeSpec, load_spec
    from rapid_dist.training.audit.settings import AuditSettings, settings_of

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
