"""Damage is found, named and made good alone; kills and second builders leave a whole base."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from rapid_dist.errors import ArtifactError
from rapid_dist.knowledge_base.files import open_knowledge_base, shard_files, trajectory_files
from rapid_dist.knowledge_base.versions import DAMAGED, damaged_files, measure_base, verify_files
from rapid_dist.stages.knowledge_base import run_append, run_build_knowledge_base
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.stage import FinishedParts
from rapid_dist.storage.store import Store
from tests.stages.kb.helpers import SerialMaps, rows_of, spec_with, write_dataset, write_pretrain

SPEC = spec_with()
PARTS, ROWS = 3, 400


@pytest.fixture
def maps(monkeypatch) -> SerialMaps:
    return SerialMaps().install(monkeypatch)


@pytest.fixture
def base(maps, tmp_path):
    sources = {
        "images": write_dataset(tmp_path / "images", parts=PARTS, rows=ROWS),
        "pretrain": write_pretrain(tmp_path / "pretrain"),
    }
    store = Store(tmp_path / "base")
    run_build_knowledge_base(SPEC, **sources, out=store)
    maps.calls.clear()
    return store, sources


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove(path):
    path.unlink()


def file_of(store, kind):
    shard = shard_files(read_manifest(store))[1]
    return getattr(shard, kind).path


@pytest.mark.parametrize("damage", [cut, flip, remove])
@pytest.mark.parametrize("kind", ["index", "rows", "centroids"])
def test_a_damaged_shard_is_found_and_named_and_only_it_is_built_again(base, maps, tmp_path, damage, kind):
    store, sources = base
    manifest, path, rows = read_manifest(store), file_of(store, kind), rows_of(store)
    whole = (tmp_path / "base" / path).read_bytes()
    others = {p: p.stat().st_mtime_ns for p in (tmp_path / "base").rglob("*") if "shard-00001" not in p.name}
    damage(tmp_path / "base" / path)
    assert list(verify_files(store, manifest)) == [path]
    assert damaged_files(store, manifest) == [path]
    again = run_build_knowledge_base(SPEC, **sources, out=store)
    assert dict(maps.calls) == {("shards", 0): 1}
    assert again.digest == manifest.digest
    assert (tmp_path / "base" / path).read_bytes() == whole
    changed = {p for p, time in others.items() if p.is_file() and p.stat().st_mtime_ns != time}
    assert changed == set()
    assert verify_files(store, again) == {}
    assert rows_of(store) == rows
    assert not store.exists(DAMAGED)


@pytest.mark.parametrize("damage", [cut, remove])
def test_a_cut_or_missing_shard_is_made_good_without_a_verification(base, maps, tmp_path, damage):
    store, sources = base
    damage(tmp_path / "base" / file_of(store, "rows"))
    run_build_knowledge_base(SPEC, **sources, out=store)
    assert dict(maps.calls) == {("shards", 0): 1}
    assert verify_files(store, read_manifest(store)) == {}


def test_a_reader_names_the_damaged_file_and_what_to_do(base, tmp_path):
    store, _ = base
    path = file_of(store, "index")
    flip(tmp_path / "base" / path)
    with pytest.raises(ArtifactError, match=f"{path} does not match its digest.*kb verify.*build again"):
        open_knowledge_base(SPEC.knowledge_base, store, read_manifest(store))


def test_a_damaged_trajectory_part_is_made_again_from_its_images_alone(base, maps, tmp_path):
    store, sources = base
    manifest = read_manifest(store)
    path = trajectory_files(manifest)[0][1].path
    flip(tmp_path / "base" / path)
    assert list(verify_files(store, manifest)) == [path]
    assert run_build_knowledge_base(SPEC, **sources, out=store).digest == manifest.digest
    assert dict(maps.calls) == {("parts", 0): 1}
    assert verify_files(store, manifest) == {}


def test_damage_of_appended_images_asks_for_those_images(base, maps, tmp_path):
    store, sources = base
    more = write_dataset(tmp_path / "more", parts=1, rows=50, seed=7)
    manifest = run_append(SPEC, more, sources["pretrain"], store)
    path = trajectory_files(manifest)[1][0].path
    remove(tmp_path / "base" / path)
    with pytest.raises(ArtifactError, match=rf"{path} is damaged.*kb append"):
        run_build_knowledge_base(SPEC, **sources, out=store)
    assert run_append(SPEC, more, sources["pretrain"], store).digest == manifest.digest
    assert verify_files(store, manifest) == {}


def test_what_all_shards_depend_on_is_not_made_up(base, tmp_path):
    store, sources = base
    (prototypes,) = (tmp_path / "base").glob("prototypes-*")
    cut(prototypes)
    with pytest.raises(ArtifactError, match="all shards depend on it"):
        run_build_knowledge_base(SPEC, **sources, out=store)


def test_measuring_again_gives_what_the_manifest_says(base):
    store, _ = base
    manifest = read_manifest(store)
    measured = measure_base(store, manifest)
    assert measured == {name: manifest.facts[name] for name in measured}
    assert measured["num_trajectories"] == PARTS * ROWS * 2


BUILDER = """
import os, signal, sys
from rapid_dist.storage.store import Store
from rapid_dist.stages.knowledge_base import run_build_knowledge_base
from tests.stages.kb.helpers import SerialMaps, spec_with

