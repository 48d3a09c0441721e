"""Private datasets: each record is read by itself, from itself and from what was stated; artefacts are no sources."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapid_dist.errors import InputError, PrivacyError, SpecError
from rapid_dist.ingest.dataset import IngestSettings, ingest_source
from rapid_dist.ingest.provenance import refuse_shared_sources
from rapid_dist.specs.reading import ReadingSpec
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.stage import map_serially
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import read_all_images

CLASSES = ("bird", "cat", "dog")
SHAPE = {"image_size": 8, "num_channels": 1}


@pytest.fixture
def class_folders(tmp_path, pixels, encode):
    """One bird, two cats, two dogs, as PNG files in folders of their classes."""
    for name, image in zip(("bird/0", "cat/0", "cat/1", "dog/0", "dog/1"), pixels, strict=False):
        path = tmp_path / "source" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return tmp_path / "source"


@pytest.fixture
def ingest(tmp_path):
    """The function (source, **settings) -> (table, manifest) of a private dataset made in this process."""
    made = []

    def run(source, **settings):
        made.append(source)
        out = Store(tmp_path / f"dataset-{len(made)}")
        settings = {"privacy_class": "private", **settings}
        manifest = ingest_source(IngestSettings(source=str(source), **settings), out, map_serially)
        return read_all_images(out, manifest), manifest

    return run


def label_of(table) -> dict[bytes, int]:
    return {image.tobytes(): int(label) for image, label in zip(table.image, table.label, strict=True)}


def test_labels_of_private_class_folders_do_not_change_with_the_last_record_of_a_class(class_folders, ingest):
    before, _ = ingest(class_folders, class_names=CLASSES, **SHAPE)
    shutil.rmtree(class_folders / "bird")
    after, _ = ingest(class_folders, class_names=CLASSES, **SHAPE)
    assert len(label_of(after)) == 4
    assert label_of(after).items() <= label_of(before).items()


def test_private_class_folders_without_stated_names_are_refused_with_the_line_to_add(class_folders, ingest):
    with pytest.raises(InputError, match=r"class_names: \[bird, cat, dog\] .*--class-names bird,cat,dog"):
        ingest(class_folders, **SHAPE)
    table, _ = ingest(class_folders, privacy_class="public")
    assert sorted(set(table.label.tolist())) == [0, 1, 2]


def test_class_names_in_a_private_parquet_file_are_not_taken_for_stated(tmp_path, pixels, encode, ingest):
    """Which of two files is read first would decide which names bound the labels of the other."""
    names = json.dumps({"info": {"features": {"label": {"names": ["only", "these"], "_type": "ClassLabel"}}}})
    for name, metadata in (("a", {b"huggingface": names.encode()}), ("b", None)):
        table = pa.table({"image": [encode(pixels[0])], "label": pa.array([5], pa.int64())})
        (tmp_path / "tables").mkdir(exist_ok=True)
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "tables" / f"{name}.parquet")
    both, manifest = ingest(tmp_path / "tables", **SHAPE)
    assert both.label.tolist() == [5, 5]
    assert manifest.facts["class_names"] is None
    (tmp_path / "tables" / "a.parquet").unlink()
    assert ingest(tmp_path / "tables", **SHAPE)[0].label.tolist() == [5]


def test_the_shape_of_private_images_is_stated_or_that_of_public_ones(class_folders, tmp_path, pixels, ingest):
    stated = {"class_names": CLASSES}
    with pytest.raises(
        SpecError, match=r"image_size and data\.num_channels not stated.*--image-size 8 --num-channels 1"
    ):
        ingest(class_folders, **stated)
    with pytest.raises(SpecError, match=r"private and data\.num_channels not stated"):
        ingest(class_folders, image_size=16, **stated)
    np.savez(tmp_path / "public.npz", images=255 - pixels)
    public = Store(tmp_path / "public")
    ingest_source(IngestSettings(source=str(tmp_path / "public.npz"), privacy_class="public"), public, map_serially)
    for given in ({"like": public}, {"drop_equal_to": public}, SHAPE):
        table, manifest = ingest(class_folders, **stated, **given)
        assert manifest.facts["image_shape"] == [1, 8, 8]
        assert len(table) == 5


def test_a_private_image_of_another_shape_is_refused_by_itself_whichever_comes_first(class_folders, encode, ingest):
    wide = np.zeros((12, 12), np.uint8)
    (class_folders / "bird" / "0.png").write_bytes(encode(wide))
    with pytest.raises(InputError, match=r"bird/0\.png is \(1, 12, 12\); set data\.image_size"):
        ingest(class_folders, class_names=CLASSES, like=_public_like(class_folders))
    # A stated size makes it fit, and changes no other image.
    resized, _ = ingest(class_folders, class_names=CLASSES, **SHAPE)
    (class_folders / "bird" / "0.png").unlink()
    rest, _ = ingest(class_folders, class_names=CLASSES, **SHAPE)
    assert label_of(rest).items() <= label_of(resized).items()
    assert len(rest) == len(resized) - 1


def _public_like(beside) -> Store:
    path, out = beside.parent / "like.npz", Store(beside.parent / "like")
    np.savez(path, images=np.full((1, 8, 8), 7, np.uint8))
    ingest_source(IngestSettings(source=str(path), privacy_class="public"), out, map_serially)
    return out


def test_numbers_of_private_records_left_out_are_told_in_the_private_manifest_alone(
    class_folders, tmp_path, pixels, ingest, capsys
):
    (class_folders / "cat" / "1.png").write_bytes(b"no image")
    np.savez(tmp_path / "public.npz", images=pixels[:1])
    public = Store(tmp_path / "public")
    ingest_source(IngestSettings(source=str(tmp_path / "public.npz"), privacy_class="public"), public, map_serially)
    table, manifest = ingest(class_folders, class_names=CLASSES, skip_corrupt=True, drop_equal_to=public)
    assert (len(table), manifest.facts["num_corrupt"], manifest.facts["num_dropped"]) == (3, 1, 1)
    assert "num_labels" not in manifest.facts
    said = capsys.readouterr()
    assert said.out + said.err == ""


@pytest.mark.parametrize("privacy_class", ["public", "private"])
def test_a_part_of_a_dataset_is_no_source_wherever_it_lies(class_folders, tmp_path, ingest, privacy_class):
    ingest(class_folders, class_names=CLASSES, **SHAPE)
    dataset = tmp_path / "dataset-1"
    for source in (dataset, dataset / "parts", dataset / "parts" / "part-00000.parquet"):
        with pytest.raises(PrivacyError, match="lies in the private artefact of stage 'ingest'"):
            ingest(source, privacy_class=privacy_class, **SHAPE)
    shutil.copytree(dataset / "parts", tmp_path / "taken-out")
    with pytest.raises(PrivacyError, match=r"part of a private dataset of this program \(stage 'ingest'\)"):
        ingest(tmp_path / "taken-out", privacy_class=privacy_class, **SHAPE)
    (dataset / "manifest.json").rename(dataset / "begun.json")
    begun = {"stage": "ingest", "spec": {}, "inputs": {}}
    (dataset / "begun.json").write_text(json.dumps(begun))
    with pytest.raises(PrivacyError, match="unfinished artefact"):
        ingest(dataset / "parts", privacy_class=privacy_class, **SHAPE)


def test_a_manifest_of_something_else_beside_images_is_no_artefact(class_folders, ingest):
    for content in ('{"name": "my web app"}', "not json", "[1]"):
        (class_folders.parent / "manifest.json").write_text(content)
        assert len(ingest(class_folders, class_names=CLASSES, **SHAPE)[0]) == 5


def test_a_dataset_is_not_written_around_its_source(class_folders):
    settings = IngestSettings(source=str(class_folders), privacy_class="private", class_names=CLASSES, **SHAPE)
    with pytest.raises(InputError, match="choose another --out"):
        ingest_source(settings, Store(class_folders.parent), map_serially)
    assert read_manifest(Store(class_folders.parent)) is None


def test_one_place_cannot_be_two_sources(tmp_path):
    scans, link = tmp_path / "scans", tmp_path / "link"
    (scans / "a").mkdir(parents=True)
    link.symlink_to(scans)
    apart = {"private": str(scans), "public": str(tmp_path / "textbook"), "test": None}
    refuse_shared_sources(**apart)
    refuse_shared_sources(private="s3://bucket/scans", public="s3://bucket/scans-public")
    for one, other, said in (
        (scans, scans, "are both"),
        (scans, f"{scans}/", "are both"),
        (scans, link, "are both"),
        (scans, scans / "a", "one inside the other"),
        (link / "a", scans, "one inside the other"),
        ("s3://bucket/scans", "s3://bucket/scans/a", "one inside the other"),
    ):
        with pytest.raises(InputError, match=said):
            refuse_shared_sources(private=str(one), public=str(other))
        with pytest.raises(InputError, match=said):
            refuse_shared_sources(**{**apart, "private": str(other), "test": str(one)})


def test_a_dataset_of_masks_is_refused_until_its_range_is_stated(tmp_path, pixels, ingest):
    path = tmp_path / "masks.npz"
    np.savez(path, images=(pixels > 100).astype(np.uint8), labels=np.zeros(6, np.int64))
    with pytest.raises(InputError, match=r"row 0: it has no pixel above 1 of 255.*value_range: \[0, 1\]"):
        ingest(path, **SHAPE)
    table, _ = ingest(path, **SHAPE, reading=ReadingSpec(value_range=(0, 1)))
    np.testing.assert_array_equal(table.image[:, 0], (pixels > 100) * 255)
    black, _ = ingest(path, **SHAPE, reading=ReadingSpec(value_range=(0, 255)))
    assert black.image.max() == 1


def test_a_part_without_a_usable_image_leaves_the_others(tmp_path, pixels, encode, monkeypatch):
    monkeypatch.setattr("rapid_dist.ingest.folder.MAX_FILES_PER_UNIT", 2)
    folder = tmp_path / "source"
    folder.mkdir()
    for k in range(4):
        (folder / f"{k}.png").write_bytes(encode(pixels[k]) if k > 1 else b"version https://git-lfs.github.com/spec/v1")
    settings = IngestSettings(source=str(folder), privacy_class="public", skip_corrupt=True)
    out = Store(tmp_path / "dataset")
    manifest = ingest_source(settings, out, map_serially)
    assert manifest.facts["num_corrupt"] == 2
    np.testing.assert_array_equal(read_all_images(out, manifest).image, pixels[2:4, None])
