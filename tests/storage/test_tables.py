import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapid_dist.errors import ArtifactError
from rapid_dist.storage.tables import (
    grouped_table_arrays,
    grouped_table_bytes,
    read_table_group,
    table_arrays,
    table_bytes,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(), (3,), (1, 4, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize("dtype", ["u1", "i4", "i8", "f2", "f4", "f8"])
def test_a_column_of_any_shape_and_type_comes_back_bit_by_bit(shape, dtype):
    column = (RNG.normal(size=(5, *shape)) * 50).astype(dtype)
    back = table_arrays(table_bytes({"id": np.arange(5), "x": column}))
    assert list(back) == ["id", "x"]
    assert back["x"].dtype == column.dtype
    assert back["x"].shape == column.shape
    assert back["x"].tobytes() == column.tobytes()


def test_a_table_without_rows_keeps_shapes_and_types():
    back = table_arrays(table_bytes({"id": np.empty(0, np.int64), "x": np.empty((0, 3, 2), np.float16)}))
    assert (back["id"].shape, back["id"].dtype) == ((0,), np.int64)
    assert (back["x"].shape, back["x"].dtype) == ((0, 3, 2), np.float16)


def test_a_column_that_is_not_contiguous_comes_back_in_its_own_order():
    column = RNG.normal(size=(3, 6)).T
    assert np.array_equal(table_arrays(table_bytes({"x": column}))["x"], column)


def test_nan_and_infinity_come_back():
    column = np.array([np.nan, np.inf, -np.inf, -0.0])
    assert table_arrays(table_bytes({"x": column}))["x"].tobytes() == column.tobytes()


def test_equal_columns_make_equal_bytes():
    columns = {"id": np.arange(4), "x": RNG.normal(size=(4, 2))}
    assert table_bytes(columns) == table_bytes(columns)


def foreign_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": [1, 2]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("data", [b"", b"not parquet", foreign_parquet()])
def test_bytes_of_another_program_are_refused_by_name(data):
    with pytest.raises(ArtifactError, match="here is not a table of this program"):
        table_arrays(data, where="here")


GROUPS = np.array([3, 0, 3, 5, 0, 0, 3, 5] * 20)


def grouped():
    rng = np.random.default_rng(0)
    columns = {
        "trajectory_id": np.arange(len(GROUPS)),
        "key": rng.normal(size=(len(GROUPS), 4)).astype("f4"),
        "value": rng.normal(size=(len(GROUPS), 1, 2, 2)).astype("f2"),
    }
    return columns, grouped_table_bytes(columns, GROUPS)


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    def read(self, size=-1):
        data = super().read(size)
        self.bytes_read = getattr(self, "bytes_read", 0) + len(data)
        return data


def test_one_group_is_read_as_it_was_written_and_the_others_are_not_read():
    columns, data = grouped()
    for group in (0, 3, 5):
        table = read_table_group(io.BytesIO(data), group, where="x")
        for name, values in columns.items():
            np.testing.assert_array_equal(table[name], values[np.equal(GROUPS, group)])
            assert table[name].dtype == values.dtype
    assert read_table_group(io.BytesIO(data), 4, where="x") is None
    wide = {"key": np.random.default_rng(1).normal(size=(8000, 64)).astype("f4")}
    file = Counted(grouped_table_bytes(wide, np.arange(8000) % 20))
    read_table_group(file, 7, where="x")
    assert file.bytes_read < len(file.getvalue()) // 8


def test_chosen_columns_of_a_group_come_without_the_others():
    columns, data = grouped()
    table = read_table_group(io.BytesIO(data), 3, where="x", columns=("trajectory_id", "value"))
    assert list(table) == ["trajectory_id", "value"]
    np.testing.assert_array_equal(table["value"], columns["value"][GROUPS == 3])


def test_all_groups_come_back_with_their_numbers_and_make_the_same_bytes_again():
    columns, data = grouped()
    table, group = grouped_table_arrays(data, where="x")
    order = np.argsort(GROUPS, kind="stable")
    np.testing.assert_array_equal(group, GROUPS[order])
    for name, values in columns.items():
        np.testing.assert_array_equal(table[name], values[order])
    assert grouped_table_bytes(table, group) == data
    for other in (table_bytes(columns), data[:-9], b""):
        with pytest.raises(ArtifactError, match="x is not a table"):
            grouped_table_arrays(other, where="x")


def test_a_flipped_byte_among_the_data_is_refused_or_lies_in_another_group():
    columns, data = grouped()
    refused = 0
    for position in range(8, len(data) // 2, 29):
        broken = bytearray(data)
        broken[position] ^= 1
        for group in (0, 3, 5):
            try:
                table = read_table_group(io.BytesIO(bytes(broken)), group, where="the file x")
            except ArtifactError as error:
                refused += "the file x is not a table" in str(error)
            else:
                for name, values in columns.items():
                    np.testing.assert_array_equal(table[name], values[np.equal(GROUPS, group)])
    assert refused > 20


def test_a_cut_group_file_is_refused():
    _, data = grouped()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(ArtifactError, match="not a table"):
            read_table_group(io.BytesIO(data[:size]), 0, where="x")
