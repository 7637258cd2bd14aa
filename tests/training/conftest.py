"""Training configurations of the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mova_core.training.config import TrainConfig

RATES = {"align": {"adapter": 3e-3}, "sft": {"adapter": 3e-3, "answer": 1e-2}, "router": {"router": 1e-2}}


@pytest.fixture
def make_config(tiny: Path, tiny_home: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes the configuration of a stage; `sft` and `router` start from the tiny checkpoint."""
    from mova_tiny.build import recipe

    def make(stage: str, **changes: Any) -> TrainConfig:
        start = {} if stage == "align" else {"model": None, "start": str(tiny)}
        fields = recipe(
            tiny_home,
            stage=stage,
            output=str(tmp_path / "run"),
            learning_rates=RATES[stage],
            options={"offered": 2, "calibration": 48} if stage == "router" else {},
            **start,
        )
        fields["data"]["features"] = str(tmp_path / "features")
        return TrainConfig.model_validate(fields | changes)

    return make
