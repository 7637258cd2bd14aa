"""Routers made of a model's own parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mova_core.model.assistant import Mova
from mova_core.model.load import load
from mova_core.model.routers import listwise_router, own_router, pointwise_router, similarity_router

QUESTION = "Where is the grass?"


def test_the_checkpoint_says_which_router_is_its_own(assistant: Mova) -> None:
    assert own_router(assistant.model, assistant.processor).name == "pointwise"
    assistant.model.config.router |= {"kind": "listwise"}
    assert own_router(assistant.model, assistant.processor).name == "listwise"


def test_the_pointwise_router_has_the_checkpoints_calibration(assistant: Mova, picture: Any) -> None:
    plain = assistant.route(picture(1), QUESTION).probabilities
    assistant.model.config.router |= {"bias": 0.5, "temperature": 2.0, "threshold": 0.0, "max_experts": 2}
    router = pointwise_router(assistant.model, assistant.processor)
    route = assistant.route(picture(1), QUESTION, router=router)
    for id, probability in plain.items():
        score = torch.logit(torch.tensor(probability, dtype=torch.float64))
        assert route.probabilities[id] == pytest.approx(torch.sigmoid((score - 0.5) / 2).item(), abs=1e-6)
    assert list(route.experts) == sorted(plain, key=lambda id: -plain[id])[:2]


@pytest.mark.parametrize("make", [pointwise_router, listwise_router])
def test_it_routes_with_its_own_lora_only(assistant: Mova, picture: Any, make: Any) -> None:
    def routed() -> Any:
        router = make(assistant.model, assistant.processor)
        return assistant.route(picture(1), QUESTION, router=router).probabilities

    before = routed()
    weights = dict(assistant.model.language_model.named_parameters())
    for key, weight in weights.items():
        if ".answer." in key:
            weight.data.zero_()
    assert routed() == before
    for key, weight in weights.items():
        if ".router." in key:
            weight.data.zero_()
    assert routed() != before


def test_it_can_look_at_pictures_itself(assistant: Mova, picture: Any) -> None:
    routes = assistant.router.route([picture(1), picture(2)], [QUESTION, QUESTION], assistant.pool)
    assert routes[0].probabilities != routes[1].probabilities


def test_routing_answers_the_same_before_and_after_an_answer(tiny: Path, picture: Any) -> None:
    assistant = load(tiny, dtype=torch.float32)
    before = assistant.route(picture(1), QUESTION)
    assistant.ask(picture(1), QUESTION, max_new_tokens=2)
    assert assistant.route(picture(1), QUESTION) == before


def test_likeness_of_words_needs_no_picture(assistant: Mova, picture: Any) -> None:
    router = similarity_router(assistant.model, assistant.processor)
    own = assistant.route(picture(1), "Finds leaves and grass.", router=router)
    other = assistant.route(picture(2), "Finds leaves and grass.", router=router)
    assert own == other
    assert own.experts == ("tiny-green",)
    assert own.probabilities["tiny-green"] == pytest.approx(1, abs=1e-5)
