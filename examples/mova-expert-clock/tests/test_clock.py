"""The clock reader: what every expert promises, and that it reads clocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mova_core.errors import ExpertLoadError
from mova_core.experts.pool import ExpertPool
from mova_core.routing.route import Route
from mova_core.testing import ExpertConformance
from mova_expert_clock.expert import ClockExpert
from mova_expert_clock.faces import draw_face

CPU = torch.device("cpu")


class TestClock(ExpertConformance):
    expert = "clock"
    tiny = {"side": 64, "channels": 16, "layers": 1}
    full = {"side": 128, "channels": 64, "layers": 2}
    preprocessing = Path(__file__).parent / "preprocessing.safetensors"


def test_a_seed_always_draws_the_same_clock_and_another_seed_another() -> None:
    one, again, other = draw_face("a/1"), draw_face("a/1"), draw_face("a/2")
    assert one.image.tobytes() == again.image.tobytes() and one.hour == again.hour
    assert one.image.tobytes() != other.image.tobytes()


def test_features_of_unseen_clocks_tell_the_hour() -> None:
    """A linear probe on the frozen features: far above the twelfth part that guessing gets."""
    faces = [draw_face(f"probe/{i}") for i in range(700)]
    pool = ExpertPool.from_ids(["clock"])
    features = pool.encode([f.image for f in faces], [Route(("clock",))] * len(faces))["clock"].features
    x = features.tokens.flatten(1)  # [b, n * c]
    y = torch.tensor([f.hour for f in faces])
    right = (_ridge(x[:500], y[:500], x[500:]) == y[500:]).float().mean()
    assert right > 0.7


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    small = ClockExpert.from_config(channels=16).encoder.state_dict()
    save_file(dict(small), tmp_path / "weights.safetensors")
    with pytest.raises(ExpertLoadError, match="do not fit ClockEncoder"):
        ClockExpert.from_pretrained(str(tmp_path / "weights.safetensors"), dtype=torch.float32, device=CPU)


def _ridge(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """Classes of `asked` by ridge regression from `x` to one-hot `y`, in the dual: [n, d] with n < d."""
    mean = x.mean(0)
    x, asked = x - mean, asked - mean
    targets = torch.nn.functional.one_hot(y).float()
    kernel = x @ x.T
    weights = torch.linalg.solve(kernel + 0.01 * kernel.diagonal().mean() * torch.eye(len(x)), targets)
    return (asked @ x.T @ weights).argmax(1)
