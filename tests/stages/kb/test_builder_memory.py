"""The peak memory of a builder does not grow with the base: one process builds bases ten times apart in size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from rapid_dist.specs import RunSpec
from tests.stages.kb.helpers import spec_with, write_dataset, write_pretrain

ROWS_PER_PART, ROWS_PER_SHARD = 2500, 10_000

BUILD = """
import json, sys
from rapid_dist.storage.store import Store
from rapid_dist.stages.knowledge_base import run_build_knowledge_base
from rapid_dist.telemetry import peak_memory_bytes
from tests.stages.kb.helpers import SerialMaps
from tests.distributed.test_builder_memory import spec_of

images, pretrain, out, num_shards = sys.argv[1:]
SerialMaps().install()
manifest = run_build_knowledge_base(spec_of(int(num_shards)), Store(images), Store(pretrain), Store(out))
print(json.dumps({"rows": manifest.facts["num_trajectories"], "bytes": sum(f.bytes for f in manifest.files),
                  "peak": peak_memory_bytes(), "recall": manifest.facts["recall_at_1"]}))
"""


def spec_of(num_shards: int) -> RunSpec:
    """Keys of 128 dims."""
    spec = spec_with(num_shards=num_shards, num_trajectories_per_image=1, num_prototypes=64, M=16, ef_construction=60)
    return replace(spec, extractor=replace(spec.extractor, feature_dim=128))


@pytest.mark.slow
def test_the_peak_memory_of_a_builder_stays_flat_over_ten_times_the_size(tmp_path):
    """All parts and shards are done by one process, so that its peak is the largest of any task and of the driver."""
    pretrain = write_pretrain(tmp_path / "pretrain", spec_of(1))
    peaks = {}
    for parts in (4, 40):
        images = write_dataset(tmp_path / f"images-{parts}", parts=parts, rows=ROWS_PER_PART)
        num_shards = parts * ROWS_PER_PART // ROWS_PER_SHARD
        arguments = [images.uri, pretrain.uri, str(tmp_path / f"out-{parts}"), str(num_shards)]
        command = [sys.executable, "-c", BUILD, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        told = json.loads(done.stdout.splitlines()[-1])
        print(f"{told['rows']:>8} rows, {told['bytes'] >> 20:>4} MiB of base: peak {told['peak'] >> 20} MiB")
        peaks[parts] = told["peak"]
    assert peaks[40] < 1.1 * peaks[4]
