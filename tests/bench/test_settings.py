import pytest

from rapid_dist.bench.settings import BenchSettings, IndexSettings
from rapid_dist.errors import SpecError


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [
        (1_000_000, (10_000, 100_000, 1_000_000)),
        (250_000, (10_000, 100_000, 250_000)),
        (10_000, (10_000,)),
        (4_000, (4_000,)),
    ],
)
def test_sizes_are_powers_of_ten_up_to_keys(keys, sizes):
    assert BenchSettings(keys=keys).all_sizes == sizes


def test_sizes_that_are_asked_for_are_taken():
    assert BenchSettings(keys=3000, sizes=(1000, 3000)).all_sizes == (1000, 3000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": 0}, "keys is 0"),
        ({"keys": 700}, "16 shards"),
        ({"dim": 1}, "dim is 1"),
        ({"rounds": 0}, "rounds"),
        ({"num_threads": 0}, "num_threads"),
        ({"num_neighbors": 51}, "num_neighbors"),
        ({"shards": ()}, "shards"),
        ({"shards": (4, 0)}, "shards"),
        ({"num_probes": (2, 2)}, "num_probes"),
        ({"sizes": (2000, 1000)}, "sizes"),
        ({"sizes": (1000,)}, "sizes"),
        ({"gaussian_keys": -1}, "gaussian_keys"),
        ({"gaussian_keys": 10}, "10 keys"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, said):
    with pytest.raises(SpecError, match=said):
        BenchSettings(**({"keys": 5000} | change))


@pytest.mark.parametrize("change", [{"M": 1}, {"ef_construction": 0}, {"ef_search": 0}, {"seed": -1}])
def test_index_settings_out_of_range_are_refused(change):
    with pytest.raises(SpecError, match=next(iter(change))):
        IndexSettings(**change)
