"""The Arrow tables of the pipeline as Parquet bytes: images, trajectories, values. Arrays in, arrays out."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rapid_dist.errors import ArtifactError

_SHAPES = b"rapid_dist.shapes"


def table_bytes(columns: Mapping[str, np.ndarray]) -> bytes:
    """Columns (n, ...) of equal length as Parquet; those with more than one dimension become fixed-size lists."""
    arrays, fields, shapes = [], [], {}
    for name, values in columns.items():
        values = np.ascontiguousarray(values)
        if values.ndim == 1:
            array: pa.Array = pa.array(values)
        else:
            shapes[name] = list(values.shape[1:])
            size = int(np.prod(values.shape[1:]))
            array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=False))
    schema = pa.schema(fields, metadata={_SHAPES: json.dumps(shapes).encode()})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def table_arrays(data: bytes, *, where: str = "a Parquet file") -> dict[str, np.ndarray]:
    """What table_bytes saved, with the same shapes and types. Raises ArtifactError when it is no such table."""
    try:
        table = pq.read_table(io.BytesIO(data))
        shapes = json.loads(table.schema.metadata[_SHAPES])
    except (pa.ArrowException, KeyError, TypeError):
        raise ArtifactError(f"{where} is not a table of this program; run the stage that made it again") from None
    columns = {}
    for name in table.column_names:
        chunk = table.column(name).combine_chunks()
        if name in shapes:
            columns[name] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shapes[name])
        else:
            columns[name] = chunk.to_numpy(zero_copy_only=False)
    return columns
