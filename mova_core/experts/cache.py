"""Expert features kept by picture, within a bound.

Features depend on the picture and the expert only, never on the question, so that every later question about
a picture finds them here (method, section 1).

Notation for tensor shapes:
    n: tokens of the feature grid, c: feature channels
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from mova_core.errors import ConfigError
from mova_core.experts.features import ExpertFeatures


class FeatureKey(NamedTuple):
    """All that features depend on.

    Args:
        image: `image_digest` of the picture.
        stream: hash of the input stream.
        expert: id of the expert.
        revision: revision of its weights.
        dtype: dtype it runs in.
    """

    image: str
    stream: str
    expert: str
    revision: str
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How a cache fared.

    Args:
        hits, misses: lookups that found features, and that did not.
        evictions: entries dropped to stay within the bound.
        entries: entries held now.
        nbytes: bytes of features held now.
    """

    hits: int
    misses: int
    evictions: int
    entries: int
    nbytes: int


class FeatureCache:
    """A least-recently-used store of the features of single pictures; safe to share between threads.

    Features stay on the device they were computed on.

    Args:
        max_bytes: bound of all features together, in bytes; an entry larger than the bound is not kept.

    Raises:
        ConfigError: `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ConfigError(
                "the feature cache has a negative bound", value=max_bytes, expected="bytes, 0 or more"
            )
        self.max_bytes = max_bytes
        self._entries: OrderedDict[FeatureKey, ExpertFeatures] = OrderedDict()
        self._lock = Lock()
        self._nbytes = self._hits = self._misses = self._evictions = 0

    def get(self, key: FeatureKey) -> ExpertFeatures | None:
        """The features of that key ([1, n, c]; not to be changed in place), or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
                self._entries.move_to_end(key)
            return found

    def put(self, key: FeatureKey, features: ExpertFeatures) -> None:
        """Keep a copy of the features of one picture, dropping those used longest ago where space is short.

        Args:
            key: what the features depend on.
            features: [1, n, c].
        """
        # A copy, since a slice of a batch would keep the memory of the whole batch.
        tokens = features.tokens.detach().clone(memory_format=torch.contiguous_format)
        if _nbytes(tokens) > self.max_bytes:
            return
        with self._lock:
            self._remove(key)
            self._entries[key] = ExpertFeatures(tokens, features.grid)
            self._nbytes += _nbytes(tokens)
            while self._nbytes > self.max_bytes:
                self._remove(next(iter(self._entries)))
                self._evictions += 1

    def clear(self) -> None:
        """Drop every entry; the counts stay."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0

    @property
    def stats(self) -> CacheStats:
        """Counts so far."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._evictions, len(self._entries), self._nbytes)

    def _remove(self, key: FeatureKey) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._nbytes -= _nbytes(old.tokens)


def _nbytes(tokens: Tensor) -> int:
    return tokens.numel() * tokens.element_size()
