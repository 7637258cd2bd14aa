"""What the pool gives for a routed batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mova_core.experts.features import RoutedFeatures


@dataclass(frozen=True, slots=True, eq=False)
class Encoded(Mapping[str, RoutedFeatures]):
    """Features by expert id, in id order: a mapping, with a note of what is absent.

    Args:
        features: for each expert that ran, its features and the rows that chose it.
        skipped: for each expert that was chosen and failed, why; filled under `on_expert_error="skip"` only.
    """

    features: Mapping[str, RoutedFeatures]
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, id: str) -> RoutedFeatures:
        return self.features[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)
