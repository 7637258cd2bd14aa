"""One model under several ways of routing, on the same questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from mova_core.errors import ConfigError
from mova_core.evaluation.metrics import Share, exact_match, route_accuracy
from mova_core.model.assistant import Mova
from mova_core.model.processing import Turn
from mova_core.routing.base import Router
from mova_core.routing.baselines import AllRouter, NoneRouter, RandomRouter
from mova_core.routing.route import Route

MODES = ("learned", "none", "all", "random")


@dataclass(frozen=True, slots=True)
class Item:
    """One question of an evaluation.

    Args:
        image: the picture.
        question: the question.
        answer: the reference answer.
        experts: ids of the experts that help.
        task: what it is reported under.
        plain: whether the wording gives the kind of picture away.
    """

    image: Image.Image
    question: str
    answer: str
    experts: tuple[str, ...]
    task: str
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one mode of routing gave for one item."""

    item: Item
    answer: str
    route: tuple[str, ...]


def router_for(mode: str, mova: Mova, learned: Sequence[Outcome] | None = None, *, seed: int = 0) -> Router:
    """The router of a mode.

    Args:
        mode: "learned", "none", "all" or "random".
        mova: the model; "learned" is its own router.
        learned: outcomes of the learned router on the same items, for "random": as many experts for each
            item; one for each without.
        seed: of the random choice.

    Raises:
        ConfigError: for another mode.
    """
    like = [Route(outcome.route) for outcome in learned or ()]
    routers: Mapping[str, Callable[[], Router]] = {
        "learned": lambda: mova.router,
        "none": NoneRouter,
        "all": AllRouter,
        "random": lambda: RandomRouter(like=like, seed=seed) if like else RandomRouter(count=1, seed=seed),
    }
    (known,) = check_modes([mode])
    return routers[known]()


def check_modes(modes: Sequence[str]) -> Sequence[str]:
    """The modes, unchanged.

    Raises:
        ConfigError: if one of them is unknown.
    """
    for mode in modes:
        if mode not in MODES:
            raise ConfigError("unknown way of routing", value=mode, expected="one of " + ", ".join(MODES))
    return modes


def run_mode(
    mova: Mova,
    items: Sequence[Item],
    mode: str,
    *,
    learned: Sequence[Outcome] | None = None,
    batch: int = 8,
    done: Sequence[Outcome] = (),
    keep: Callable[[int, Outcome], None] = lambda place, outcome: None,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Outcome]:
    """Answers all items under one mode of routing.

    Args:
        mova: the model.
        items: questions.
        mode, learned: see `router_for`.
        batch: questions at once.
        done: outcomes of the first items, from a run that was stopped.
        keep: given each new outcome with the place of its item, as soon as there is one.
        tell: hears how many are done.
    """
    router = router_for(mode, mova, learned)
    outcomes = list(done)
    if mode == "random":  # draws go on where they were
        first = items[: len(outcomes)]
        router.route([item.image for item in first], [item.question for item in first], mova.pool)
    for start in range(len(outcomes), len(items), batch):
        part = items[start : start + batch]
        turns = [[Turn(item.question, (item.image,))] for item in part]
        answers = mova.answer(turns, router=router, max_new_tokens=8)
        for item, answer in zip(part, answers, strict=True):
            outcomes.append(Outcome(item, answer.text, answer.route.experts))
            keep(len(outcomes) - 1, outcomes[-1])
        tell(len(outcomes))
    return outcomes


def accuracy(outcomes: Sequence[Outcome]) -> Share:
    """Share of right answers."""
    return exact_match([o.answer for o in outcomes], [o.item.answer for o in outcomes])


def routing(outcomes: Sequence[Outcome]) -> Share:
    """Share of routes that choose exactly the experts that help."""
    return route_accuracy([o.route for o in outcomes], [o.item.experts for o in outcomes])
