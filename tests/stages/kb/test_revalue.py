"""A base whose values were made anew for another split step is the base that a build would have made, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import rapid_dist.knowledge_base.index as shard
import rapid_dist.knowledge_base.trajectory as trajectory
from rapid_dist.errors import ArtifactError, PrivacyError
from rapid_dist.knowledge_base.files import shard_files, trajectory_files
from rapid_dist.knowledge_base.versions import measure_base, verify_files
from rapid_dist.stages.kb_revalue import run_revalue_knowledge_base
from rapid_dist.stages.knowledge_base import run_append, run_build_knowledge_base, run_compact
from rapid_dist.storage.manifest import read_manifest, write_manifest
from rapid_dist.storage.store import Store
from tests.stages.kb.helpers import SerialMaps, rows_of, spec_with, write_dataset, write_pretrain

PARTS, ROWS = 3, 400


def spec_at(split_step: int, *, query_step: int = 40, **knowledge_base):
    spec = spec_with(**knowledge_base)
    return replace(spec, schedule=replace(spec.schedule, split_step=split_step, query_step=query_step))


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


@pytest.fixture
def like(maps, sources, tmp_path) -> Store:
    """A base at split step 30."""
    store = Store(tmp_path / "like")
    run_build_knowledge_base(spec_at(30), **sources, out=store)
    maps.calls.clear()
    return store


def files_under(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def data_under(folder) -> dict[str, bytes]:
    """All files but the manifests, which say how long it took."""
    return {name: data for name, data in files_under(folder).items() if not name.endswith(".json")}


@pytest.mark.parametrize(
    "settings", [{}, {"assignment": "cluster"}, {"num_trajectories_per_image": 1, "num_shards": 2}]
)
def test_it_is_the_base_that_a_build_makes_and_no_key_or_index_is_made(maps, sources, tmp_path, monkeypatch, settings):
    old = run_build_knowledge_base(spec_at(30, **settings), **sources, out=Store(tmp_path / "old"))
    fresh = run_build_knowledge_base(spec_at(12, **settings), **sources, out=Store(tmp_path / "fresh"))
    before = files_under(tmp_path / "old")
    maps.calls.clear()

    def never(*args, **kwargs):
        raise AssertionError("a key or an index was made")

    monkeypatch.setattr(trajectory, "keys_of_latents", never)
    monkeypatch.setattr(shard, "build_shard", never)
    out = Store(tmp_path / "out")
    made = run_revalue_knowledge_base(spec_at(12, **settings), **sources, like=Store(tmp_path / "old"), out=out)
    assert {name for name, _ in maps.calls} == {"values", "shards"}
    assert (made.digest, dict(made.facts)) == (fresh.digest, dict(fresh.facts))
    assert data_under(tmp_path / "out") == data_under(tmp_path / "fresh")
    assert set(files_under(tmp_path / "out")) == set(files_under(tmp_path / "fresh"))
    assert files_under(tmp_path / "old") == before
    theirs, mine = rows_of(Store(tmp_path / "old")), rows_of(out)
    assert {i: (row[0], *row[2:]) for i, row in mine.items()} == {i: (row[0], *row[2:]) for i, row in theirs.items()}
    assert all(row[1] != theirs[i][1] for i, row in mine.items())
    measured = measure_base(out, made)  # what was taken over is still true
    assert measured == {name: old.facts[name] for name in measured}


def test_the_same_split_step_gives_the_same_base(like, sources, tmp_path):
    made = run_revalue_knowledge_base(spec_at(30), **sources, like=like, out=Store(tmp_path / "out"))
    assert made.digest == read_manifest(like).digest
    assert files_under(tmp_path / "out").keys() == files_under(tmp_path / "like").keys()


def test_it_says_how_long_it_took(like, sources, tmp_path, capfd):
    run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=Store(tmp_path / "out"))
    assert f"{PARTS * ROWS * 2} values in " in capfd.readouterr().err


def test_a_finished_base_is_left_as_it_is_even_when_its_like_is_gone(like, maps, sources, tmp_path):
    out = Store(tmp_path / "out")
    made = run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    before = files_under(tmp_path / "out")
    maps.calls.clear()
    gone = Store(tmp_path / "gone")
    assert run_revalue_knowledge_base(spec_at(12), **sources, like=gone, out=out).digest == made.digest
    assert run_build_knowledge_base(spec_at(12), **sources, out=out).digest == made.digest
    assert not maps.calls
    with pytest.raises(ArtifactError, match="another spec"):
        run_revalue_knowledge_base(spec_at(13), **sources, like=gone, out=out)
    assert files_under(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (spec_at(12, M=9), r"knowledge_base\.M: 8 -> 9"),
        (spec_at(12, query_step=41), r"schedule\.query_step: 40 -> 41"),
        (spec_at(12, num_shards=4, assignment="cluster"), r"knowledge_base\.assignment.*num_shards: 3 -> 4"),
    ],
)
def test_a_base_that_differs_in_more_is_refused_by_what_differs(like, sources, tmp_path, spec, named):
    with pytest.raises(ArtifactError, match=rf"more than schedule\.split_step \({named}") as refused:
        run_revalue_knowledge_base(spec, **sources, like=like, out=Store(tmp_path / "out"))
    assert "split_step:" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_other_images_other_models_and_private_images_are_refused(like, sources, tmp_path):
    other = write_dataset(tmp_path / "other", parts=1, rows=40, seed=3)
    private = write_dataset(tmp_path / "private", parts=1, rows=40, privacy_class="private")
    models = write_pretrain(tmp_path / "models")
    write_manifest(models, replace(read_manifest(models), spec={"other": 1}))
    for changes, error, reason in (
        ({"images": other}, ArtifactError, "other inputs .public changed"),
        ({"pretrain": models}, ArtifactError, "other inputs .pretrain changed"),
        ({"images": private}, PrivacyError, "expected public data here"),
        ({"like": Store(tmp_path / "nothing")}, ArtifactError, "has no manifest.json"),
    ):
        given = {**sources, "like": like, **changes}
        with pytest.raises(error, match=reason):
            run_revalue_knowledge_base(spec_at(12), **given, out=Store(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_base_that_was_appended_to_or_compacted_is_refused_with_the_reason(maps, sources, tmp_path):
    grown, merged = Store(tmp_path / "grown"), Store(tmp_path / "merged")
    for store in (grown, merged):
        run_build_knowledge_base(spec_at(30), **sources, out=store)
    run_append(spec_at(30), write_dataset(tmp_path / "more", parts=1, rows=40, seed=3), sources["pretrain"], grown)
    run_compact(spec_at(30), sources["pretrain"], merged, max_rows=10_000)
    for store, reason in ((grown, "was appended to"), (merged, "was compacted")):
        with pytest.raises(ArtifactError, match=reason):
            run_revalue_knowledge_base(spec_at(12), **sources, like=store, out=Store(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["index", "rows", "centroids", "trajectories", "queries"])
def test_damage_of_the_like_is_named_and_never_copied(like, maps, sources, tmp_path, kind):
    """A changed byte shows only when the file is read; then nothing is finished, and after a repair it goes on."""
    manifest, out = read_manifest(like), Store(tmp_path / "out")
    paths = {k: getattr(shard_files(manifest)[1], k).path for k in ("index", "rows", "centroids")}
    paths["trajectories"] = trajectory_files(manifest)[0][1].path
    paths["queries"] = next(f.path for f in manifest.files if f.path.startswith("queries-"))
    damaged = tmp_path / "like" / paths[kind]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{paths[kind]} does not match its digest"):
        run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    assert read_manifest(out) is None
    assert paths[kind] not in files_under(tmp_path / "out")
    damaged.write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match=rf"is damaged \({paths[kind]}\)"):
        run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    damaged.write_bytes(whole)
    made = run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    assert verify_files(out, made) == {}
    assert max(maps.calls.values()) <= 2  # only what had failed was done twice


@pytest.mark.parametrize("fatal", [("values", 1), ("shards", 2)])
def test_a_killed_revaluation_resumes_and_does_only_what_was_missing(like, maps, sources, tmp_path, fatal, monkeypatch):
    fresh = run_build_knowledge_base(spec_at(12), **sources, out=Store(tmp_path / "fresh"))
    maps.calls.clear()
    out = Store(tmp_path / "out")

    def kill(name, index):
        if (name, index) == fatal:
            raise KeyboardInterrupt

    monkeypatch.setattr(maps, "before", kill)
    with pytest.raises(KeyboardInterrupt):
        run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    assert read_manifest(out) is None
    monkeypatch.undo()
    maps.install(monkeypatch)
    made = run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    assert made.digest == fresh.digest
    assert {part for part, count in maps.calls.items() if count > 1} == {fatal}
    assert files_under(tmp_path / "out").keys() == files_under(tmp_path / "fresh").keys()


def test_what_the_outcome_loses_is_made_anew_from_its_images(like, maps, sources, tmp_path):
    out = Store(tmp_path / "out")
    made = run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    whole = data_under(tmp_path / "out")
    for path in (trajectory_files(made)[0][1].path, shard_files(made)[0].index.path, shard_files(made)[2].rows.path):
        (tmp_path / "out" / path).unlink()
    maps.calls.clear()
    assert run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out).digest == made.digest
    assert dict(maps.calls) == {("parts", 0): 1, ("shards", 0): 1, ("shards", 1): 1}
    assert data_under(tmp_path / "out") == whole


def test_the_outcome_is_as_good_a_like_as_a_built_base(like, sources, tmp_path):
    run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=Store(tmp_path / "one"))
    back = run_revalue_knowledge_base(spec_at(30), **sources, like=Store(tmp_path / "one"), out=Store(tmp_path / "two"))
    assert back.digest == read_manifest(like).digest


def test_a_builder_that_finishes_first_is_agreed_with(like, maps, sources, tmp_path, monkeypatch):
    out = Store(tmp_path / "out")

    def overtake(name, index):
        if (name, index) == ("shards", 1) and not maps.calls["overtaken", 0]:
            maps.calls["overtaken", 0] = 1
            maps.first = run_build_knowledge_base(spec_at(12), **sources, out=out)

    monkeypatch.setattr(maps, "before", overtake)
    made = run_revalue_knowledge_base(spec_at(12), **sources, like=like, out=out)
    assert made.digest == maps.first.digest
    assert verify_files(out, made) == {}
    assert set(files_under(tmp_path / "out")) == {f.path for f in made.files} | {
        "manifest.json",
        "versions/000001.json",
    }
