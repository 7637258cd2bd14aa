"""Sample sets by the name of what makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mova_core.errors import ConfigError
from mova_core.training.samples import build_samples


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
