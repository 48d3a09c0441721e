"""Damaged artefacts and stores that refuse: one line, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time

import pytest

from rapid_dist import layout

SECRETS = ("AKIATESTACCESS", "test-secret-never-shown")


def flip_byte(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("pretrain/denoiser.safetensors", "remove the folder and run the stage again"),
        ("train/denoiser.safetensors", "remove the folder and run the stage again"),
        ("knowledge_base/shards/shard-00000-*.hnsw", "kb verify` on it, then build again: only what is damaged"),
    ],
)
def test_a_file_that_does_not_match_its_digest_is_named_and_nothing_else_is_touched(
    ray_cluster, refused, spec_file, copied_run, state, pattern, remedy
):
    shutil.rmtree(copied_run / "samples")
    (path,) = copied_run.glob(pattern)
    damaged = path.relative_to(copied_run)
    flip_byte(copied_run / damaged)
    before = state(copied_run)
    del before[copied_run / layout.OWNER_LOG]  # the owner's log also has the time of a stage that failed
    line = refused("sample", spec_file(), "--out", copied_run, after_progress=True)
    assert f"{copied_run}/{damaged} does not match its digest" in line
    assert remedy in line
    after = state(copied_run)
    assert {path: after[path] for path in before} == before
    assert not list((copied_run / "samples").rglob("manifest.json"))


@pytest.mark.parametrize("folder", ["images/public", "images/private", "pretrain", "knowledge_base", "train"])
def test_an_altered_manifest_is_refused_before_ray_starts(no_ray, refused, spec_file, copied_run, state, folder):
    manifest = copied_run / folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"stage": "', '"stage": "x', 1))
    before = state(copied_run)
    line = refused("run", spec_file(), "--out", copied_run, after_progress=True)
    assert f"{manifest} does not match its own digest: it was altered" in line
    assert state(copied_run) == before


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_file(no_ray, refused, spec_file, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    line = refused("run", spec_file(), "--out", tmp_path / "out")
    assert f"no space left at {tmp_path}/out; free some space and run the same line again" in line
    assert list((tmp_path / "out").iterdir()) == []


def test_an_out_path_that_is_a_file_is_one_line(no_ray, refused, spec_file, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert f"{tmp_path}/out is a file" in refused("run", spec_file(), "--out", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.fixture
def closed_endpoint(monkeypatch):
    """An S3 endpoint on a loopback port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": SECRETS[0],
        "AWS_SECRET_ACCESS_KEY": SECRETS[1],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_RETRY_MODE": "standard",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("as_out", [True, False])
def test_a_refused_s3_endpoint_is_one_line_within_seconds_and_never_shows_credentials(
    no_ray, refused, closed_endpoint, spec_file, tmp_path, as_out
):
    started = time.monotonic()
    if as_out:
        line = refused("run", spec_file(), "--out", "s3://bucket/run")
    else:
        line = refused("ingest", "s3://bucket/images", "--out", tmp_path / "out", "--privacy-class", "public")
    assert time.monotonic() - started < 30
    assert line.startswith("rapid-dist: s3://bucket/")
    assert "refused" in line
    assert "AWS_ENDPOINT_URL" in line
    assert not any(secret in line for secret in SECRETS)


@pytest.mark.parametrize("scheme", ["gs", "S3"])
def test_an_unknown_scheme_is_named(no_ray, refused, spec_file, scheme):
    line = refused("run", spec_file(), "--out", f"{scheme}://bucket/run")
    assert f"has scheme {scheme!r}; expected a local path, file:// or s3://" in line
