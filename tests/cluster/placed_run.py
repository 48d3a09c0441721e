"""A run whose every worker leaves the address of its node in a folder: python placed_run.py SPEC OUT FOLDER."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from rapid_dist.run import STAGES, Run
from rapid_dist.runtime import query_service
from rapid_dist.runtime.session import ray_session
from rapid_dist.specs import load_spec
from rapid_dist.stages import evaluate, ingest, kb_work, pretrain, sample, train
from rapid_dist.storage.store import Store


def leave(folder, work):
    """Called on a worker. Functions of this file travel to workers by value."""
    import ray

    where = Path(folder) / work
    where.mkdir(parents=True, exist_ok=True)
    (where / ray.util.get_node_ip_address()).touch()


def marked(fn, folder, work):
    def run(*args, **kwargs):
        leave(folder, work)
        return fn(*args, **kwargs)

    return run


def mark_maps(module, folder):
    inner = module.map_parts

    def map_parts(make_fn, *args, store, **kwargs):
        work = "-".join(Path(store.uri).parts[-2:])
        return inner(marked(make_fn, folder, f"maps of {work}"), *args, store=store, **kwargs)

    module.map_parts = map_parts


def marked_server(base, folder, stage):
    class Server(base):
        def __init__(self, *args):
            leave(folder, f"shards of {stage}")
            super().__init__(*args)

    return Server


def main(spec_path, out, folder):
    run, server = Run(load_spec(spec_path), Store(out)), query_service._ShardServer
    for module in (ingest, kb_work, sample):
        mark_maps(module, folder)
    pretrain._train_public_models = marked(pretrain._train_public_models, folder, "workers of pretrain")
    train.train_worker = marked(train.train_worker, folder, "workers of train")
    evaluate._evaluate = marked(evaluate._evaluate, folder, "evaluation")
    with ray_session(run.spec.runtime):
        for stage in STAGES:
            query_service._ShardServer = marked_server(server, folder, stage)
            run.run_stages((stage,))


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main(*sys.argv[1:])
