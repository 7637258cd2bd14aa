"""One model under several ways of routing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mova_core.errors import ConfigError
from mova_core.evaluation.ablation import Item, Outcome, accuracy, router_for, routing, run_mode
from mova_core.model.assistant import Mova
from mova_core.model.load import load

ALL = ("tiny-blue", "tiny-green", "tiny-red")


@pytest.fixture
def assistant(tiny: Path) -> Mova:
    return load(tiny, dtype=torch.float32)


@pytest.fixture
def items(tiny: Path) -> list[Item]:
    from mova_tiny.samples import held_out

    return [Item(s.image, *s.turns[0], s.experts, s.task, s.plain) for s in held_out(count=2)]


def learned(items: list[Item]) -> list[Outcome]:
    routes = [(), ("tiny-red",), ALL[:2], ALL, (), ("tiny-blue",)]
    return [Outcome(item, item.answer, route) for item, route in zip(items, routes, strict=True)]


def test_each_mode_routes_in_its_way(assistant: Mova, items: list[Item]) -> None:
    for mode, count in (("none", 0), ("all", 3)):
        assert {len(outcome.route) for outcome in run_mode(assistant, items[:2], mode)} == {count}
    (own,) = run_mode(assistant, items[:1], "learned")
    assert own.route == assistant.ask(items[0].image, items[0].question, max_new_tokens=1).route.experts


def test_random_routes_hold_as_many_experts_as_learned_ones(assistant: Mova, items: list[Item]) -> None:
    model = learned(items)
    found = run_mode(assistant, items, "random", learned=model, batch=4)
    assert [len(outcome.route) for outcome in found] == [len(outcome.route) for outcome in model]
    again = run_mode(assistant, items, "random", learned=model, batch=2)
    assert [outcome.route for outcome in again] == [outcome.route for outcome in found]


def test_random_routes_hold_one_expert_where_nothing_is_learned(assistant: Mova, items: list[Item]) -> None:
    assert {len(outcome.route) for outcome in run_mode(assistant, items[:2], "random")} == {1}


def test_batches_change_nothing_and_progress_is_told(assistant: Mova, items: list[Item]) -> None:
    told: list[int] = []
    found = run_mode(assistant, items, "all", batch=4, tell=told.append)
    assert told == [4, 6]
    assert found == run_mode(assistant, items, "all", batch=1)
    assert [outcome.item for outcome in found] == items


def test_an_unknown_mode_is_named(assistant: Mova) -> None:
    with pytest.raises(ConfigError, match="got best; expected one of learned, none, all, random"):
        router_for("best", assistant)


def test_shares_count_answers_and_routes(items: list[Item]) -> None:
    outcomes = learned(items)
    assert accuracy(outcomes).value == 1
    assert routing(outcomes).hits == sum(outcome.route == outcome.item.experts for outcome in outcomes)
