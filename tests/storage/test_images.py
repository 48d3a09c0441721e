import numpy as np
import pytest

from rapid_dist.errors import ArtifactError
from rapid_dist.storage.manifest import Manifest
from rapid_dist.storage.store import Store
from rapid_dist.storage.tables import ImageTable, iterate_images, read_all_images, read_images, write_images


def write_dataset(store: Store, sizes: list[int], *, ids: np.ndarray | None = None) -> Manifest:
    """Parts of the given sizes; the pixels and the label of a record tell its id."""
    ids = np.arange(sum(sizes)) if ids is None else ids
    files, start = [], 0
    for i, size in enumerate(sizes):
        part = ids[start : start + size].astype(np.int64)
        image = np.broadcast_to((part % 251).astype(np.uint8)[:, None, None, None], (size, 1, 2, 2)).copy()
        table = ImageTable(example_id=part, image=image, label=(part % 7).astype(np.int32))
        files.append(write_images(store, f"parts/part-{i:05d}.parquet", table, stage="ingest", privacy_class="public"))
        start += size
    return Manifest(
        stage="ingest", privacy_class="private", spec={}, inputs={}, files=files, facts={"image_shape": [1, 2, 2]}
    )


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "images")


FEW_PARTS, MANY_PARTS = [9, 0, 8], [3] * 7 + [0] + [2] * 13


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [FEW_PARTS, MANY_PARTS], ids=["by-row", "by-part"])
def test_the_workers_together_hold_every_record_exactly_once(store, sizes, world_size):
    manifest = write_dataset(store, sizes)
    shares = [read_all_images(store, manifest, rank=rank, world_size=world_size) for rank in range(world_size)]
    ids = np.concatenate([share.example_id for share in shares])
    assert np.array_equal(np.sort(ids), np.arange(sum(sizes)))
    assert all(len(share) for share in shares)
    for share in shares:
        assert np.array_equal(share.image[:, 0, 0, 0], share.example_id % 251)
        assert np.array_equal(share.label, share.example_id % 7)
        assert (share.image.dtype, share.label.dtype) == (np.uint8, np.int32)


@pytest.mark.parametrize(("num_parts", "expected"), [(12, "whole parts"), (11, "rows")])
def test_parts_stay_whole_from_four_a_worker_on(store, num_parts, expected):
    manifest = write_dataset(store, [2] * num_parts)
    share = read_all_images(store, manifest, rank=1, world_size=3)
    pairs_are_whole = set(share.example_id) == {i for i in range(2 * num_parts) if i // 2 % 3 == 1}
    assert pairs_are_whole == (expected == "whole parts")


def test_every_worker_has_a_record_when_ids_have_gaps(store):
    """Removed duplicates and broken files leave gaps: here only even ids are left."""
    manifest = write_dataset(store, [6, 4], ids=np.arange(10) * 2)
    shares = [read_all_images(store, manifest, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(np.concatenate([s.example_id for s in shares])) == list(range(0, 20, 2))
    assert all(len(share) for share in shares)


def test_a_worker_beyond_the_last_record_gets_an_empty_table_of_the_right_shape(store):
    manifest = write_dataset(store, [2])
    share = read_all_images(store, manifest, rank=4, world_size=5)
    assert (len(share), share.image.shape, share.image.dtype) == (0, (0, 1, 2, 2), np.uint8)


def test_a_dataset_without_records_is_an_empty_table_of_the_stated_shape(store):
    share = read_all_images(store, write_dataset(store, [0, 0]))
    assert (len(share), share.image.shape, share.label.dtype) == (0, (0, 1, 2, 2), np.int32)


def test_empty_parts_and_other_files_are_passed_over(store):
    manifest = write_dataset(store, [2, 0, 1])
    assert [len(t) for t in iterate_images(store, manifest.files)] == [2, 1]


def test_an_altered_part_is_refused(store):
    manifest = write_dataset(store, [2, 3])
    entry = manifest.files[1]
    store.write_bytes(entry.path, store.read_bytes(manifest.files[0].path))
    assert len(read_images(store, manifest.files[0])) == 2
    with pytest.raises(ArtifactError, match=entry.path):
        read_all_images(store, manifest)
