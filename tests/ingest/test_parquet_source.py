"""Parquet: every way of storing an image gives the same pixels, and labels are never guessed."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapid_dist.errors import InputError
from rapid_dist.ingest.decode import decode_unit
from rapid_dist.ingest.sources import discover
from rapid_dist.specs.reading import ReadingSpec


def tensor_metadata(text):
    return {"ARROW:extension:name": "ray.data.arrow_tensor_v2", "ARROW:extension:metadata": text}


def image_columns(pixels, encode):
    """Every supported column type, each holding the same images."""
    encoded = [encode(image) for image in pixels]
    flat = pixels.reshape(len(pixels), -1)
    large_list = pa.large_list(pa.uint8())
    variable = [{"data": row.tolist(), "shape": [8, 8]} for row in flat]
    return {
        "bytes": (pa.field("image", pa.binary()), encoded),
        "large bytes": (pa.field("image", pa.large_binary()), encoded),
        "hugging face": (
            pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            [{"bytes": content, "path": "x.png"} for content in encoded],
        ),
        "nested lists": (pa.field("image", pa.list_(pa.list_(pa.int64()))), pixels.tolist()),
        "nested lists with channel": (
            pa.field("image", pa.list_(pa.list_(pa.list_(pa.float32())))),
            (pixels[:, :, :, None] / np.float32(255)).tolist(),
        ),
        "flat square": (pa.field("image", pa.list_(pa.uint8())), flat.tolist()),
        "fixed size": (pa.field("image", pa.list_(pa.list_(pa.uint8(), 8), 8)), pixels.tolist()),
        "ray tensor": (
            pa.field("image", large_list, metadata=tensor_metadata("[1, 8, 8]")),
            flat.tolist(),
        ),
        "ray tensor of many shapes": (
            pa.field("image", pa.struct([("data", large_list), ("shape", pa.list_(pa.int64()))])),
            variable,
        ),
    }


def write(path, fields_and_values, metadata=None):
    fields, values = zip(*fields_and_values, strict=True)
    arrays = [pa.array(v, f.type) for f, v in zip(fields, values, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata)), path, row_group_size=4)
    return str(path)


def with_labels(path, pixels, encode, labels, kind, metadata=None):
    encoded = [encode(image) for image in pixels]
    columns = [(pa.field("image", pa.binary()), encoded), (pa.field("label", kind), labels)]
    return write(path, columns, metadata)


def test_every_column_type_round_trips_the_same_pixels(tmp_path, pixels, encode, decode_all):
    for name, column in image_columns(pixels, encode).items():
        decoded = decode_all(discover(write(tmp_path / f"{name}.parquet", [column])))
        np.testing.assert_array_equal(decoded["image"], pixels[:, None], err_msg=name)
        assert decoded["label"].tolist() == [-1] * 6


def test_arrows_own_tensor_type_round_trips(tmp_path, pixels, decode_all):
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    pq.write_table(pa.table({"image": tensor}), tmp_path / "t.parquet")
    decoded = decode_all(discover(str(tmp_path / "t.parquet")))
    np.testing.assert_array_equal(decoded["image"], pixels[:, None])


def test_integer_labels_are_kept_and_missing_ones_become_minus_one(tmp_path, pixels, encode, decode_all):
    uri = with_labels(tmp_path / "a.parquet", pixels, encode, [3, 0, None, -1, 7, 1], pa.int64())
    source = discover(uri)
    assert source.is_labelled
    assert source.class_names is None
    assert decode_all(source)["label"].tolist() == [3, 0, -1, -1, 7, 1]


def test_integer_labels_outside_the_class_names_are_refused(tmp_path, pixels, encode, decode_all):
    uri = with_labels(tmp_path / "a.parquet", pixels, encode, [0, 1, 2, 0, 1, 2], pa.int8())
    with pytest.raises(InputError, match=r"label 2; expected 0 to 1"):
        decode_all(discover(uri, class_names=("a", "b")))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_labels_need_class_names(tmp_path, pixels, encode, decode_all, kind):
    uri = with_labels(tmp_path / "a.parquet", pixels, encode, list("abcabc"), kind)
    with pytest.raises(InputError, match=r"text labels but no class names; list them in data\.class_names"):
        discover(uri)
    source = discover(uri, class_names=("c", "b", "a"))
    assert decode_all(source)["label"].tolist() == [2, 1, 0, 2, 1, 0]
    with pytest.raises(InputError, match=r"label 'a'; expected one of \['b', 'c'\]"):
        decode_all(discover(uri, class_names=("c", "b")))


def test_class_names_of_a_hugging_face_feature_are_used_unless_given(tmp_path, pixels, encode):
    feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    uri = with_labels(tmp_path / "a.parquet", pixels, encode, [0, 1, 1, 0, 1, 0], pa.int64(), metadata)
    assert discover(uri).class_names == ("cat", "dog")
    with pytest.raises(InputError, match="not all in the class names"):
        discover(uri, class_names=("x", "y"))


def with_class_label(path, pixels, encode, labels, names):
    feature = {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    return with_labels(path, pixels, encode, labels, pa.int64(), metadata)


def test_integer_labels_mean_the_names_of_their_own_file(tmp_path, pixels, encode, decode_all):
    with_class_label(tmp_path / "a.parquet", pixels, encode, [0, 1, 1, 0, 1, 0], ["cat", "dog"])
    with_class_label(tmp_path / "b.parquet", pixels, encode, [0, 1, 1, 0, 1, -1], ["dog", "cat"])
    found = discover(str(tmp_path))
    assert found.class_names == ("cat", "dog")
    assert decode_all(found)["label"].tolist() == [0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0, -1]
    private = discover(str(tmp_path), class_names=("fox", "dog", "cat"), is_private=True)
    assert decode_all(private)["label"].tolist() == [2, 1, 1, 2, 1, 2, 1, 2, 2, 1, 2, -1]


def test_private_files_that_number_their_classes_differently_ask_for_the_names(tmp_path, pixels, encode):
    with_class_label(tmp_path / "a.parquet", pixels, encode, [0] * 6, ["cat", "dog"])
    with_class_label(tmp_path / "b.parquet", pixels, encode, [0] * 6, ["dog", "cat"])
    with pytest.raises(InputError, match="state class_names"):
        discover(str(tmp_path), is_private=True)


def test_columns_of_other_names_are_read_when_stated_and_named_when_not(tmp_path, pixels, encode, decode_all):
    columns = {"img": [encode(image) for image in pixels], "labels": pa.array([0, 1, 2, 0, 1, 2])}
    uri = str(tmp_path / "a.parquet")
    pq.write_table(pa.table(columns), uri)
    with pytest.raises(InputError, match="image_column: NAME"):
        discover(uri)
    without = discover(uri, reading=ReadingSpec(image_column="img"))
    assert not without.is_labelled
    assert "label_column" in without.notices[0]
    stated = discover(uri, reading=ReadingSpec(image_column="img", label_column="labels"))
    assert decode_all(stated)["label"].tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(decode_all(stated)["image"], pixels[:, None])
    with pytest.raises(InputError, match="no label column 'class'"):
        discover(uri, reading=ReadingSpec(image_column="img", label_column="class"))


def test_files_of_several_splits_are_one_source_only_when_the_split_is_stated(tmp_path, pixels, encode, decode_all):
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        few = pixels[: 4 if "train" in name else 2]
        with_labels(tmp_path / f"{name}.parquet", few, encode, [0] * len(few), pa.int64())
    with pytest.raises(InputError, match=r"splits \['test', 'train'\].*--split train"):
        discover(str(tmp_path))
    assert discover(str(tmp_path), reading=ReadingSpec(split="train")).num_examples == 4
    with pytest.raises(InputError, match="no split 'dev'"):
        discover(str(tmp_path), reading=ReadingSpec(split="dev"))
    (tmp_path / "hub" / "data").mkdir(parents=True)
    (tmp_path / "hub" / "data" / "train-0.parquet").write_bytes((tmp_path / "test-00000-of-00001.parquet").read_bytes())
    (tmp_path / "hub" / "README.md").write_text("a card")
    assert discover(str(tmp_path / "hub")).num_examples == 2


def test_files_that_disagree_about_labels_are_refused(tmp_path, pixels, encode):
    with_labels(tmp_path / "a.parquet", pixels, encode, [0] * 6, pa.int64())
    write(tmp_path / "b.parquet", [image_columns(pixels, encode)["bytes"]])
    with pytest.raises(InputError, match=r"a\.parquet has integer labels and .*b\.parquet has no labels"):
        discover(str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"]}, r"columns \['picture'\]; expected the images in a column named 'image'"),
        ({"image": ["x"]}, "type string; expected encoded bytes"),
        ({"image": [b"x"], "label": [0.5]}, "label column of type double; expected integers or text"),
    ],
)
def test_columns_that_cannot_be_read_are_refused_at_discovery(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        discover(str(tmp_path / "a.parquet"))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(InputError, match=r"a\.parquet is not a readable Parquet file"):
        discover(str(tmp_path))


def test_a_flat_list_that_is_no_square_is_refused_with_its_row(tmp_path):
    uri = write(tmp_path / "a.parquet", [(pa.field("image", pa.list_(pa.uint8())), [[0] * 192])])
    with pytest.raises(InputError, match=r"row 0: .*flat list of 192 numbers.*store nested lists"):
        decode_unit(discover(uri).units[0], image_size=None, num_channels=None, skip_corrupt=True)


def test_rows_that_are_null_ragged_or_without_bytes_are_corrupt(tmp_path, pixels, decode_all):
    ragged = [[1] * 8] * 7 + [[1] * 7]
    lists = [None, ragged, pixels[0].tolist(), [[None] * 8] * 8]
    field = pa.field("image", pa.list_(pa.list_(pa.uint8())))
    source = discover(write(tmp_path / "a.parquet", [(field, lists)]))
    decoded = decode_all(source, skip_corrupt=True)
    assert decoded["example_id"].tolist() == [2]
    assert [name.rsplit(" ", 1)[1] for name in decoded["corrupt"]] == ["0", "1", "3"]
    with pytest.raises(InputError, match=r"row group 0 row 0 is corrupt.*--skip-corrupt"):
        decode_all(source)
    struct = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    paths_only = discover(write(tmp_path / "b.parquet", [(struct, [{"bytes": None, "path": "x.png"}])]))
    with pytest.raises(InputError, match="only a path is not enough"):
        decode_all(paths_only)
