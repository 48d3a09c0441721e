"""The ingest stage: every kind of source, labels, duplicates, corrupt images, and resuming."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rapid_dist.errors import ArtifactError, InputError, PrivacyError
from rapid_dist.stages.ingest import run_ingest
from rapid_dist.storage.manifest import read_manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import read_all_images

pytestmark = pytest.mark.usefixtures("ray_cluster")

LABELS = np.array([0, 1, 1, 0, 1, 0], np.int32)


@pytest.fixture(scope="module")
def pixels():
    """(6, 8, 8) uint8, all different."""
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def source(pixels, tmp_path_factory):
    """The function kind -> path of the same six images."""
    root = tmp_path_factory.mktemp("kinds")
    for index, (image, label) in enumerate(zip(pixels, LABELS, strict=True)):
        for folder in (root / "flat", root / "classes" / ("cat", "dog")[label]):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index}.png")
    np.savez(root / "arrays.npz", images=pixels, labels=LABELS)
    paths = {"flat": root / "flat", "classes": root / "classes", "npz": root / "arrays.npz"}
    return lambda kind: str(paths[kind])


def read_back(store):
    return read_all_images(store, read_manifest(store))


@pytest.mark.parametrize(
    ("kind", "order", "labels"),
    [
        ("flat", range(6), [-1] * 6),
        ("classes", [0, 3, 5, 1, 2, 4], [0, 0, 0, 1, 1, 1]),
        ("npz", range(6), LABELS.tolist()),
    ],
)
def test_every_kind_of_source_gives_its_pixels_and_labels(source, pixels, tmp_path, kind, order, labels):
    store = Store(tmp_path / "out")
    manifest = run_ingest(source(kind), store, privacy_class="public")
    table = read_back(store)
    np.testing.assert_array_equal(table.image[:, 0], pixels[list(order)])
    assert table.label.tolist() == labels
    assert table.example_id.tolist() == list(range(6))
    assert manifest.privacy_class == "public"
    assert manifest.facts["image_shape"] == [1, 8, 8]
    assert not store.exists("begun.json")
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {"manifest.json", "part-00000.parquet"}


def test_a_second_call_does_nothing_and_another_setting_is_refused(source, tmp_path):
    store = Store(tmp_path)
    first = run_ingest(source("npz"), store, privacy_class="public")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run_ingest(source("npz"), store, privacy_class="public").digest == first.digest
    with pytest.raises(ArtifactError, match=r"privacy_class: 'public' -> 'private'"):
        run_ingest(source("npz"), store, privacy_class="private", image_size=8, num_channels=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_private_duplicates_of_public_images_are_dropped_and_public_images_never(pixels, tmp_path):
    private = np.concatenate([pixels[:3], 255 - pixels[3:], pixels[:1]])
    public = np.concatenate([pixels, pixels])
    np.savez(tmp_path / "private.npz", images=private)
    np.savez(tmp_path / "public.npz", images=public)
    published, kept = Store(tmp_path / "public"), Store(tmp_path / "private")
    run_ingest(str(tmp_path / "public.npz"), published, privacy_class="public")
    run_ingest(str(tmp_path / "private.npz"), kept, privacy_class="private", drop_equal_to=published)
    np.testing.assert_array_equal(read_back(published).image[:, 0], public)
    np.testing.assert_array_equal(read_back(kept).image[:, 0], 255 - pixels[3:])
    assert read_back(kept).example_id.tolist() == [3, 4, 5]
    with pytest.raises(PrivacyError, match="never the other way"):
        run_ingest(str(tmp_path / "public.npz"), Store(tmp_path / "p2"), privacy_class="public", drop_equal_to=kept)
    with pytest.raises(PrivacyError, match=r"is private; expected public data here"):
        run_ingest(str(tmp_path / "private.npz"), Store(tmp_path / "p3"), privacy_class="private", drop_equal_to=kept)


def test_the_digest_of_private_images_cannot_be_computed_by_who_guesses_them(source, tmp_path):
    first, second = (
        run_ingest(source("npz"), Store(tmp_path / name), privacy_class="private", image_size=8, num_channels=1)
        for name in ("first", "second")
    )
    assert [f.sha256 for f in first.files] == [f.sha256 for f in second.files]
    assert first.digest != second.digest


def test_public_images_have_the_same_digest_wherever_they_are_ingested(source, tmp_path):
    digests = {
        run_ingest(source("npz"), Store(tmp_path / name), privacy_class="public").digest for name in ("one", "two")
    }
    assert len(digests) == 1


def test_a_corrupt_image_is_named_or_left_out_and_counted(source, pixels, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(pixels[index]).save(folder / f"{index}.png")
    (folder / "1.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"1\.png is corrupt: .*--skip-corrupt"):
        run_ingest(str(folder), Store(tmp_path / "strict"), privacy_class="public")
    assert read_manifest(Store(tmp_path / "strict")) is None
    # What the message advises works in the same folder.
    manifest = run_ingest(str(folder), Store(tmp_path / "strict"), privacy_class="public", skip_corrupt=True)
    assert manifest.facts["num_corrupt"] == 1
    assert read_back(Store(tmp_path / "strict")).example_id.tolist() == [0, 2]


def test_parts_that_were_finished_before_a_failure_are_kept(pixels, tmp_path):
    """Two Parquet files are two parts; the second is corrupt at first, then mended."""
    folder, out = tmp_path / "tables", Store(tmp_path / "out")
    Store(folder).write_bytes("a.parquet", encoded_table(pixels[:2]))
    Store(folder).write_bytes("b.parquet", encoded_table(pixels[2:4], corrupt=True))
    with pytest.raises(InputError, match="is corrupt"):
        run_ingest(str(folder), out, privacy_class="public")
    part = tmp_path / "out" / "parts" / "part-00000.parquet"
    written = part.stat()
    Store(folder).write_bytes("b.parquet", encoded_table(pixels[2:4]))
    manifest = run_ingest(str(folder), out, privacy_class="public")
    assert (part.stat().st_mtime_ns, part.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert [f.rows for f in manifest.files] == [2, 2]
    np.testing.assert_array_equal(read_back(out).image[:, 0], pixels[:4])


def encoded_table(images, *, corrupt=False):
    """A Parquet file with a column of PNG bytes."""
    cells = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append(b"not an image" if corrupt else buffer.getvalue())
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": cells}), sink)
    return sink.getvalue()
