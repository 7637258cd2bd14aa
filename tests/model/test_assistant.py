"""Asking: one question or many, with pictures or without, along routes of one's own or the router's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from mova_core.errors import ExpertRunError, InputError, MovaError, PoolError, UnknownExpertError
from mova_core.model.answer import Answer
from mova_core.model.assistant import Mova
from mova_core.model.load import load
from mova_core.model.processing import Turn
from mova_core.routing.baselines import AllRouter, NoneRouter
from mova_core.routing.route import Route

ALL = ("tiny-blue", "tiny-green", "tiny-red")
QUESTION = "What colour is it?"


class Planned:
    """Gives the routes it was made with, one after the other, and remembers what it was asked."""

    def __init__(self, *routes: tuple[str, ...]) -> None:
        self.routes = list(routes)
        self.asked: list[str] = []

    def route(self, images: Sequence[Any], questions: Sequence[str], pool: Iterable[Any]) -> list[Route]:
        self.asked += questions
        return [Route(self.routes.pop(0), router="planned") for _ in questions]


def said(answer: Answer) -> tuple[Any, ...]:
    """All of an answer but its timings, gate weights rounded to what batching may move."""
    traces = [
        (t.route.experts, {id: [round(w, 4) for w in weights] for id, weights in t.gates.items()})
        for t in answer.images
    ]
    return answer.text, traces, dict(answer.skipped)


def seen(assistant: Mova, *ids: str) -> list[int]:
    """How many pictures each encoder has looked at."""
    return [assistant.pool.expert(id).seen for id in ids]


def test_an_answer_tells_how_it_came_about(assistant: Mova, picture: Any) -> None:
    answer = assistant.ask(picture(1), QUESTION, experts=ALL[:2], max_new_tokens=4)
    assert str(answer) == answer.text
    assert answer.route.experts == ALL[:2] and answer.route.router == "fixed"
    (trace,) = answer.images
    assert {id: len(weights) for id, weights in trace.gates.items()} == dict.fromkeys(ALL[:2], 2)
    for block in zip(*trace.gates.values(), strict=True):
        assert sum(block) == pytest.approx(1)
    assert trace.attention == {}
    assert list(answer.seconds) == ["look", "route", "experts", "fuse", "answer"]
    assert all(seconds >= 0 for seconds in answer.seconds.values())


def test_the_models_own_router_decides_unless_told_otherwise(assistant: Mova, picture: Any) -> None:
    own = assistant.ask(picture(1), QUESTION, max_new_tokens=2)
    assert own.route.router == "pointwise" and set(own.route.probabilities) == set(ALL)
    assert own.route.experts == assistant.route(picture(1), QUESTION).experts
    planned = Planned(("tiny-red",))
    other = assistant.ask(picture(1), QUESTION, router=planned, max_new_tokens=2)
    assert other.route.experts == ("tiny-red",)
    assert planned.asked == [QUESTION]


def test_a_batch_equals_its_questions_one_by_one(assistant: Mova, picture: Any) -> None:
    first = Turn("And now?", (picture(4),), "left")
    conversations = [
        [Turn(QUESTION, (picture(1),))],
        [Turn("Hm?")],
        [Turn("Where are they, from left to right?", (picture(2), picture(3)))],
        [first, Turn("Why?", (picture(5),))],
    ]
    routes = [("tiny-red",), (), ALL, ("tiny-green", "tiny-blue"), ("tiny-red", "tiny-green")]
    together = assistant.answer(conversations, router=Planned(*routes), max_new_tokens=6)
    counts = [1, 0, 2, 2]
    for turns, answer, count in zip(conversations, together, counts, strict=True):
        own, routes = routes[:count], routes[count:]
        (alone,) = assistant.answer([turns], router=Planned(*own), max_new_tokens=6)
        assert said(answer) == said(alone)
        assert [t.route.experts for t in answer.images] == own
    assert len({answer.text for answer in together}) > 1


def test_each_picture_meets_its_own_experts_only(assistant: Mova, picture: Any) -> None:
    router = Planned(("tiny-red",), ("tiny-red", "tiny-blue"), ())
    answer = assistant.ask([picture(1), picture(2), picture(3)], QUESTION, router=router, max_new_tokens=2)
    assert [list(trace.gates) for trace in answer.images] == [["tiny-red"], ["tiny-red", "tiny-blue"], []]
    assert seen(assistant, "tiny-red", "tiny-blue") == [2, 1]
    assert "tiny-green" not in assistant.pool.loaded
    assert answer.route == answer.images[-1].route


def test_a_question_without_a_picture_is_not_routed(assistant: Mova) -> None:
    planned = Planned()
    for nothing in (None, []):
        answer = assistant.ask(nothing, QUESTION, router=planned, max_new_tokens=3)
        assert answer.images == () and answer.route == Route(())
    assert planned.asked == []
    tokens = assistant.processor([[Turn(QUESTION)]])
    with assistant.model.loras.on("answer"):
        own = assistant.model.language_model.generate(
            **tokens, max_new_tokens=3, do_sample=False, eos_token_id=assistant.processor.stop_id
        )
    assert answer.text == assistant.processor.read(own[:, tokens["input_ids"].shape[1] :])[0]


def test_a_picture_may_be_a_path_bytes_or_a_picture(assistant: Mova, picture: Any, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    data = BytesIO()
    picture(1).save(data, "PNG")
    ways = [picture(1), tmp_path / "a.png", str(tmp_path / "a.png"), data.getvalue(), [picture(1)]]
    answers = [assistant.ask(way, QUESTION, experts=ALL, max_new_tokens=4) for way in ways]
    assert len({str(said(answer)) for answer in answers}) == 1


def test_no_experts_is_what_the_router_none_gives(assistant: Mova, picture: Any) -> None:
    own = assistant.ask(picture(1), QUESTION, experts=(), max_new_tokens=6)
    none = assistant.ask(picture(1), QUESTION, router=NoneRouter(), max_new_tokens=6)
    assert said(own) == said(none)
    assert own.route.experts == () and own.images[0].gates == {}
    assert own.text != assistant.ask(picture(1), QUESTION, experts=ALL, max_new_tokens=6).text


def test_the_order_of_a_route_of_ones_own_changes_nothing(assistant: Mova, picture: Any) -> None:
    there = assistant.ask(picture(1), QUESTION, experts=ALL, max_new_tokens=6)
    back = assistant.ask(picture(1), QUESTION, experts=ALL[::-1], max_new_tokens=6)
    assert there.text == back.text and there.images[0].gates == back.images[0].gates


def test_an_unknown_expert_is_named_with_the_nearest(assistant: Mova, picture: Any) -> None:
    with pytest.raises(UnknownExpertError, match="got tiny-rad.*Did you mean tiny-red?"):
        assistant.ask(picture(1), QUESTION, experts=["tiny-rad"])


def test_a_base_encoder_is_no_expert(assistant: Mova, picture: Any) -> None:
    with pytest.raises(MovaError, match="tiny-base"):
        assistant.ask(picture(1), QUESTION, experts=["tiny-base"])


def test_bad_input_is_refused(assistant: Mova, picture: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        assistant.ask(tmp_path / "nowhere.png", QUESTION)
    for call in (assistant.ask, assistant.route):
        with pytest.raises(InputError, match="the question is empty"):
            call(picture(1), "")
    with pytest.raises(InputError, match="the question is empty"):
        assistant.chat().ask(" ", [picture(1)])


def test_a_conversation_longer_than_the_language_model_reads_is_refused(
    assistant: Mova, picture: Any
) -> None:
    with pytest.raises(InputError, match="the conversation is too long.*expected fewer than 1,024"):
        assistant.ask(picture(1), "Q! " * 600, experts=())
    assert seen(assistant, "tiny-base") == [0]


def test_explaining_tells_where_each_expert_was_read(assistant: Mova, picture: Any) -> None:
    plain = assistant.ask(picture(1), QUESTION, experts=ALL, max_new_tokens=4)
    answer = assistant.ask(picture(1), QUESTION, experts=ALL, explain=True, max_new_tokens=4)
    assert said(answer) == said(plain)
    attention = answer.images[0].attention
    assert set(attention) == set(ALL)
    for found in attention.values():
        assert found.shape == (2, 4, 4) and (found >= 0).all()
        torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(2))


class TestConversation:
    def test_later_turns_look_at_every_picture_anew_for_their_question(
        self, assistant: Mova, picture: Any
    ) -> None:
        router = assistant.router = Planned(("tiny-red",), ("tiny-blue",), ("tiny-green",))
        chat = assistant.chat()
        chat.ask("One?", [picture(1)], max_new_tokens=2)
        answer = chat.ask("Two?", [picture(2)], max_new_tokens=2)
        assert router.asked == ["One?", "Two?", "Two?"]
        assert [trace.route.experts for trace in answer.images] == [("tiny-blue",), ("tiny-green",)]

    def test_a_picture_is_encoded_once_and_fused_for_each_question(
        self, assistant: Mova, picture: Any
    ) -> None:
        assistant.router = AllRouter()
        chat = assistant.chat()
        first = chat.ask("One?", [picture(1)], max_new_tokens=2)
        second = chat.ask("And what is in the middle of it?", max_new_tokens=2)
        assert seen(assistant, "tiny-base", *ALL) == [1, 1, 1, 1]
        assert first.images[0].gates != second.images[0].gates

    def test_it_is_the_same_as_handing_in_all_turns(self, assistant: Mova, picture: Any) -> None:
        assistant.router = AllRouter()
        chat = assistant.chat()
        first = chat.ask("One?", [picture(1)], max_new_tokens=3)
        second = chat.ask("Two?", max_new_tokens=3)
        turns = [Turn("One?", (picture(1),), first.text), Turn("Two?")]
        assert said(assistant.answer([turns], max_new_tokens=3)[0]) == said(second)
        assert [turn.answer for turn in chat.turns] == [first.text, second.text]

    def test_one_picture_needs_no_list(self, assistant: Mova, picture: Any, tmp_path: Path) -> None:
        picture(1).save(tmp_path / "a.png")
        for image in (picture(1), str(tmp_path / "a.png")):
            assert len(assistant.chat().ask("One?", image, max_new_tokens=1).images) == 1

    def test_a_turn_that_fails_is_not_remembered(self, assistant: Mova, picture: Any) -> None:
        chat = assistant.chat()
        with pytest.raises(InputError):
            chat.ask("", [picture(1)])
        assert chat.turns == []


class TestRoute:
    def test_it_runs_no_expert(self, assistant: Mova, picture: Any) -> None:
        route = assistant.route(picture(1), QUESTION)
        assert set(route.probabilities) == set(ALL)
        assert assistant.pool.loaded == ()  # the base encoder is the model's own

    def test_other_experts_may_be_on_offer(self, assistant: Mova, picture: Any) -> None:
        cards = [card for card in assistant.pool if card.id != "tiny-red"]
        own = assistant.route(picture(1), QUESTION)
        route = assistant.route(picture(1), QUESTION, pool=cards)
        assert set(route.probabilities) == {"tiny-blue", "tiny-green"}
        for id, probability in route.probabilities.items():  # one expert's chance is no other's business
            assert probability == pytest.approx(own.probabilities[id], abs=1e-5)

    def test_an_empty_pool_is_an_error(self, assistant: Mova, picture: Any) -> None:
        with pytest.raises(PoolError, match="no expert is on offer"):
            assistant.route(picture(1), QUESTION, pool=[])

    def test_another_router_may_decide(self, assistant: Mova, picture: Any) -> None:
        assert assistant.route(picture(1), QUESTION, router=AllRouter()).experts == ALL


class TestFailingExpert:
    @pytest.fixture(autouse=True)
    def broken(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from mova_tiny.experts import Red

        def forward(self: Red, stream: torch.Tensor) -> None:
            raise RuntimeError("out of paint")

        monkeypatch.setattr(Red, "forward", forward)

    def test_it_is_an_error(self, tiny: Path, picture: Any) -> None:
        with pytest.raises(ExpertRunError, match="'tiny-red' failed.*out of paint") as caught:
            load(tiny, dtype=torch.float32).ask(picture(1), QUESTION, experts=ALL)
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_it_can_be_left_out_and_is_named(self, tiny: Path, picture: Any) -> None:
        assistant = load(tiny, dtype=torch.float32, on_expert_error="skip")
        answer = assistant.ask(picture(1), QUESTION, experts=ALL, explain=True, max_new_tokens=4)
        assert answer.route.experts == ALL
        assert set(answer.skipped) == {"tiny-red"} and "out of paint" in answer.skipped["tiny-red"]
        assert set(answer.images[0].gates) == set(answer.images[0].attention) == {"tiny-blue", "tiny-green"}
        others = assistant.ask(picture(1), QUESTION, experts=ALL[:2], max_new_tokens=4)
        assert (answer.text, answer.images[0].gates) == (others.text, others.images[0].gates)

    def test_it_is_named_only_where_it_was_wanted(self, tiny: Path, picture: Any) -> None:
        assistant = load(tiny, dtype=torch.float32, on_expert_error="skip")
        turns = [[Turn(QUESTION, (picture(1),))], [Turn(QUESTION, (picture(2),))]]
        router = Planned(("tiny-red",), ("tiny-blue",))
        red, blue = assistant.answer(turns, router=router, max_new_tokens=1)
        assert set(red.skipped) == {"tiny-red"} and blue.skipped == {}


def test_behaviour_plugins_hear_of_routes_and_of_what_was_fused(tiny: Path, site: Any, picture: Any) -> None:
    code = """
    from mova_core.hookspecs import hookimpl
    heard = []

    @hookimpl
    def mova_on_route(questions, routes):
        heard.append((list(questions), [route.experts for route in routes]))

    @hookimpl
    def mova_after_fuse(routes, output):
        heard.append((tuple(output.tokens.shape), [route.experts for route in routes]))
    """
    site.install("tiny-ears", groups={"mova.hooks": {"tiny-ears": "tiny_ears"}}, files={"tiny_ears.py": code})
    load(tiny).ask(picture(1), QUESTION, experts=["tiny-red"], max_new_tokens=1)
    import tiny_ears

    assert tiny_ears.heard == [([QUESTION], [("tiny-red",)]), ((1, 4, 32), [("tiny-red",)])]
