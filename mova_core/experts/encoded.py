"""What the pool gives for a routed batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mova_core.experts.features import RoutedFeatures


@dataclass(frozen=True, slots=True)
class ExpertRun:
    """When an expert was busy.

    Args:
        id: the expert.
        start, end: by `time.perf_counter`, loading included if it was not in memory. A GPU may go on after
            `end`: that is when the work was handed to it.
        device: where it ran.
        pictures: how many it looked at; the features of others were in the cache.
    """

    id: str
    start: float
    end: float
    device: str
    pictures: int


@dataclass(frozen=True, slots=True, eq=False)
class Encoded(Mapping[str, RoutedFeatures]):
    """Features by expert id, in id order: a mapping, with a note of what is absent.

    Args:
        features: for each expert that ran, its features and the rows that chose it.
        skipped: for each expert that was chosen and failed, why; filled under `on_expert_error="skip"` only.
        runs: when each expert was busy, in the order they began; one that failed is not among them.
    """

    features: Mapping[str, RoutedFeatures]
    skipped: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[ExpertRun, ...] = ()

    def __getitem__(self, id: str) -> RoutedFeatures:
        return self.features[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)
