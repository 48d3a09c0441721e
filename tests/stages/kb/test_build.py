"""Build, append and compact: what a version holds, and that nothing is done twice or rebuilt without need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rapid_dist.errors import ArtifactError, InputError, PrivacyError
from rapid_dist.knowledge_base.clusters import hash_shards
from rapid_dist.knowledge_base.files import open_knowledge_base, open_router, shard_files
from rapid_dist.knowledge_base.versions import drop_old_versions, open_newest, read_versions
from rapid_dist.stages.kb_work import group_parts
from rapid_dist.stages.knowledge_base import run_append, run_build_knowledge_base, run_compact
from rapid_dist.storage.manifest import MANIFEST, read_manifest, write_manifest
from rapid_dist.storage.store import Store
from tests.stages.kb.helpers import SerialMaps, rows_of, spec_with, write_dataset, write_pretrain

PARTS, ROWS = 4, 200
SPEC = spec_with()


@pytest.fixture
def maps(monkeypatch) -> SerialMaps:
    return SerialMaps().install(monkeypatch)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    path = tmp_path_factory.mktemp("sources")
    return {
        "images": write_dataset(path / "images", parts=PARTS, rows=ROWS),
        "pretrain": write_pretrain(path / "pretrain"),
    }


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """Further images, whose example ids are those of the first ones."""
    return write_dataset(tmp_path_factory.mktemp("more") / "images", parts=1, rows=90, seed=9)


def build(sources, path, spec=SPEC):
    store = Store(path)
    return store, run_build_knowledge_base(spec, sources["images"], sources["pretrain"], store)


def state(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in Path(folder).rglob("*") if p.is_file()}


def exact(store, manifest, queries, count=5):
    base = open_knowledge_base(spec_with(method="exact").knowledge_base, store, manifest)
    return base.query(queries, num_neighbors=count)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(3).normal(size=(40, 8)).astype("f4")


def test_a_base_holds_every_trajectory_once_in_the_shard_of_its_id(maps, sources, tmp_path):
    store, manifest = build(sources, tmp_path)
    rows = rows_of(store)
    assert sorted(rows) == list(range(PARTS * ROWS * 2))
    expected = hash_shards(np.arange(PARTS * ROWS * 2), 3)
    assert [rows[i][4] for i in sorted(rows)] == expected.tolist()
    assert manifest.facts["num_trajectories"] == len(rows)
    assert manifest.facts["recall_at_1"] > 0.95
    assert {p.name for p in tmp_path.iterdir()} == {
        "manifest.json", "versions", "shards", "routing", "trajectories",
        *(f.path for f in manifest.files if "/" not in f.path),
    }  # fmt: skip


def test_the_same_inputs_give_the_same_base(maps, sources, tmp_path):
    assert build(sources, tmp_path / "a")[1].digest == build(sources, tmp_path / "b")[1].digest


def test_a_finished_base_is_left_as_it_is(maps, sources, tmp_path):
    _, manifest = build(sources, tmp_path)
    before, calls = state(tmp_path), sum(maps.calls.values())
    assert build(sources, tmp_path)[1].digest == manifest.digest
    assert sum(maps.calls.values()) == calls
    assert state(tmp_path) == before
    with pytest.raises(ArtifactError, match="another spec"):
        build(sources, tmp_path, spec_with(M=9))
    assert state(tmp_path) == before


def test_how_a_base_is_asked_does_not_make_it_another_base(maps, sources, tmp_path):
    _, manifest = build(sources, tmp_path)
    asked = spec_with(serving="service", num_probes=2)
    assert build(sources, tmp_path, asked)[1].digest == manifest.digest


def test_image_parts_are_taken_together_until_pieces_are_worth_a_read(sources):
    files = read_manifest(sources["images"]).files
    assert [len(g) for g in group_parts(files, min_rows=1)] == [1] * PARTS
    assert [len(g) for g in group_parts(files, min_rows=ROWS + 1)] == [2, 2]
    assert [len(g) for g in group_parts(files, min_rows=10 * ROWS)] == [PARTS]
    assert group_parts([], min_rows=5) == []


def test_a_base_by_clusters_keeps_like_keys_together_so_that_one_probe_finds_more(maps, sources, tmp_path):
    (_, by_hash), (store, by_cluster) = (
        build(sources, tmp_path / a, spec_with(assignment=a, num_shards=4)) for a in ("hash", "cluster")
    )
    assert sorted(rows_of(store)) == list(range(PARTS * ROWS * 2))
    one_probe = [m.facts["routing"]["1"]["recall_at_1"] for m in (by_hash, by_cluster)]
    assert one_probe[1] > one_probe[0] + 0.2
    assert by_cluster.facts["largest_shard_rows"] <= 1.25 * PARTS * ROWS * 2 / 4 + 1
    full = [m.facts["routing"]["4"]["recall_at_1"] for m in (by_hash, by_cluster)]
    assert min(full) > 0.95


@pytest.mark.parametrize("assignment", ["hash", "cluster"])
def test_appended_images_become_new_shards_and_no_file_of_the_base_changes(
    maps, sources, more, queries, tmp_path, assignment
):
    spec = spec_with(assignment=assignment)
    store, first = build(sources, tmp_path, spec)
    before, old = state(tmp_path), rows_of(store)
    second = run_append(spec, more, sources["pretrain"], store)
    after = state(tmp_path)
    assert {p: s for p, s in after.items() if p in before and p.name != MANIFEST} == {
        p: s for p, s in before.items() if p.name != MANIFEST
    }
    new = rows_of(store)
    assert {i: new[i] for i in old} == old
    assert sorted(new) == list(range(PARTS * ROWS * 2 + 180))  # ids of the new set start above all others
    assert (second.facts["version"], second.digest != first.digest) == (2, True)
    assert [s.name for s in shard_files(second)][: len(shard_files(first))] == [s.name for s in shard_files(first)]
    assert rows_of(store, first) == old  # the first version still opens
    assert exact(store, first, queries).trajectory_id.max() < PARTS * ROWS * 2
    assert second.facts["recall_at_1"] > 0.9


def test_the_same_images_are_appended_once(maps, sources, more, tmp_path):
    store, _ = build(sources, tmp_path)
    second = run_append(SPEC, more, sources["pretrain"], store)
    before = state(tmp_path)
    assert run_append(SPEC, more, sources["pretrain"], store).digest == second.digest
    assert run_append(SPEC, sources["images"], sources["pretrain"], store).digest == second.digest
    assert build(sources, tmp_path)[1].digest == second.digest  # building again keeps what was appended
    assert state(tmp_path) == before


def test_only_public_images_of_the_same_shape_are_appended(maps, sources, tmp_path):
    store, _ = build(sources, tmp_path / "base")
    before = state(tmp_path / "base")
    private = write_dataset(tmp_path / "private", parts=1, rows=4, privacy_class="private")
    with pytest.raises(PrivacyError, match="expected public data here"):
        run_append(SPEC, private, sources["pretrain"], store)
    other = write_dataset(tmp_path / "other", parts=1, rows=4, shape=(1, 9, 9))
    with pytest.raises(InputError, match="same image size"):
        run_append(SPEC, other, sources["pretrain"], store)
    with pytest.raises(ArtifactError, match="other public models"):
        run_append(SPEC, sources["images"], other_models(tmp_path / "p"), store)
    assert state(tmp_path / "base") == before


def other_models(path):
    """Public models of the same shape and another digest."""
    store = write_pretrain(path)
    write_manifest(store, replace(read_manifest(store), spec={"other": 1}))
    return store


@pytest.mark.parametrize("assignment", ["hash", "cluster"])
def test_compaction_merges_small_shards_and_changes_no_answer(maps, sources, more, queries, tmp_path, assignment):
    spec = spec_with(assignment=assignment)
    store, _ = build(sources, tmp_path, spec)
    second = run_append(spec, more, sources["pretrain"], store)
    third = run_compact(spec, sources["pretrain"], store)
    assert third.facts["version"] == 3
    assert len(shard_files(third)) < len(shard_files(second))
    old, new = exact(store, second, queries), exact(store, third, queries)
    assert old.trajectory_id.tolist() == new.trajectory_id.tolist()
    assert old.distance.tobytes() == new.distance.tobytes()
    strip = {i: row[:4] for i, row in rows_of(store).items()}
    assert strip == {i: row[:4] for i, row in rows_of(store, second).items()}
    assert open_router(store, third, space="cosine").num_shards == len(shard_files(third))
    assert run_compact(spec, sources["pretrain"], store, max_rows=1).digest == third.digest  # nothing fits


def test_old_files_stay_until_they_are_dropped_and_then_only_they_go(maps, sources, more, tmp_path):
    store, _ = build(sources, tmp_path)
    second = run_append(SPEC, more, sources["pretrain"], store)
    third = run_compact(SPEC, sources["pretrain"], store)
    assert sorted(read_versions(store)) == [1, 2, 3]
    rows = rows_of(store)
    num_dropped = drop_old_versions(store)
    kept = {f.path for f in third.files}
    assert num_dropped == len({f.path for f in second.files} - kept) + 1  # and the first version's recall queries
    on_disk = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert on_disk == kept | {MANIFEST, "versions/000003.json"}
    assert rows_of(store) == rows
    assert drop_old_versions(store) == 0


def test_of_two_changes_to_one_version_the_second_is_told_and_the_base_stays_whole(
    maps, sources, more, tmp_path, monkeypatch
):
    """A compaction that began from version 2 finishes while an append from version 2 is still at work."""
    store, _ = build(sources, tmp_path)
    run_append(SPEC, more, sources["pretrain"], store)
    other = write_dataset(tmp_path.parent / f"{tmp_path.name}-other", parts=1, rows=30, seed=4)

    def interfere(name, index):
        if name == "recall" and not maps.calls["done", 0]:
            maps.calls["done", 0] = 1
            run_compact(SPEC, sources["pretrain"], store)

    monkeypatch.setattr(maps, "before", interfere)
    with pytest.raises(ArtifactError, match="changed by another command meanwhile and is now at version 3"):
        run_append(SPEC, other, sources["pretrain"], store)
    newest = open_newest(store)
    assert newest.facts["version"] == 3
    assert len(rows_of(store)) == newest.facts["num_trajectories"] == PARTS * ROWS * 2 + 180
    assert not list(tmp_path.glob("work-*"))
    again = run_append(SPEC, other, sources["pretrain"], store)
    assert again.facts["version"] == 4
    assert len(rows_of(store)) == PARTS * ROWS * 2 + 180 + 60


def test_a_version_whose_writer_died_before_the_manifest_was_replaced_is_published_by_the_next(
    maps, sources, more, tmp_path
):
    store, first = build(sources, tmp_path)
    second = run_append(SPEC, more, sources["pretrain"], store)
    store.write_bytes(MANIFEST, first.to_bytes())
    assert read_manifest(store).digest == first.digest
    assert run_compact(SPEC, sources["pretrain"], store, max_rows=1).digest == second.digest
    assert read_manifest(store).digest == second.digest
