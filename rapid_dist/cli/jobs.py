"""Entry points of Ray jobs: one command a stage and one for all, with the same settings as the command line."""

from __future__ import annotations

import json

import click

from rapid_dist.cli.edge import translated


def job(*stages: str) -> click.Command:
    """The command `--spec FILE --out URI [--set KEY=VALUE]` that runs these stages in order.

    Finished stages are skipped and an unfinished one goes on from where it was, so that the same job submitted again
    resumes a cancelled one. The last line of its log is one JSON object.
    """

    @click.command(help=f"Runs {', '.join(stages)} of a spec; the same job again resumes or skips.")
    @click.option("--spec", "spec_path", required=True, metavar="FILE", help="YAML spec, in the working directory.")
    @click.option("--out", required=True, metavar="URI", help="Folder or s3:// prefix of the run; all nodes reach it.")
    @click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting.")
    @translated
    def command(spec_path: str, out: str, overrides: tuple[str, ...]) -> None:
        from rapid_dist.run import Run
        from rapid_dist.specs import load_spec
        from rapid_dist.storage.store import Store

        run = Run(load_spec(spec_path, overrides=overrides), Store(out))
        results = [vars(result) for result in run.run_stages(stages)]
        answer = {"out": run.out.uri, "stages": results}
        if "evaluate" in stages:
            answer["report"] = run.report()
        click.echo(json.dumps(answer))

    return command
