"""Experts that start while the router still decides, nothing done twice, and the timeline of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest
import torch

from mova_core.errors import ExpertRunError, PoolError
from mova_core.experts import batch
from mova_core.experts.pool import ExpertPool
from mova_core.model.answer import Answer
from mova_core.model.assistant import Mova
from mova_core.model.processing import Turn
from mova_core.model.routers import listwise_router
from mova_core.routing import ListwiseRouter, NoneRouter, SimilarityRouter
from mova_core.routing.route import Route

ALL = ("tiny-blue", "tiny-green", "tiny-red")
QUESTION = "What colour is it?"
PATIENCE = 60.0
"""Seconds after which a test gives up waiting for what should have happened at once."""


class InSteps:
    """Decides one expert of each route a step, and waits between the steps for whatever it is told."""

    name = "in-steps"

    def __init__(self, *routes: tuple[str, ...], between: Callable[[int], None] = lambda step: None) -> None:
        self.routes, self.between = routes, between

    def route(self, images: Sequence[Any], questions: Sequence[str], pool: Iterable[Any]) -> list[Route]:
        return self.route_in_steps(images, questions, pool, lambda decided: None)

    def route_in_steps(
        self,
        images: Sequence[Any],
        questions: Sequence[str],
        pool: Iterable[Any],
        decided: Callable[[Mapping[int, str]], None],
    ) -> list[Route]:
        for step in range(max(map(len, self.routes))):
            decided({row: ids[step] for row, ids in enumerate(self.routes) if step < len(ids)})
            self.between(step)
        return [Route(ids, router=self.name) for ids in self.routes]


@contextmanager
def _counted(module: torch.nn.Module) -> Iterator[list[int]]:
    """Sizes of the batches that a module meets."""
    sizes: list[int] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes.append(len(next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


def _close(left: Answer, right: Answer) -> None:
    assert left.text == right.text
    for one, other in zip(left.images, right.images, strict=True):
        assert one.route == other.route
        assert one.gates.keys() == other.gates.keys()
        for id, weights in one.gates.items():
            assert weights == pytest.approx(other.gates[id], abs=1e-5)


class TestEarly:
    def test_an_expert_runs_before_the_last_routing_step(self, assistant: Mova, picture: Any) -> None:
        ran = Event()
        assistant.pool.expert("tiny-red").register_forward_hook(lambda *_: ran.set())

        def between(step: int) -> None:
            if step == 0:
                assert ran.wait(PATIENCE), "the route is not complete, so only an early start can run it"

        assistant.early_experts = True
        router = InSteps(("tiny-red", "tiny-blue"), between=between)
        answer = assistant.ask(picture(1), QUESTION, router=router, max_new_tokens=3)
        events = {event.what: event for event in answer.timeline}
        assert events["expert tiny-red"].start <= events["expert tiny-red"].end
        assert events["route step 1"].end <= events["expert tiny-red"].start
        assert events["expert tiny-red"].start < events["route step 2"].end <= events["route"].end
        assert answer.route.experts == ("tiny-red", "tiny-blue")

    def test_the_listwise_router_lets_them_start_between_forward_passes(
        self, assistant: Mova, picture: Any
    ) -> None:
        router, started = _wordy(assistant), Event()
        for id in ALL:
            assistant.pool.expert(id).register_forward_pre_hook(lambda *_: started.set())
        plain = assistant.route(picture(1), QUESTION, router=router)
        assert len(plain.experts) > 1
        passes: list[bool] = []

        def before(*_: Any) -> None:
            passes.append(len(passes) == 1 and started.wait(PATIENCE))

        assistant.early_experts = True
        handle = assistant.model.language_model.get_decoder().register_forward_pre_hook(before)
        try:
            answer = assistant.ask(picture(1), QUESTION, router=router, max_new_tokens=1)
        finally:
            handle.remove()
        assert passes[:2] == [False, True], "the second pass found an expert at work"
        assert answer.route == plain

    @pytest.mark.parametrize("early", [True, False])
    def test_it_changes_no_answer(self, assistant: Mova, picture: Any, early: bool) -> None:
        routes = [("tiny-red",), ("tiny-blue", "tiny-red"), (), ("tiny-green", "tiny-blue", "tiny-red")]
        turns = [[Turn(QUESTION, (picture(number),))] for number in range(4)]
        assistant.early_experts = early
        together = assistant.answer(turns, router=InSteps(*routes), explain=True, max_new_tokens=5)
        assistant.pool.cache = None
        for number, answer in enumerate(together):
            route = assistant.ask(picture(number), QUESTION, experts=routes[number], max_new_tokens=5)
            assert answer.route.experts == route.route.experts == routes[number]
            assert answer.text == route.text

    def test_listwise_answers_are_the_same_either_way(self, assistant: Mova, picture: Any) -> None:
        turns = [[Turn(f"What is number {number}?", (picture(number),))] for number in range(4)]
        answers = []
        for early in (False, True):
            assistant.early_experts = early
            assistant.pool.cache = None
            router = _wordy(assistant)
            answers.append(assistant.answer(turns, router=router, max_new_tokens=4))
        for plain, early_one in zip(*answers, strict=True):
            _close(plain, early_one)
        assert {len(answer.route.experts) for answer in answers[0]} >= {2, 3}

    def test_by_default_it_is_for_a_pool_on_another_device(self, assistant: Mova, picture: Any) -> None:
        def ran_early() -> bool:
            ran, seen = Event(), []
            hook = assistant.pool.expert("tiny-red").register_forward_hook(lambda *_: ran.set())
            router = InSteps(("tiny-red",), between=lambda _: seen.append(ran.wait(wanted)))
            try:
                assistant.ask(picture(1), QUESTION, router=router, max_new_tokens=1)
            finally:
                hook.remove()
            return bool(seen[0])

        assistant.pool.cache = None
        wanted = 0.0
        assert not ran_early()
        wanted = PATIENCE
        assistant.pool = _Elsewhere(assistant.pool)
        assert ran_early()

    def test_an_experts_error_is_that_of_a_whole_route(self, assistant: Mova, picture: Any) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("out of paint")

        assistant.pool.expert("tiny-red").register_forward_hook(fail)
        assistant.early_experts = True
        router = InSteps(("tiny-red", "tiny-blue"))
        with pytest.raises(ExpertRunError, match="'tiny-red' failed on 1 picture; got RuntimeError"):
            assistant.ask(picture(1), QUESTION, router=router)
        assistant.pool.on_expert_error = "skip"
        answer = assistant.ask(picture(1), QUESTION, router=router, max_new_tokens=2)
        assert set(answer.skipped) == {"tiny-red"} and set(answer.images[0].gates) == {"tiny-blue"}

    def test_a_router_that_takes_back_what_it_told_is_refused(self, assistant: Mova, picture: Any) -> None:
        class Fickle(InSteps):
            def route_in_steps(self, *args: Any) -> list[Route]:
                return [Route(("tiny-blue",)) for _ in super().route_in_steps(*args)]

        assistant.early_experts = True
        with pytest.raises(PoolError, match="told of an expert that its route does not hold"):
            assistant.ask(picture(1), QUESTION, router=Fickle(("tiny-red",)))


def _wordy(assistant: Mova) -> ListwiseRouter:
    """The listwise router with a LoRA that likes to name several experts."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in assistant.model.language_model.named_parameters():
        if ".router." in name:
            weight.data.normal_(0, 0.8, generator=generator)
    return listwise_router(assistant.model, assistant.processor)


