"""One HNSW index over a part of the knowledge base, with the distances of exact search.

hnswlib finds the candidates; the distances of those that may be returned are computed again by
exact.pair_distances from the keys beside the index, so results of several shards, or of an index and an exact
search, compare bit by bit. Cosine is stored as ip over unit vectors, which is how hnswlib itself does it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import hnswlib
import numpy as np

from rapid_dist.errors import ArtifactError, InputError, SpecError, StorageError
from rapid_dist.knowledge_base.exact import SPACES, check_ids, pair_distances, prepare_vectors, search_exact
from rapid_dist.knowledge_base.neighbors import NO_TRAJECTORY, Neighbors, first_neighbors, no_neighbors

# Asked for beyond k, so that float32 rounding inside hnswlib does not decide ties at the k-th place.
_EXTRA_CANDIDATES = 8
# Added at a time; a signal such as Ctrl-C is heard in between.
_KEYS_PER_ADD = 4096
_MAGIC = b"rapid-dist-hnsw-1\n"
_DIGEST_BYTES = 32
_TOO_FEW_RESULTS = "Cannot return the results"


class HnswShard:
    """An open index; made by build_shard or from_bytes.

    space: l2, cosine or ip; dim: d; ef_search: candidates kept while searching, at least num_neighbors
    are. Changing ef_search changes recall and speed only. One query call at a time: ef is state of the index.
    """

    def __init__(
        self, index: hnswlib.Index, keys: np.ndarray, trajectory_ids: np.ndarray, *, space: str, ef_search: int
    ):
        """keys: (n, d) float32, rows by ascending id; trajectory_ids: (n,) int64. Both are kept, not copied."""
        self._index = index
        self._keys = keys
        self._ids = trajectory_ids
        self.space = space
        self.ef_search = _positive("ef_search", ef_search)

    def __len__(self) -> int:
        return self._index.get_current_count()

    @property
    def dim(self) -> int:
        return self._index.dim

    @property
    def file_bytes(self) -> int:
        """Length of to_bytes."""
        return self._index.index_file_size() + len(self._header()) + len(_MAGIC) + _DIGEST_BYTES

    @property
    def trajectory_ids(self) -> np.ndarray:
        """(n,) int64, ascending."""
        return self._ids.copy()

    def query(self, queries: np.ndarray, num_neighbors: int, *, num_threads: int = 1) -> Neighbors:
        """Returns approximate neighbours, ordered by (distance, trajectory_id), padded when k > n.

        queries: (q, d). num_threads changes speed only.
        Guarantee: row i is a function of query i and the index alone, whatever the other queries are.
        Raises InputError for another dim or non-finite values, SpecError when num_neighbors < 1.
        """
        found = no_neighbors(len(queries), num_neighbors)
        prepared = prepare_vectors(queries, space=self.space, name="queries", dim=self.dim)
        if len(prepared) == 0:
            return found
        candidates = self._candidates(prepared, min(len(self), num_neighbors + _EXTRA_CANDIDATES), num_threads)
        if candidates is None and len(prepared) > 1:
            # Some search could not finish. Each then goes on alone, so that helping one changes no other.
            alone = [self.query(one[None], num_neighbors, num_threads=num_threads) for one in np.asarray(queries)]
            return Neighbors(
                trajectory_id=np.concatenate([n.trajectory_id for n in alone]),
                distance=np.concatenate([n.distance for n in alone]),
            )
        if candidates is None:
            return search_exact(self._keys, self._ids, queries, num_neighbors=num_neighbors, space=self.space)
        labels, approximate = candidates
        query, place = np.nonzero(_may_be_nearest(approximate, num_neighbors, dim=self.dim, space=self.space))
        trajectory_id = np.full(labels.shape, NO_TRAJECTORY, np.int64)
        trajectory_id[query, place] = labels[query, place]
        distance = np.full(labels.shape, np.inf, np.float32)
        rows, key = np.unique(np.searchsorted(self._ids, trajectory_id[query, place]), return_inverse=True)
        keys = prepare_vectors(self._keys[rows], space=self.space, name="keys")
        distance[query, place] = pair_distances(prepared, keys, query, key, space=self.space)
        return first_neighbors(trajectory_id, distance, num_neighbors)

    def to_bytes(self) -> bytes:
        """Returns a digest, a header with space, dim and count, and hnswlib's own file.

        Equal for equal indexes, which one build thread guarantees.
        Raises StorageError when the temporary file cannot be written whole.
        """
        header, payload = self._header(), _saved(self._index)
        digest = hashlib.sha256(header)
        digest.update(payload)
        return b"".join([_MAGIC, digest.digest(), header, payload])

    @classmethod
    def from_bytes(
        cls, data: bytes, *, keys: np.ndarray, trajectory_ids: np.ndarray, space: str, ef_search: int
    ) -> HnswShard:
        """Returns the shard that to_bytes wrote; ef_search is given again because hnswlib does not save it.

        The digest is checked first: hnswlib follows the links of a damaged file outside its memory.
        keys, trajectory_ids: what the shard was built from, rows by ascending id.
        Raises ArtifactError for damaged bytes or another dim, space or ids, StorageError without temporary space.
        """
        dim = keys.shape[1]
        start = len(_MAGIC) + _DIGEST_BYTES
        digest, body = data[len(_MAGIC) : start], memoryview(data)[start:]
        if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
            raise ArtifactError(f"{len(data)} bytes are not a whole index shard; build or copy it again")
        end = data.index(b"\n", start)
        header, payload = json.loads(data[start:end]), memoryview(data)[end + 1 :]
        if (header["dim"], header["space"]) != (dim, space):
            raise ArtifactError(
                f"index shard has dim {header['dim']} and space {header['space']}; expected {dim} and {space}"
            )
        index = hnswlib.Index(space=_stored_space(space), dim=dim)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "index")
                path.write_bytes(payload)
                index.load_index(str(path))
        except OSError as error:
            raise StorageError(f"no temporary file for the index: {error.strerror}; check TMPDIR") from error
        except RuntimeError as error:
            raise ArtifactError(f"hnswlib cannot read the index shard: {error}; build it again") from error
        if not np.array_equal(np.sort(index.get_ids_list()), trajectory_ids):
            raise ArtifactError("an index shard and the rows beside it differ in ids; build the shard again")
        return cls(index, keys, trajectory_ids, space=space, ef_search=ef_search)

    def _header(self) -> bytes:
        header = {"space": self.space, "dim": self.dim, "count": len(self)}
        return json.dumps(header, sort_keys=True).encode() + b"\n"

    def _candidates(
        self, queries: np.ndarray, num_candidates: int, num_threads: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns (q, num_candidates) labels and hnswlib's distances, nearest first, or None when too few are reached.

        A single query that ef_search does not finish is tried with ef = n; several are not: they share ef.
        """
        for ef in (self.ef_search, len(self))[: 1 if len(queries) > 1 else 2]:
            self._index.set_ef(ef)
            try:
                labels, approximate = self._index.knn_query(queries, k=num_candidates, num_threads=num_threads)
            except RuntimeError as error:
                if _TOO_FEW_RESULTS not in str(error):
                    raise
            else:
                return labels.astype(np.int64), approximate
        return None


