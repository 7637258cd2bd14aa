from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mova_core.cards.card import ExpertCard, FeatureSpec
from mova_core.errors import ExpertRunError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert, check_features
from mova_core.experts.streams import stream_tensor

SPEC = FeatureSpec(channels=4, grid=(2, 3))


def test_features_that_keep_the_promise_pass() -> None:
    features = ExpertFeatures(torch.zeros(5, 6, 4), (2, 3))
    assert check_features(features, SPEC, expert="e", images=5) is features


def test_a_dynamic_grid_may_be_any() -> None:
    dynamic = FeatureSpec(channels=4, grid="dynamic")
    check_features(ExpertFeatures(torch.zeros(1, 35, 4), (5, 7)), dynamic, expert="e", images=1)


@pytest.mark.parametrize(
    ("features", "got", "expected"),
    [
        (torch.zeros(5, 6, 4), "Tensor", "ExpertFeatures"),
        (ExpertFeatures(torch.zeros(4, 6, 4), (2, 3)), "features of 4 pictures", "5"),
        (ExpertFeatures(torch.zeros(5, 6, 8), (2, 3)), "8 channels", "4"),
        (ExpertFeatures(torch.zeros(5, 6, 4), (3, 2)), "a grid of 3x2", "2x3"),
    ],
)
def test_a_broken_promise_names_the_expert(features: object, got: str, expected: str) -> None:
    with pytest.raises(ExpertRunError, match=f"'owl'.*got {got}; expected {expected}"):
        check_features(features, SPEC, expert="owl", images=5)


def test_preprocess_is_the_stream_of_the_card(
    make_card: Callable[..., ExpertCard], make_workshop: Callable[..., Any], pictures: list[Any]
) -> None:
    card = make_card("owl")
    expert: VisionExpert = make_workshop()(card).bind(card)
    assert expert.card is card
    assert torch.equal(expert.preprocess(pictures), stream_tensor(pictures, card.input))


def test_an_expert_must_say_how_it_encodes() -> None:
    class Mute(VisionExpert):
        pass

    with pytest.raises(TypeError, match="forward"):
        Mute()  # type: ignore[abstract]