images, pretrain, out, fatal_map, fatal_part = sys.argv[1:]

class Maps(SerialMaps):
    def before(self, name, index):
        print(name, index, flush=True)
        if (name, index) == (fatal_map, int(fatal_part)):
            os.kill(os.getpid(), signal.SIGKILL)

Maps().install()
print(run_build_knowledge_base(spec_with(), Store(images), Store(pretrain), Store(out)).digest)
"""


def start_builder(tmp_path, out, fatal=("none", 0)):
    command = [sys.executable, "-c", BUILDER, *(str(tmp_path / n) for n in ("images", "pretrain", out))]
    command += [str(f) for f in fatal]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def finish_builder(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out.splitlines(), err


@pytest.mark.parametrize("fatal", [("trajectories", 1), ("shards", 2)])
def test_a_killed_build_resumes_and_does_only_what_was_missing(base, tmp_path, fatal):
    digest = read_manifest(base[0]).digest
    code, lines, _ = finish_builder(start_builder(tmp_path, "killed", fatal))
    assert code == -signal.SIGKILL
    out = Store(tmp_path / "killed")
    assert read_manifest(out) is None
    code, again, err = finish_builder(start_builder(tmp_path, "killed"))
    assert code == 0, err
    assert again[0] == " ".join(map(str, fatal))  # where it died
    assert not set(lines[:-1]) & set(again)
    assert again[-1] == digest
    assert verify_files(out, read_manifest(out)) == {}
    assert {p.name for p in (tmp_path / "killed").iterdir()} == {p.name for p in (tmp_path / "base").iterdir()}


def test_a_part_whose_file_was_lost_while_the_build_was_dead_is_done_again(base, maps, tmp_path):
    store, sources = base
    finish_builder(start_builder(tmp_path, "killed", ("shards", 2)))
    out = tmp_path / "killed"
    (work,) = out.glob("work-build-*")
    assert sorted(FinishedParts(Store(work), "shards").load()) == [0, 1]
    lost = next((out / "shards").glob("shard-00001-*.hnsw"))
    cut(lost)
    manifest = run_build_knowledge_base(SPEC, **sources, out=Store(out))
    assert {part for (name, part) in maps.calls if name == "shards"} == {1, 2}
    assert manifest.digest == read_manifest(store).digest
    assert verify_files(Store(out), manifest) == {}


def test_two_builders_into_one_folder_leave_one_whole_base(base, tmp_path):
    both = [start_builder(tmp_path, "shared") for _ in range(2)]
    answers = [finish_builder(process) for process in both]
    assert [code for code, _, _ in answers] == [0, 0], answers
    digest = read_manifest(base[0]).digest
    assert {lines[-1] for _, lines, _ in answers} == {digest}
    out = Store(tmp_path / "shared")
    assert read_manifest(out).digest == digest
    assert verify_files(out, read_manifest(out)) == {}
    assert {p.name for p in (tmp_path / "shared").iterdir()} == {p.name for p in (tmp_path / "base").iterdir()}


@pytest.mark.parametrize("differs", [False, True])
def test_a_builder_that_is_overtaken_takes_the_base_that_is_there(base, maps, tmp_path, monkeypatch, differs):
    """While one builder measures its recall another begins and finishes; differs: on other hardware, other bits."""
    import rapid_dist.knowledge_base.trajectory as trajectory

    _, sources = base
    out, original = Store(tmp_path / "shared"), trajectory.keys_of_latents
    if differs:
        monkeypatch.setattr(trajectory, "keys_of_latents", lambda *a, **k: original(*a, **k) * (1 + 1e-6))

    def overtake(name, index):
        if name == "recall" and not maps.calls["overtaken", 0]:
            maps.calls["overtaken", 0] = 1
            monkeypatch.setattr(trajectory, "keys_of_latents", original)
            if differs:  # the other has its own progress
                (work,) = (tmp_path / "shared").glob("work-*")
                out.delete_folder(work.name)
            maps.first = run_build_knowledge_base(SPEC, **sources, out=out)

    monkeypatch.setattr(maps, "before", overtake)
    second = run_build_knowledge_base(SPEC, **sources, out=out)
    assert second.digest == maps.first.digest == read_manifest(base[0]).digest
    assert verify_files(out, second) == {}
    files = {p.relative_to(tmp_path / "shared").as_posix() for p in (tmp_path / "shared").rglob("*") if p.is_file()}
    assert files == {f.path for f in second.files} | {"manifest.json", "versions/000001.json"}
