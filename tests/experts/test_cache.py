from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import ConfigError
from mova_core.experts.cache import CacheStats, FeatureCache, FeatureKey
from mova_core.experts.features import ExpertFeatures

ENTRY_BYTES = 6 * 4 * 4


def _key(image: str) -> FeatureKey:
    return FeatureKey(image, "stream", "expert", "revision", torch.float32)


def _features(value: float = 0.0, n: int = 6) -> ExpertFeatures:
    return ExpertFeatures(torch.full((1, n, 4), value), (1, n))


def test_what_is_put_is_got() -> None:
    cache = FeatureCache(ENTRY_BYTES)
    assert cache.get(_key("a")) is None
    cache.put(_key("a"), _features(3.0))
    found = cache.get(_key("a"))
    assert found is not None and torch.equal(found.tokens, _features(3.0).tokens) and found.grid == (1, 6)
    assert cache.stats == CacheStats(hits=1, misses=1, evictions=0, entries=1, nbytes=ENTRY_BYTES)


@pytest.mark.parametrize(
    "other",
    [
        _key("a")._replace(image="b"),
        _key("a")._replace(stream="other"),
        _key("a")._replace(expert="other"),
        _key("a")._replace(revision="other"),
        _key("a")._replace(dtype=torch.bfloat16),
    ],
)
def test_each_part_of_the_key_matters(other: FeatureKey) -> None:
    cache = FeatureCache(10 * ENTRY_BYTES)
    cache.put(_key("a"), _features())
    assert cache.get(other) is None


def test_the_entry_used_longest_ago_goes_first() -> None:
    cache = FeatureCache(2 * ENTRY_BYTES)
    cache.put(_key("a"), _features())
    cache.put(_key("b"), _features())
    cache.get(_key("a"))
    cache.put(_key("c"), _features())
    assert [cache.get(_key(name)) is not None for name in "abc"] == [True, False, True]
    assert cache.stats.evictions == 1


def test_a_slice_does_not_keep_its_batch_alive() -> None:
    batch = torch.zeros(8, 6, 4)
    cache = FeatureCache(ENTRY_BYTES)
    cache.put(_key("a"), ExpertFeatures(batch[2:3], (2, 3)))
    batch += 1.0
    found = cache.get(_key("a"))
    assert found is not None and found.tokens.untyped_storage().nbytes() == ENTRY_BYTES
    assert found.tokens.sum() == 0


def test_clear_empties() -> None:
    cache = FeatureCache(ENTRY_BYTES)
    cache.put(_key("a"), _features())
    cache.clear()
    assert cache.get(_key("a")) is None and cache.stats.nbytes == 0


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="got -1"):
        FeatureCache(-1)


@given(
    st.integers(0, 5 * ENTRY_BYTES),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 12)), max_size=30),
)
def test_the_bound_holds_and_the_newest_entry_that_fits_is_there(
    bound: int, puts: list[tuple[str, int]]
) -> None:
    cache = FeatureCache(bound)
    sizes: dict[str, int] = {}
    for name, n in puts:
        cache.put(_key(name), _features(n=n))
        fits = n * 16 <= bound
        if fits:
            sizes[name] = n * 16
            assert cache.get(_key(name)) is not None
        assert cache.stats.nbytes <= bound
    kept = [size for name, size in sizes.items() if cache.get(_key(name)) is not None]
    assert cache.stats.nbytes == sum(kept) and cache.stats.entries == len(kept)
