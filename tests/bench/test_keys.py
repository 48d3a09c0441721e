import numpy as np
import pytest

from rapid_dist.bench import settings as keys_module
from rapid_dist.bench.settings import CLUSTERED, GAUSSIAN, draw_keys, spectrum
from rapid_dist.errors import SpecError


def drawn(data, count=4000, dim=128, role="keys"):
    return draw_keys(data, count, dim=dim, seed=1, role=role)


def explained(keys):
    """The shares of variance of the principal directions, descending."""
    squared = np.linalg.svd(keys - keys.mean(axis=0), compute_uv=False) ** 2
    return squared / squared.sum()


@pytest.mark.parametrize("data", [CLUSTERED, GAUSSIAN])
def test_keys_are_unit_float32_and_a_function_of_seed_and_role(data):
    keys = drawn(data, 50)
    assert keys.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-6)
    assert np.array_equal(keys, drawn(data, 50))
    assert not np.array_equal(keys, drawn(data, 50, role="queries"))
    assert not np.array_equal(keys, draw_keys(data, 50, dim=128, seed=2, role="keys"))


def test_more_keys_begin_with_the_same_blocks(monkeypatch):
    monkeypatch.setattr(keys_module, "_ROWS_PER_BLOCK", 20)
    assert np.array_equal(drawn(CLUSTERED, 60)[:40], drawn(CLUSTERED, 40))


def test_clustered_keys_have_the_measured_shape_and_gaussian_ones_do_not():
    """Mean of norm 0.86 and 10.5 effective directions (participation ratio) on the extractor's keys of letters."""
    clustered, gaussian = drawn(CLUSTERED), drawn(GAUSSIAN)
    assert abs(np.linalg.norm(clustered.mean(axis=0)) - 0.86) < 0.03
    assert 8 < 1 / (explained(clustered) ** 2).sum() < 13
    assert 14 <= (np.cumsum(explained(clustered)) < 0.9).sum() <= 19
    assert np.linalg.norm(gaussian.mean(axis=0)) < 0.1
    assert 1 / (explained(gaussian) ** 2).sum() > 100


def test_queries_fall_into_the_clusters_of_the_keys():
    keys, queries = drawn(CLUSTERED), drawn(CLUSTERED, 200, role="queries")
    elsewhere = draw_keys(CLUSTERED, 200, dim=128, seed=2, role="queries")
    same_clusters, other_clusters = ((q @ keys.T).max(axis=1).mean() for q in (queries, elsewhere))
    assert 1 - same_clusters < 0.9 * (1 - other_clusters)


@pytest.mark.parametrize("dim", [2, 16, 128, 300])
def test_spectrum_sums_to_the_variance_and_falls(dim):
    assert spectrum(dim).sum() == pytest.approx(0.27)
    assert (np.diff(spectrum(dim)) < 0).all()


@pytest.mark.parametrize("change", [{"data": "letters"}, {"count": 0}, {"dim": 1}], ids=lambda c: next(iter(c)))
def test_bad_arguments_are_refused(change):
    with pytest.raises(SpecError, match="expected"):
        drawn(**({"data": CLUSTERED, "count": 5, "dim": 4} | change))
