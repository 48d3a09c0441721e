import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rapid_dist.artifacts.tables import table_arrays, table_bytes
from rapid_dist.errors import ArtifactError

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
