"""The knowledge-base commands on a finished run: what they print, write and refuse."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from rapid_dist import layout
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import read_all_images
from tests.cli.test_answers import last_object
from tests.stages.kb.helpers import SerialMaps, write_dataset
from tests.tiny import NUM_PUBLIC


@pytest.fixture(autouse=True)
def serial_maps(monkeypatch):
    """These commands are the same with Ray; how its maps behave is tested elsewhere."""
    return SerialMaps().install(monkeypatch)


@pytest.fixture
def base(copied_run):
    return copied_run / layout.KNOWLEDGE_BASE


def public_image(copied_run, index):
    """(H, W) of a public example of the run."""
    store = Store(copied_run / layout.PUBLIC_IMAGES)
    table = read_all_images(store, read_manifest(store))
    return table.image[list(table.example_id).index(index), 0]


@pytest.mark.parametrize("inside", ["", layout.KNOWLEDGE_BASE])
def test_stats_say_what_the_manifest_says(no_ray, call, copied_run, base, inside):
    stats = last_object(call("kb", "stats", copied_run / inside, "--json"))
    manifest = read_manifest(Store(base))
    assert stats["digest"] == manifest.digest
    assert (stats["version"], stats["num_trajectories"], stats["num_shards"]) == (1, NUM_PUBLIC, 2)
    assert sum(stats["rows_per_shard"].values()) == NUM_PUBLIC
    assert sum(stats["bytes"].values()) == sum(f.bytes for f in manifest.files)
    assert set(stats["routing"]) == {"1", "2"}
    said = call("kb", "stats", copied_run / inside).stdout
    assert f"{NUM_PUBLIC} in 1 sets" in said
    assert "2 shards" not in said
    assert "shards        2 by hash" in said


def test_a_base_grows_is_compacted_and_verified(no_ray, call, spec_file, copied_run, tmp_path):
    more = write_dataset(tmp_path / "more", parts=1, rows=24, seed=3)
    run = (spec_file(), "--out", copied_run)
    grown = last_object(call("kb", "append", *run, "--images", more.uri, "--json"))
    assert (grown["version"], grown["num_trajectories"], grown["num_shards"]) == (2, NUM_PUBLIC + 24, 3)
    merged = last_object(call("kb", "compact", *run, "--max-rows", 120, "--drop-old", "--json"))
    assert (merged["version"], merged["num_shards"], merged["kept_versions"]) == (3, 2, [3])
    checked = last_object(call("kb", "verify", copied_run, "--json"))
    assert (checked["verified"], checked["num_trajectories"]) == (True, NUM_PUBLIC + 24)
    assert checked["recall_at_1"] == merged["recall"]["recall_at_1"]
    assert last_object(call("kb", "build", *run, "--json"))["version"] == 3


def test_a_run_refuses_to_go_on_with_a_base_that_grew_after_training(
    no_ray, call, refused, spec_file, copied_run, tmp_path
):
    more = write_dataset(tmp_path / "more", parts=1, rows=24, seed=3)
    call("kb", "append", spec_file(), "--out", copied_run, "--images", more.uri)
    line = refused("sample", spec_file(), "--out", copied_run, after_progress=True)
    assert "is now version 2 of the knowledge base, not the one the private model was trained with" in line


def test_verification_names_a_damaged_shard_and_the_next_build_makes_only_it_anew(
    no_ray, call, refused, spec_file, copied_run, base, serial_maps
):
    (damaged,) = base.glob("shards/shard-00001-*.hnsw")
    data = bytearray(damaged.read_bytes())
    data[200] ^= 1
    damaged.write_bytes(bytes(data))
    line = refused("kb", "verify", copied_run, after_progress=True)
    assert f"1 damaged files: shards/{damaged.name}" in line
    answer = call("kb", "verify", copied_run, "--json")
    assert json.loads(answer.stdout) == {"verified": False, "damaged": [f"shards/{damaged.name}"]}
    result = call("build-kb", spec_file(), "--out", copied_run, "--json")
    assert last_object(result)["stages"][0]["skipped"] is False
    assert "making anew: shard-00001" in result.stderr
    assert dict(serial_maps.calls) == {("shards", 0): 1}
    assert last_object(call("kb", "verify", copied_run, "--json"))["verified"]
    again = call("build-kb", spec_file(), "--out", copied_run, "--json")
    assert last_object(again)["stages"][0]["skipped"] is True


def test_a_query_writes_a_picture_of_the_image_and_of_the_public_images_it_found(no_ray, call, copied_run, tmp_path):
    for index in (3, 50):
        image = public_image(copied_run, index)
        Image.fromarray(image).save(tmp_path / "q.png")
        png = tmp_path / "found.png"
        arguments = ("kb", "query", tmp_path / "q.png", "--base", copied_run, "--png", png, "--num-neighbors", 5)
        found = last_object(call(*arguments, "--json"))["neighbors"]
        distances = [one["distance"] for one in found]
        assert len(found) == 5
        assert distances == sorted(distances)
        picture = np.asarray(Image.open(io.BytesIO(png.read_bytes())))
        rows = [image, *(public_image(copied_run, one["example_id"]) for one in found)]
        places = [place_of(row, picture) for row in rows]
        assert len({x for _, x in places}) == 1
        assert [y for y, _ in places] == sorted(y for y, _ in places)


def place_of(image, picture):
    """(y, x) of the enlarged image in the picture."""
    tile = np.repeat(np.repeat(image, 10, axis=0), 10, axis=1)
    height, width = tile.shape
    corners = np.argwhere(picture[: picture.shape[0] - height + 1, : picture.shape[1] - width + 1] == tile[0, 0])
    return next((y, x) for y, x in corners if np.array_equal(picture[y : y + height, x : x + width], tile))


def test_wrong_questions_are_one_line(no_ray, refused, call, copied_run, tmp_path):
    assert "does not exist" in refused("kb", "query", tmp_path / "no.png", "--base", copied_run)
    (tmp_path / "text.png").write_text("no image")
    assert "cannot be decoded" in refused("kb", "query", tmp_path / "text.png", "--base", copied_run)
    line = refused("kb", "query", tmp_path / "text.png", "--base", copied_run / layout.KNOWLEDGE_BASE)
    assert "give the folder of a run" in line
    assert "has no manifest.json" in refused("kb", "stats", tmp_path)
    assert "was made by stage 'pretrain'; expected 'build_kb'" in refused("kb", "verify", copied_run / "pretrain")


def test_private_images_are_not_appended(no_ray, refused, spec_file, copied_run, state):
    before = state(copied_run)
    line = refused("kb", "append", spec_file(), "--out", copied_run, "--images", copied_run / layout.PRIVATE_IMAGES)
    assert "images/private is private; expected public data here" in line
    assert state(copied_run) == before
