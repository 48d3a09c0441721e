"""Folders as other tools leave them: tables of labels, links, splits, folders without images, IDX files."""

import gzip
import json
import struct

import numpy as np
import pytest

from rapid_dist.errors import InputError
from rapid_dist.ingest.sources import discover
from rapid_dist.specs.reading import ReadingSpec


@pytest.fixture
def images(tmp_path, pixels, encode):
    """The function that writes images under names relative to a folder, in the order of pixels."""

    def write(*names):
        for name, image in zip(names, pixels, strict=False):
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image))
        return tmp_path / "source"

    return write


def test_the_table_of_dataset_tool_says_the_labels_and_folders_do_not(images, pixels, decode_all):
    folder = images("00000/img0.png", "00000/img1.png", "00001/img2.png")
    labels = [["00001/img2.png", 0], ["00000/img0.png", 7], ["00000/img1.png", 3]]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    found = discover(str(folder), is_private=True)
    assert found.kind == "listed"
    assert decode_all(found)["label"].tolist() == [7, 3, 0]
    np.testing.assert_array_equal(decode_all(found)["image"], pixels[:3, None])
    (folder / "dataset.json").write_text('{"labels": null}')
    with pytest.raises(InputError, match=r"does not name '00000/img0\.png'"):
        discover(str(folder))


def test_a_table_beside_the_images_is_read_by_column(images, decode_all):
    folder = images("a.png", "b.png", "c.png")
    (folder / "metadata.csv").write_text("file_name,label,age\nb.png,dog,3\na.png,cat,4\nc.png,,5\n")
    with pytest.raises(InputError, match="text labels but no class names"):
        discover(str(folder))
    assert decode_all(discover(str(folder), class_names=("cat", "dog")))["label"].tolist() == [0, 1, -1]
    by_age = discover(str(folder), reading=ReadingSpec(label_column="age"))
    assert decode_all(by_age)["label"].tolist() == [4, 3, 5]
    # A label that is a class's name is that class, also where it looks like a number.
    named = discover(str(folder), class_names=("3", "4", "5"), reading=ReadingSpec(label_column="age"))
    assert decode_all(named)["label"].tolist() == [1, 0, 2]


def test_lines_of_json_without_a_label_say_what_was_not_read(images):
    folder = images("a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "finding": 1}\n')
    found = discover(str(folder))
    assert not found.is_labelled
    assert "finding" in found.notices[0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file_name,label\na.png,1\n", "does not name 'b.png'"),
        ("file_name,label\na.png,1\nb.png,1\nc.png,0\n", "names 'c.png'"),
        ("file_name,label\na.png,1\nb.png,1\nb.png,0\n", "twice"),
        ("file_name,label\na.png,1\n../b.png,1\n", "outside its folder"),
        ("path,label\na.png,1\n", "image_column: NAME"),
        ("", "image_column: NAME"),
    ],
)
def test_a_table_that_does_not_match_its_folder_is_refused(images, table, words):
    folder = images("a.png", "b.png")
    (folder / "metadata.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        discover(str(folder))


def test_links_to_images_are_images_and_a_dead_link_is_named(images, tmp_path, pixels, encode, decode_all):
    folder = images("cat/0.png")
    (tmp_path / "store").write_bytes(encode(pixels[1]))
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "2.png").write_bytes(encode(pixels[2]))
    (folder / "cat" / "1.png").symlink_to(tmp_path / "store")
    (folder / "dog").symlink_to(tmp_path / "away")
    found = discover(str(folder))
    np.testing.assert_array_equal(decode_all(found)["image"], pixels[:3, None])
    assert decode_all(found)["label"].tolist() == [0, 0, 1]
    (folder / "cat" / "3.png").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"3\.png is a link to a file that is not there"):
        discover(str(folder))


def test_a_public_class_without_images_is_refused_and_a_private_one_is_not(images):
    folder = images("cat/0.png", "dog/1.png")
    (folder / "docs").mkdir()
    (folder / "docs" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="docs holds no images"):
        discover(str(folder))
    (folder / "docs" / "notes.txt").rename(folder / "docs.txt")
    (folder / "docs").rmdir()
    (folder / "dog" / "1.png").unlink()
    assert discover(str(folder), class_names=("cat", "dog"), is_private=True).num_examples == 1


