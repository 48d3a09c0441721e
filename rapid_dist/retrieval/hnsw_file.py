"""The rows of a saved hnswlib index, read as one array.

hnswlib's own get_items makes a Python float of every coordinate (15 microseconds a key of 128 dimensions).
"""

from __future__ import annotations

import struct

import numpy as np

from rapid_dist.errors import ArtifactError

# saveIndex of hnswlib 0.8 (hnswalg.h): offset of level 0, capacity, count, bytes a row, offsets of label and vector,
# top level, entry point, maxM, maxM0, M, 1/ln(M) as double, ef_construction; then the rows of level 0.
_HEADER = struct.Struct("=6Q2i3QdQ")


def stored_rows(payload: bytes | memoryview, *, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ids, keys) by ascending id: (n,) int64 and (n, dim) float32, copied, as the index stores them.

    payload: what Index.save_index writes. Raises ArtifactError when its header is not hnswlib 0.8's for this dim.
    """
    size = len(payload)
    if size < _HEADER.size:
        raise ArtifactError(f"an index of {size} bytes has no header; build it again")
    _, _, count, row_bytes, label, vector, *_ = _HEADER.unpack_from(payload)
    is_known = label == vector + 4 * dim and row_bytes == label + 8 and _HEADER.size + count * row_bytes <= size
    if not is_known:
        raise ArtifactError(
            f"an index of {size} bytes is not laid out as hnswlib 0.8 does for dim {dim}; build it again"
        )
    layout = {"names": ["key", "id"], "formats": [(np.float32, dim), np.uint64], "offsets": [vector, label]}
    rows = np.frombuffer(payload, np.dtype({**layout, "itemsize": row_bytes}), count=count, offset=_HEADER.size)
    ids = rows["id"].astype(np.int64)
    order = np.argsort(ids)
    return ids[order], rows["key"][order]