def build_shard(
    keys: np.ndarray,
    trajectory_ids: np.ndarray,
    *,
    space: str,
    M: int,
    ef_construction: int,
    seed: int,
    num_threads: int = 1,
) -> HnswShard:
    """Returns an index over the keys, labelled with their trajectory ids; ef_search is ef_construction.

    Keys are added by ascending id: with one thread the bytes depend on the rows and settings only, not on the
    order of the rows. With more threads they may differ between builds.
    keys: (n, d) taken as float32, n >= 1; trajectory_ids: (n,) unique, not negative.
    Raises SpecError for settings out of range, InputError for bad keys or ids.
    """
    for name, value in (("ef_construction", ef_construction), ("num_threads", num_threads)):
        _positive(name, value)
    if M < 2:
        raise SpecError(f"M is {M}; expected at least 2")
    if seed < 0:
        raise SpecError(f"seed is {seed}; expected 0 or above")
    if space not in SPACES:
        raise SpecError(f"space is {space!r}; expected one of {', '.join(SPACES)}")
    keys = prepare_vectors(keys, space="ip", name="keys")
    ids = check_ids(trajectory_ids, num_keys=len(keys))
    num_distinct = len(np.unique(ids))
    if num_distinct != len(ids) or num_distinct == 0:
        raise InputError(f"got {len(ids)} keys with {num_distinct} ids; expected some, each with its own id")
    if (np.diff(ids) < 0).any():
        order = np.argsort(ids)
        keys, ids = keys[order], ids[order]
    index = hnswlib.Index(space=_stored_space(space), dim=keys.shape[1])
    index.init_index(max_elements=len(ids), M=M, ef_construction=ef_construction, random_seed=seed)
    for first in range(0, len(ids), _KEYS_PER_ADD):
        block = slice(first, first + _KEYS_PER_ADD)
        stored = prepare_vectors(keys[block], space=space, name="keys")
        index.add_items(stored, ids[block], num_threads=num_threads)
    return HnswShard(index, keys, ids, space=space, ef_search=ef_construction)


def _may_be_nearest(approximate: np.ndarray, num_neighbors: int, *, dim: int, space: str) -> np.ndarray:
    """Returns which candidates can be among the first num_neighbors once their distances are exact, (q, c) bool.

    hnswlib sums d float32 terms in some order. For l2 the terms are not negative and each passes at most d + 2
    roundings of 2^-24; for cosine the terms of the dot product have absolute sum at most 1 + rounding (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1). A candidate further from the k-th than twice that
    error and a float32 spacing is behind all of the first k. For ip the norms are not known: all may be.
    approximate: (q, c) float32 from hnswlib, ascending.
    """
    if space == "ip" or num_neighbors >= approximate.shape[1]:
        return np.ones(approximate.shape, dtype=bool)
    kth = approximate[:, num_neighbors - 1 : num_neighbors].astype(np.float64)
    unit = (dim + 8) * 2.0**-24
    # What underflow can hide in l2 is below the smallest normal float32, a term.
    reach = kth * (1 + 3 * unit) + dim * np.finfo(np.float32).tiny if space == "l2" else kth + 2 * unit
    return ~(approximate > reach)


def _saved(index: hnswlib.Index) -> bytes:
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "index")
            index.save_index(str(path))
            payload = path.read_bytes()
    except OSError as error:
        raise StorageError(f"no temporary file for the index: {error.strerror}; check TMPDIR") from error
    if len(payload) != index.index_file_size():  # hnswlib does not notice a full disk.
        raise StorageError("the temporary file of the index is cut short; free some space or set TMPDIR")
    return payload


def _stored_space(space: str) -> str:
    return "l2" if space == "l2" else "ip"


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise SpecError(f"{name} is {value}; expected at least 1")
    return value