class _Elsewhere:
    """A pool that says it is on another device."""

    device = torch.device("meta")

    def __init__(self, pool: ExpertPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pool)


class TestNothingTwice:
    @pytest.fixture
    def digests(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names that were made for pictures."""
        made: list[str] = []
        digest = batch.image_digest

        def noted(image: Any) -> str:
            made.append(digest(image))
            return made[-1]

        monkeypatch.setattr(batch, "image_digest", noted)
        return made

    def test_one_question_does_each_thing_once(
        self, assistant: Mova, picture: Any, digests: list[str]
    ) -> None:
        model = assistant.model
        with (
            _counted(model.text_encoder) as texts,
            _counted(model.base) as bases,
            _counted(model.adapter) as fusions,
            _counted(assistant.pool.expert("tiny-red")) as reds,
        ):
            router = listwise_router(model, assistant.processor)
            planned = InSteps(("tiny-red",), ("tiny-red",))
            turns = [[Turn(QUESTION, (picture(1), picture(2)))]]
            assistant.answer(turns, router=planned, max_new_tokens=2)
            assert (texts, bases, fusions, reds) == ([1], [2], [2, 2], [2])
            assert len(digests) == 2
            assistant.ask(picture(3), QUESTION, router=router, max_new_tokens=2)
            assert bases == [2, 1] and texts == [1, 1] and len(digests) == 3

    def test_a_router_that_does_not_look_costs_no_look(self, assistant: Mova, picture: Any) -> None:
        with _counted(assistant.model.adapter) as fusions:
            assistant.ask(picture(1), QUESTION, experts=["tiny-red"], max_new_tokens=1)
            assistant.ask(picture(1), QUESTION, router=NoneRouter(), max_new_tokens=1)
            assert fusions == [1, 1]
            assistant.route(picture(1), QUESTION, router=SimilarityRouter(_lengths, threshold=-1))
            assert fusions == [1, 1]

    def test_what_the_router_saw_is_what_no_expert_gives(self, assistant: Mova, picture: Any) -> None:
        class Nobody(InSteps):
            """Looks, and finds no expert of use."""

        with _counted(assistant.model.adapter) as fusions:
            looked = assistant.ask(picture(1), QUESTION, router=Nobody(()), max_new_tokens=6)
            assert fusions == [1]
        blind = assistant.ask(picture(1), QUESTION, router=NoneRouter(), explain=True, max_new_tokens=6)
        assert looked.text == blind.text and looked.images[0].gates == {} == blind.images[0].gates


def _lengths(texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[1.0, len(text)] for text in texts])


class TestTimeline:
    def test_it_tells_what_was_done_when_and_where(self, assistant: Mova, picture: Any) -> None:
        router = InSteps(("tiny-red", "tiny-blue"))
        answer = assistant.ask(picture(1), QUESTION, router=router, max_new_tokens=2)
        names = [event.what for event in answer.timeline]
        steps = ["look", "route", "route step 1", "route step 2"]
        assert names == [*steps, "expert tiny-blue", "expert tiny-red", "fuse", "answer"]
        assert all(0 <= event.start <= event.end for event in answer.timeline)
        assert [event.start for event in answer.timeline] == sorted(event.start for event in answer.timeline)
        assert {event.device for event in answer.timeline} == {"cpu"}
        assert list(answer.seconds) == ["look", "route", "experts", "fuse", "answer"]
        look = answer.timeline[0]
        assert look.end - look.start == pytest.approx(answer.seconds["look"], abs=1e-9)

    def test_without_a_picture_only_the_language_model_works(self, assistant: Mova) -> None:
        answer = assistant.ask(None, QUESTION, max_new_tokens=1)
        assert [event.what for event in answer.timeline] == ["look", "route", "fuse", "answer"]
