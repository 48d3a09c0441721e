import hnswlib
import numpy as np
import pytest

from rapid_dist.errors import ArtifactError
from rapid_dist.retrieval.hnsw_file import stored_rows


@pytest.fixture
def saved(tmp_path):
    """The file of an index of 300 keys of 5 dimensions with room for more, its ids out of order, and the index."""
    rng = np.random.default_rng(0)
    index = hnswlib.Index(space="cosine", dim=5)
    index.init_index(max_elements=400, M=6, ef_construction=20, random_seed=1)
    index.add_items(rng.normal(size=(300, 5)), rng.permutation(900)[:300])
    index.save_index(str(tmp_path / "index"))
    return (tmp_path / "index").read_bytes(), index


def test_rows_are_those_that_hnswlib_gives_one_by_one(saved):
    payload, index = saved
    ids, keys = stored_rows(payload, dim=5)
    assert ids.dtype == np.int64
    assert keys.dtype == np.float32
    assert ids.tolist() == sorted(index.get_ids_list())
    assert keys.tobytes() == index.get_items(ids, return_type="numpy").astype("f4").tobytes()
    assert keys.flags.c_contiguous


def test_rows_do_not_hold_the_file(saved):
    ids, keys = stored_rows(saved[0], dim=5)
    assert ids.base is None
    assert keys.base is None


@pytest.mark.parametrize("dim", [4, 6])
def test_another_dim_is_refused(saved, dim):
    with pytest.raises(ArtifactError, match="laid out"):
        stored_rows(saved[0], dim=dim)


@pytest.mark.parametrize("kept", [0, 50, 3000])
def test_a_file_cut_short_is_refused(saved, kept):
    with pytest.raises(ArtifactError, match=f"index of {kept} bytes"):
        stored_rows(saved[0][:kept], dim=5)
