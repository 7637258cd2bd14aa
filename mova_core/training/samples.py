"""What a training stage learns from."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mova_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture with questions that share a route.

    Args:
        image: RGB.
        turns: questions and answers.
        experts: ids of the experts that help with these questions; empty when the base is enough.
        words: optional names of what is where, each with the share of every cell of the fused grid, [h, w] in
            0..1.
        task: what the questions are reported under.
        plain: whether the wording gives the kind of picture away.
    """

    image: Image.Image
    turns: tuple[tuple[str, str], ...]
    experts: tuple[str, ...]
    words: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    task: str = ""
    plain: bool = True


_NO_PICTURE = Image.new("RGB", (1, 1))


class SampleSet(Protocol):
    """Samples by number; the same number always gives the same sample."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Told:
    """Samples without their pictures, for stages that train on stored features.

    Args:
        samples: the set; drawing or decoding its pictures may cost more than the rest of a batch.
        kept: samples that stay in memory, and are read once while they do.
    """

    def __init__(self, samples: SampleSet, kept: int = 1 << 14) -> None:
        self._samples, self._limit = samples, kept
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            if len(self._kept) >= self._limit:
                del self._kept[next(iter(self._kept))]  # the one read longest ago
            self._kept[index] = replace(self._samples[index], image=_NO_PICTURE)
        return self._kept[index]


def build_samples(factory: str, **arguments: Any) -> SampleSet:
    """Calls a factory of samples.

    Args:
        factory: `module:function`.
        arguments: for the function.

    Raises:
        ConfigError: if it cannot be imported or does not take the arguments.
    """
    module, _, name = factory.partition(":")
    try:
        made: SampleSet = getattr(importlib.import_module(module), name)(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the samples cannot be built: {error}",
            value=factory,
            expected="module:function and its arguments",
        ) from error
    return made
