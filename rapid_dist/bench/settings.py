"""What a benchmark of the knowledge base is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from rapid_dist.errors import SpecError

# Fewer keys than this a shard would measure nothing but overhead.
MIN_KEYS_PER_SHARD = 50


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """hnswlib's settings, the same for every graph of a run. Raises SpecError when out of range."""

    M: int = 16
    ef_construction: int = 100
    ef_search: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("M", 2), ("ef_construction", 1), ("ef_search", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise SpecError(f"{name} is {getattr(self, name)}; expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """One run of the benchmark.

    keys: of the largest base; dim: d; sizes: numbers of keys to measure at, ascending, the last is keys;
    gaussian_keys: size of the i.i.d. Gaussian worst case, 0 leaves it out; shards and num_probes: layouts of the
    base; num_queries: a batch; num_neighbors: k; rounds: turns of each contender; num_threads: of the builds.
    Raises SpecError when something is out of range or does not fit.
    """

    keys: int
    dim: int = 128
    sizes: tuple[int, ...] = ()
    gaussian_keys: int = 0
    shards: tuple[int, ...] = (1, 4, 16)
    num_probes: tuple[int, ...] = (1, 2, 4, 8)
    num_queries: int = 1000
    num_neighbors: int = 10
    rounds: int = 5
    num_threads: int = 1
    index: IndexSettings = IndexSettings()

    def __post_init__(self) -> None:
        for name in ("keys", "dim", "num_queries", "num_neighbors", "rounds", "num_threads"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.gaussian_keys < 0:
            raise SpecError(f"gaussian_keys is {self.gaussian_keys}; expected 0 (none) or above")
        if self.dim < 2:
            raise SpecError(f"dim is {self.dim}; expected at least 2")
        if self.sizes and (sorted(set(self.sizes)) != list(self.sizes) or self.sizes[-1] != self.keys):
            raise SpecError(f"sizes are {list(self.sizes)}; expected ascending numbers that end with keys, {self.keys}")
        for name in ("shards", "num_probes"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) != len(values):
                raise SpecError(f"{name} are {list(values)}; expected different numbers of at least 1")
        smallest = min(*self.all_sizes, self.gaussian_keys or self.keys)
        if smallest < MIN_KEYS_PER_SHARD * max(self.shards):
            raise SpecError(
                f"{smallest} keys in {max(self.shards)} shards; expected at least {MIN_KEYS_PER_SHARD} keys a shard: "
                "take more keys or fewer shards"
            )
        if self.num_neighbors > MIN_KEYS_PER_SHARD:
            raise SpecError(f"num_neighbors is {self.num_neighbors}; expected at most {MIN_KEYS_PER_SHARD}")

    @property
    def all_sizes(self) -> tuple[int, ...]:
        """The sizes asked for, else powers of ten from 10,000 below keys, and keys."""
        if self.sizes:
            return self.sizes
        below = (10**power for power in range(4, len(str(self.keys))))
        return (*(size for size in below if size < self.keys), self.keys)
