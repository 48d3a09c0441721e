"""Discovery: ids are a pure function of the listing, and what is not understood is refused with advice."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapid_dist.errors import InputError, SpecError
from rapid_dist.ingest import folder as folder_source
from rapid_dist.ingest import parquet as parquet_source
from rapid_dist.ingest import units
from rapid_dist.ingest.sources import discover
from rapid_dist.ingest.units import number_units, row_ranges


@pytest.fixture
def small_units(monkeypatch):
    """Units of at most 2 files or rows, so that a few images make several."""
    monkeypatch.setattr(folder_source, "MAX_FILES_PER_UNIT", 2)
    for module in (units, parquet_source):
        monkeypatch.setattr(module, "row_ranges", lambda num_rows: row_ranges(num_rows, 2))


def write_folder(folder, names, encode, pixels):
    for name, image in zip(names, pixels, strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return str(folder)


def write_every_kind(tmp_path, encode, pixels):
    names = [f"{i}.png" for i in range(6)]
    encoded = [encode(image) for image in pixels]
    pq.write_table(pa.table({"image": encoded}), tmp_path / "one.parquet", row_group_size=5)
    np.savez(tmp_path / "one.npz", images=pixels)
    (tmp_path / "tables").mkdir()
    for part, chunk in (("a", encoded[:2]), ("b", encoded[2:])):
        pq.write_table(pa.table({"image": chunk}), tmp_path / "tables" / f"{part}.parquet")
    return {
        "flat_folder": write_folder(tmp_path / "flat", names, encode, pixels),
        "class_folders": write_folder(
            tmp_path / "classes", [f"{'ab'[i // 3]}/{name}" for i, name in enumerate(names)], encode, pixels
        ),
        "parquet": str(tmp_path / "one.parquet"),
        "parquet folder": str(tmp_path / "tables"),
        "npz": str(tmp_path / "one.npz"),
    }


@pytest.mark.usefixtures("small_units")
def test_every_kind_gives_the_same_pixels_with_the_same_ids_over_several_units(tmp_path, encode, pixels, decode_all):
    for kind, uri in write_every_kind(tmp_path, encode, pixels).items():
        source = discover(uri)
        assert source.kind == kind.split()[0]
        assert source.num_examples == 6
        assert len(source.units) >= 3
        decoded = decode_all(source)
        np.testing.assert_array_equal(decoded["image"], pixels[:, None])
        np.testing.assert_array_equal(decoded["example_id"], np.arange(6))
        assert decoded["example_id"].dtype == np.int64
        assert decoded["label"].dtype == np.int32


@pytest.mark.usefixtures("small_units")
def test_units_are_small_numbered_picklable_and_the_same_on_every_discovery(tmp_path, encode, pixels):
    for uri in write_every_kind(tmp_path, encode, pixels).values():
        source = discover(uri)
        next_id = 0
        for index, unit in enumerate(source.units):
            assert unit.index == index
            assert unit.first_example_id == next_id
            assert 1 <= unit.num_examples <= 2
            next_id += unit.num_examples
        assert pickle.loads(pickle.dumps(source)) == source == discover(uri)


def test_class_folders_are_labelled_in_sorted_order_or_as_named(tmp_path, encode, pixels, decode_all):
    uri = write_folder(tmp_path, ["dog/1.png", "cat/2.png", "dog/0.PNG", "cat/notes.txt"], encode, pixels)
    by_name = discover(uri)
    assert by_name.class_names == ("cat", "dog")
    assert by_name.is_labelled
    assert by_name.units[0].files == ("cat/2.png", "dog/0.PNG", "dog/1.png")
    assert decode_all(by_name)["label"].tolist() == [0, 1, 1]
    as_given = discover(uri, class_names=("dog", "fox", "cat"))
    assert as_given.units[0].files == by_name.units[0].files
    assert decode_all(as_given)["label"].tolist() == [2, 0, 0]


def test_a_class_folder_that_is_not_named_is_refused(tmp_path, encode, pixels):
    uri = write_folder(tmp_path, ["dog/1.png", "cat/2.png"], encode, pixels)
    with pytest.raises(InputError, match=r"'cat'.*not in data\.class_names"):
        discover(uri, class_names=("dog",))


def test_hidden_files_and_folders_are_not_data(tmp_path, encode, pixels):
    uri = write_folder(tmp_path, ["1.png", ".2.png", ".cache/3.png"], encode, pixels)
    source = discover(uri)
    assert source.kind == "flat_folder"
    assert source.units[0].files == ("1.png",)
    assert source.class_names is None
    assert not source.is_labelled


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no images"),
        (["a/1.png", "2.png"], r"mixes images \(such as '2.png'\), folders \(such as 'a'\)"),
        (["1.png", "t.parquet"], "mixes Parquet files"),
        (["a/b/1.png"], r"a holds folders \['b'\]"),
        (["a/notes.txt"], "holds no images"),
    ],
)
def test_a_folder_that_is_not_one_clear_source_is_refused(tmp_path, encode, pixels, names, message):
    with pytest.raises(InputError, match=message):
        discover(write_folder(tmp_path, names, encode, pixels))


def test_absent_paths_and_unknown_files_are_refused_with_what_is_expected(tmp_path):
    with pytest.raises(InputError, match=r"does not exist; expected a folder of class folders"):
        discover(str(tmp_path / "nowhere"))
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(InputError, match="unknown kind; expected"):
        discover(str(tmp_path / "data.csv"))


def test_unusable_class_names_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"repeats \['a'\]"):
        discover(str(tmp_path), class_names=("a", "b", "a"))
    with pytest.raises(SpecError, match="one or more non-empty names"):
        discover(str(tmp_path), class_names=())


def test_numbering_drops_empty_units_and_ranges_cover_all_rows_once():
    assert number_units([]) == ()
    assert row_ranges(5, 2) == [(0, 2), (2, 4), (4, 5)]
    assert row_ranges(0) == []
