"""Sample sets by the name of what makes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mova_core.errors import ConfigError
from mova_core.training.samples import Sample, Told, build_samples


def test_a_factory_is_called_with_its_arguments(tiny: Path) -> None:
    assert len(build_samples("mova_tiny.samples:training_set", size=5)) == 5


@pytest.mark.parametrize(
    "factory",
    ["nowhere_at_all:samples", "mova_tiny.samples:nothing", "mova_tiny.samples", "", ":training_set"],
)
def test_a_factory_that_is_not_there_is_named(tiny: Path, factory: str) -> None:
    with pytest.raises(ConfigError, match="the samples cannot be built"):
        build_samples(factory)


def test_wrong_arguments_are_named(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="training_set.*'sise'"):
        build_samples("mova_tiny.samples:training_set", sise=5)


class Counting:
    """Samples that remember how often they were drawn."""

    def __init__(self, samples: Any) -> None:
        self.samples, self.drawn = samples, Counter[int]()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.drawn[index] += 1
        return self.samples[index]


def test_told_samples_are_drawn_once_and_have_all_but_the_picture(tiny: Path) -> None:
    samples = Counting(build_samples("mova_tiny.samples:training_set", size=5))
    told = Told(samples)
    for index in (4, 0, 4, 1, 0, 4):
        read = told[index]
        assert read.image.size == (1, 1)
        assert replace(read, image=samples.samples[index].image) == samples.samples[index]
    assert len(told) == 5
    assert samples.drawn == {4: 1, 0: 1, 1: 1}


def test_told_samples_are_bounded(tiny: Path) -> None:
    samples = Counting(build_samples("mova_tiny.samples:training_set", size=5))
    told = Told(samples, kept=2)
    for index in (0, 1, 2, 0):
        told[index]
    assert samples.drawn[0] == 2
