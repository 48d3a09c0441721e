"""The evaluate stage: one Ray task that reads the images, measures, and writes the report and its pictures."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rapid_dist.runtime.mailbox import relayed_lines
from rapid_dist.runtime.parts import run_task
from rapid_dist.runtime.session import cpus_for_one_task, placed
from rapid_dist.specs import RunSpec
from rapid_dist.stages.sample import SAMPLE, SAMPLE_PUBLIC
from rapid_dist.storage.manifest import FileEntry, Manifest, open_artifact, write_file
from rapid_dist.storage.stage import StageFolder
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import INGEST, read_all_images
from rapid_dist.telemetry import Say

EVALUATE = "evaluate"
REPORT = "report.json"


def run_evaluate(
    spec: RunSpec,
    *,
    samples: Store,
    public_samples: Store | None,
    private: Store,
    public: Store,
    test: Store | None,
    out: Store,
    stage_seconds: dict[str, float],
) -> Manifest:
    """Writes report.json, report.html, grid.png, and the shareable pair without private figures or images.

    public_samples: None where there is no public model. test: None where no held-out images are given.
    """
    given = {"samples": samples, "public_samples": public_samples, "private": private, "public": public, "test": test}
    stores = {name: store for name, store in given.items() if store is not None}
    stages = {"samples": SAMPLE, "public_samples": SAMPLE_PUBLIC}
    inputs = {name: open_artifact(store, stage=stages.get(name, INGEST)).digest for name, store in stores.items()}
    folder = StageFolder(
        out,
        stage=EVALUATE,
        spec={**spec.sections("evaluation"), "num_classes": spec.data.num_classes},
        inputs=inputs,
    )
    if folder.finished is not None:
        return folder.finished
    cpus = cpus_for_one_task(placed(is_private=True).cpus_of_nodes)
    with relayed_lines() as say_fn:
        answer = run_task(_evaluate, spec, stores, out, stage_seconds, cpus, say_fn, is_private=True, num_cpus=cpus)
    return folder.finish(
        privacy_class=answer["privacy_class"],
        files=[FileEntry(**f) for f in answer["files"]],
        facts={"report": answer["report"]},
    )


def _evaluate(
    spec: RunSpec, stores: dict[str, Store], out: Store, stage_seconds: dict[str, float], cpus: int, say_fn: Say
) -> dict[str, Any]:
    import torch

    from rapid_dist.evaluation.measure import Tables, draw_grids, measure_run
    from rapid_dist.evaluation.page import render_report
    from rapid_dist.evaluation.report import build_run_report, without_private_values

    torch.set_num_threads(cpus)
    manifests = {
        name: open_artifact(store, stage={"samples": SAMPLE, "public_samples": SAMPLE_PUBLIC}.get(name, INGEST))
        for name, store in stores.items()
    }
    read = {name: read_all_images(store, manifests[name]) for name, store in stores.items()}
    tables = Tables(
        synthetic=read["samples"],
        public_only=read.get("public_samples"),
        train=read["private"],
        public=read["public"],
        test=read.get("test"),
    )
    num_classes = spec.data.num_classes
    measured = measure_run(spec.evaluation, tables, num_classes=num_classes, device=spec.runtime.device, say_fn=say_fn)
    report = build_run_report(spec, measured, manifests["samples"].facts, stage_seconds, len(tables.synthetic))
    names = spec.data.class_names
    grid, released = draw_grids(spec.evaluation, tables, num_classes=num_classes, class_names=names)
    shared = without_private_values(report)
    contents = {
        REPORT: json.dumps(report, indent=1).encode(),
        "report.html": render_report(report, grid_png=released).encode(),
        "private/grid.png": grid,
        "shareable/report.json": json.dumps(shared, indent=1).encode(),
        "shareable/report.html": render_report(shared, grid_png=released).encode(),
        "grid.png": released,
        "shareable/grid.png": released,
    }
    files = [asdict(write_file(out, path, data)) for path, data in contents.items()]
    return {"files": files, "privacy_class": "private", "report": report}
