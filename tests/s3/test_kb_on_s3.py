"""A knowledge base built from S3 to S3 is that of a disk, survives damage, and shows no credential."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from rapid_dist.errors import ArtifactError, StorageError
from rapid_dist.knowledge_base.files import shard_files
from rapid_dist.knowledge_base.versions import drop_old_versions, measure_base, open_newest, verify_files
from rapid_dist.stages.kb_revalue import run_revalue_knowledge_base
from rapid_dist.stages.knowledge_base import run_append, run_build_knowledge_base, run_compact
from rapid_dist.storage.store import Store
from tests.stages.kb.helpers import SerialMaps, rows_of, spec_with, write_dataset, write_pretrain

SECRETS = (b"test-access", b"test-secret-never-shown")
SPEC = spec_with()


@pytest.fixture
def maps(monkeypatch):
    return SerialMaps().install(monkeypatch)


def everything_under(uri):
    """Path -> bytes of all objects under a prefix."""
    store = Store(uri)
    return {path: store.fs.cat_file(path) for path in store.fs.find(store.path())}


def test_a_base_from_s3_to_s3_is_that_of_a_disk_and_no_object_log_or_error_holds_a_credential(
    s3, maps, tmp_path, caplog, capfd, monkeypatch
):
    caplog.set_level(logging.INFO)
    here = {"images": write_dataset(tmp_path / "images", parts=2, rows=150), "pretrain": write_pretrain(tmp_path / "p")}
    there = {"images": write_dataset(f"{s3}/kb/images", parts=2, rows=150), "pretrain": write_pretrain(f"{s3}/kb/p")}
    local = run_build_knowledge_base(SPEC, **here, out=Store(tmp_path / "base"))
    remote = run_build_knowledge_base(SPEC, **there, out=Store(f"{s3}/kb/base"))
    assert remote.digest == local.digest
    more = write_dataset(f"{s3}/kb/more", parts=1, rows=40, seed=5)
    run_append(SPEC, more, there["pretrain"], Store(f"{s3}/kb/base"))
    newest = run_compact(SPEC, there["pretrain"], Store(f"{s3}/kb/base"))
    store = Store(f"{s3}/kb/base")
    assert (newest.facts["version"], open_newest(store).digest) == (3, newest.digest)
    assert drop_old_versions(store) > 0
    assert len(rows_of(store)) == 2 * (300 + 40)
    assert measure_base(store, newest)["recall_at_1"] == newest.facts["recall_at_1"]

    path = shard_files(newest)[0].index.path
    store.write_bytes(path, store.read_bytes(path)[:-1] + b"x")
    found = verify_files(store, newest)
    assert list(found) == [path]
    maps.calls.clear()
    run_build_knowledge_base(SPEC, **there, out=store)
    assert dict(maps.calls) == {("shards", 0): 1}
    assert verify_files(store, newest) == {}

    errors = [str(e) for e in found.values()]
    store.delete(shard_files(newest)[0].rows.path)
    with pytest.raises(ArtifactError, match="is missing though its manifest names it") as missing:
        rows_of(store)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="refused") as closed:
        run_build_knowledge_base(SPEC, **there, out=Store(f"{s3}/kb/closed"))
    monkeypatch.undo()
    said = capfd.readouterr()
    errors += [str(missing.value), str(closed.value), said.out, said.err, caplog.text]
    assert not any(secret.decode() in text for secret in SECRETS for text in errors)


def test_no_object_of_a_base_holds_a_credential(s3, maps):
    images, pretrain = write_dataset(f"{s3}/kept/images", parts=1, rows=60), write_pretrain(f"{s3}/kept/p")
    killed = KeyboardInterrupt("in the middle")

    def interrupt(name, index):
        if (name, index) == ("shards", 1):
            raise killed

    maps.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_build_knowledge_base(SPEC, images, pretrain, Store(f"{s3}/kept/base"))
    half = everything_under(f"{s3}/kept/base")
    assert any("begun.json" in path for path in half)  # what a killed build leaves is looked at too
    maps.before = lambda name, index: None
    run_build_knowledge_base(SPEC, images, pretrain, Store(f"{s3}/kept/base"))
    whole = everything_under(f"{s3}/kept/base")
    assert not any("begun.json" in path or "work-" in path for path in whole)
    assert not [path for path, data in {**half, **whole}.items() if any(secret in data for secret in SECRETS)]


def test_values_are_made_anew_from_and_to_s3(s3, maps, tmp_path):
    images, pretrain = write_dataset(f"{s3}/new/images", parts=2, rows=150), write_pretrain(f"{s3}/new/p")
    later = replace(SPEC, schedule=replace(SPEC.schedule, split_step=12))
    there, here = Store(f"{s3}/new/like"), Store(tmp_path / "like")
    for like in (there, here):
        run_build_knowledge_base(SPEC, images, pretrain, like)
    fresh = run_build_knowledge_base(later, images, pretrain, Store(tmp_path / "fresh"))
    for like, out in ((there, f"{s3}/new/one"), (here, f"{s3}/new/two"), (there, tmp_path / "three")):
        made = run_revalue_knowledge_base(later, images, pretrain, like, Store(out))
        assert made.digest == fresh.digest
        assert verify_files(Store(out), made) == {}
