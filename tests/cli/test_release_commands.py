"""Export and gate from the command line, on a finished run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.tiny import CLASS_COUNTS, NUM_PRIVATE


def test_a_run_and_a_later_draw_are_exported(call, finished_run, state, tmp_path):
    before = state(finished_run.out.uri)
    answer = json.loads(
        call("export", finished_run.out.uri, "--format", "folder", "--out", tmp_path / "a", "--json").stdout
    )
    assert answer["images"] == 40
    call("sample", finished_run.out.uri, "--num", 6, "--class", "2=6", "--out", tmp_path / "more")
    call("export", tmp_path / "more", "--format", "npz", "--out", tmp_path / "b")
    assert np.load(tmp_path / "b" / "samples.npz")["labels"].tolist() == [2] * 6
    assert state(finished_run.out.uri) == before

    text = "".join(p.read_text() for f in "ab" for p in (tmp_path / f).glob("*") if p.suffix in (".md", ".json"))
    spec = finished_run.spec.data
    assert not any(str(path) in text for path in (spec.private, spec.test, finished_run.out.uri))
    words = set(text.replace('"', " ").replace(",", " ").split())
    assert not words & {str(n) for n in (*CLASS_COUNTS, NUM_PRIVATE)}


def test_ray_data_reads_the_images(call, finished_run, tmp_path):
    ray_data = pytest.importorskip("ray.data")
    for form in ("folder", "webdataset", "parquet"):
        call("export", finished_run.out.uri, "--format", form, "--out", tmp_path / form)
    rows = ray_data.read_images(str(tmp_path / "folder" / "train"), file_extensions=["png"]).take_all()
    assert (len(rows), rows[0]["image"].shape) == (40, (8, 8))
    rows = ray_data.read_webdataset(str(tmp_path / "webdataset" / "data")).take_all()
    assert (len(rows), np.asarray(rows[0]["png"]).shape[:2]) == (40, (8, 8))
    rows = ray_data.read_parquet(str(tmp_path / "parquet" / "data")).take_all()
    import io

    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).size == (8, 8)


def test_the_gate_passes_fails_and_refuses(call, refused, copied_run):
    passed = call("check", copied_run, "--max-epsilon", 8, "--min-accuracy", 0)
    assert passed.exit_code == 0
    assert [line.split()[0] for line in passed.stdout.splitlines()] == ["PASS", "PASS"]
    failed = call("check", copied_run, "--max-epsilon", 0.1, "--max-fid", 1e9, "--json")
    assert failed.exit_code == 1
    answer = json.loads(failed.stdout)
    assert next(c["passed"] for c in answer["checks"]) is False
    assert answer["passed"] is False

    assert "no bound" in refused("check", copied_run)
    part = next((copied_run / "samples" / "private" / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    assert "does not match its digest" in refused("check", copied_run, "--max-epsilon", 8)


def test_what_cannot_be_exported_is_refused(refused, finished_run, tmp_path):
    assert "not empty" in refused("export", finished_run.out.uri, "--format", "npz", "--out", finished_run.out.uri)
    assert "manifest.json" in refused("export", tmp_path, "--format", "npz", "--out", tmp_path / "x")
    assert "own samples" in refused(
        "export", finished_run.store("samples/private").uri, "--format", "npz", "--out", tmp_path / "x"
    )
    assert "expected 'sample'" in refused(
        "export", finished_run.store("images/private").uri, "--format", "npz", "--out", tmp_path / "x"
    )