def test_folders_named_as_splits_are_no_classes(images):
    folder = images("train/cat/0.png", "train/dog/1.png", "val/cat/2.png", "test/cat/3.png")
    with pytest.raises(InputError, match=r"look like splits.*--split train"):
        discover(str(folder))
    train = discover(str(folder), reading=ReadingSpec(split="train"))
    assert (train.num_examples, train.class_names) == (2, ("cat", "dog"))
    assert discover(str(folder), reading=ReadingSpec(split="validation")).num_examples == 1


def test_classes_that_are_called_as_splits_are_read_once_stated(images):
    folder = images("test/0.png", "train/1.png")
    assert discover(str(folder), class_names=("train", "test")).class_names == ("train", "test")


def test_files_that_are_no_images_are_counted_by_suffix(images):
    folder = images("cat/0.png", "cat/1.jfif")
    for name in ("cat/notes.txt", "cat/2.dcm", "cat/.hidden", "readme"):
        (folder / name).write_text("x")
    found = discover(str(folder))
    assert found.num_examples == 2
    assert found.notices[0].endswith("by their names: 1 .dcm, 1 .txt, 1 no suffix")
    private = discover(str(folder), class_names=("cat",), is_private=True)
    assert private.notices[0].endswith("by their names: .dcm, .txt, no suffix")


def test_what_lies_one_level_down_is_named(tmp_path):
    (tmp_path / "label=0").mkdir()
    (tmp_path / "label=0" / "part.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds 'label=0/part\.parquet'"):
        discover(str(tmp_path))


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_with_the_labels_beside_them(tmp_path, pixels, decode_all, packed):
    suffix, pack = (".gz", gzip.compress) if packed else ("", bytes)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx(pixels)))
    assert not discover(str(path)).is_labelled
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.arange(6))))
    decoded = decode_all(discover(str(path)))
    np.testing.assert_array_equal(decoded["image"], pixels[:, None])
    assert decoded["label"].tolist() == [0, 1, 2, 3, 4, 5]
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.arange(5))))
    with pytest.raises(InputError, match="one label an image"):
        discover(str(path))


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0", b"not an IDX file", b"\x1f\x8b not gzip"])
def test_a_damaged_idx_file_is_refused_in_one_line(tmp_path, content):
    for name in ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError):
            discover(str(tmp_path / name))


def test_an_idx_file_that_ends_early_is_refused(tmp_path, pixels, decode_all):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(idx(pixels)[:-1])
    with pytest.raises(InputError, match="ends before its last row"):
        decode_all(discover(str(path)))


def test_arrays_of_several_splits_are_chosen_by_name(tmp_path, pixels, decode_all):
    labels = np.arange(6)[:, None]
    np.savez(
        tmp_path / "med.npz",
        train_images=pixels, train_labels=labels, val_images=pixels[:2], val_labels=labels[:2],
    )  # fmt: skip
    with pytest.raises(InputError, match=r"splits \['train', 'validation'\]"):
        discover(str(tmp_path / "med.npz"))
    train = decode_all(discover(str(tmp_path / "med.npz"), reading=ReadingSpec(split="train")))
    assert train["label"].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(decode_all(discover(str(tmp_path / "med.npz"), reading=ReadingSpec(split="val")))["label"]) == 2
    np.savez(tmp_path / "keras.npz", x_train=pixels, y_train=np.arange(6), x_test=pixels, y_test=np.arange(6))
    assert discover(str(tmp_path / "keras.npz"), reading=ReadingSpec(split="test")).is_labelled
    np.savez(tmp_path / "plain.npz", arr_0=pixels, arr_1=np.arange(6))
    named = ReadingSpec(image_column="arr_0", label_column="arr_1")
    assert decode_all(discover(str(tmp_path / "plain.npz"), reading=named))["label"].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="image_column: NAME"):
        discover(str(tmp_path / "plain.npz"))
