"""A batch gives every question the answer it gets alone, and keeps one question's trouble from the others."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mova_core.errors import ConfigError, MovaError
from mova_core.model.answer import Answer
from mova_core.model.assistant import Mova
from mova_core.model.batch import Request, Result, answer_all
from mova_core.model.load import load
from mova_core.routing.baselines import RandomRouter

QUESTIONS = ("What colour is it?", "Where?", "Is there anything to the left of the red one, or is it alone?")


@pytest.fixture
def requests(picture: Any, tmp_path: Path) -> list[Request]:
    """Questions about pictures in files and in memory, several or none; some with routes of their own."""
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        picture(number).save(paths[-1])
    made = [Request(QUESTIONS[n % 3], (paths[n % 4],)) for n in range(9)]
    made += [
        Request(QUESTIONS[0], (paths[0], str(paths[1]))),
        Request(QUESTIONS[1]),
        Request(QUESTIONS[0], (picture(7),), ("tiny-red", "tiny-blue")),
        Request(QUESTIONS[2], (paths[2],), ()),
    ]
    return made


def alone(mova: Mova, request: Request) -> Answer:
    return mova.ask(request.images, request.question, experts=request.experts, max_new_tokens=5)


def assert_alike(one: Answer, other: Answer | None) -> None:
    assert other is not None
    assert one.text == other.text and len(one.images) == len(other.images)
    for left, right in zip(one.images, other.images, strict=True):
        assert left.route.experts == right.route.experts and left.route.router == right.route.router
        assert left.route.probabilities == pytest.approx(right.route.probabilities, abs=1e-5)
        assert list(left.gates) == list(right.gates)
        for id, gates in left.gates.items():
            assert gates == pytest.approx(right.gates[id], abs=1e-4)


@pytest.mark.parametrize(("batch_size", "window"), [(1, 1), (3, 5), (16, 256)])
def test_answers_equal_those_one_by_one(
    assistant: Mova, requests: list[Request], batch_size: int, window: int
) -> None:
    random.Random(batch_size).shuffle(requests)
    expected = [alone(assistant, request) for request in requests]
    assert len({answer.text for answer in expected}) > 2
    results = list(answer_all(assistant, requests, max_new_tokens=5, batch_size=batch_size, window=window))
    assert sorted(result.place for result in results) == list(range(len(requests)))
    for result in results:
        assert result.error is None
        assert_alike(expected[result.place], result.answer)


def test_a_random_router_draws_in_the_order_of_the_questions(
    assistant: Mova, requests: list[Request]
) -> None:
    asked = [request for request in requests if request.experts is None]
    router = RandomRouter(count=2, seed=3)
    expected = [assistant.ask(r.images, r.question, router=router, max_new_tokens=1).images for r in asked]
    again = RandomRouter(count=2, seed=3)
    for result in answer_all(assistant, requests, router=again, max_new_tokens=1, batch_size=4):
        if requests[result.place].experts is None and result.answer is not None:
            own = expected[asked.index(requests[result.place])]
            assert [t.route for t in result.answer.images] == [t.route for t in own]


def failures(results: list[Result]) -> dict[int, str]:
    return {result.place: str(result.error) for result in results if result.error is not None}


def test_what_is_wrong_with_one_question_costs_the_others_nothing(
    assistant: Mova, picture: Any, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    good = [Request(QUESTIONS[n % 3], (picture(n),)) for n in range(3)]
    bad = [
        Request(QUESTIONS[0], (tmp_path / "nowhere.png",)),
        Request(QUESTIONS[0], (tmp_path / "text.png",)),
        Request("  ", (picture(1),)),
        Request("Is <image> red?", (picture(1),)),
        Request(QUESTIONS[0], (picture(1),), ("tiny-rad",)),
        Request(QUESTIONS[0], (picture(1),), ("tiny-red", "tiny-red")),
        Request("Q! " * 600, (picture(1),)),
    ]
    results = list(answer_all(assistant, [*bad, *good], max_new_tokens=2))
    found = failures(results)
    said = ("does not exist", "cannot be read", "is empty", "holds a mark", "tiny-red?", "twice", "too long")
    assert sorted(found) == list(range(len(bad)))
    for place, words in enumerate(said):
        assert words in found[place]
    answered = {result.place: result.answer for result in results if result.error is None}
    for place, request in enumerate(good, start=len(bad)):
        assert_alike(assistant.ask(request.images, request.question, max_new_tokens=2), answered[place])


def test_an_expert_that_fails_on_one_picture_fails_that_question_only(
    tiny: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mova_tiny.experts import Red

    whole = Red.forward

    def forward(self: Red, stream: torch.Tensor) -> Any:
        cells = stream.flatten(2)
        if (cells.amax(dim=2) == cells.amin(dim=2)).all(dim=1).any():
            raise RuntimeError("nothing to see")
        return whole(self, stream)

    monkeypatch.setattr(Red, "forward", forward)
    plain = Image.new("RGB", (16, 16), "red")
    images = [picture(1), picture(2), plain, picture(3), picture(4)]
    requests = [Request(QUESTIONS[0], (image,), ("tiny-red",)) for image in images]
    results = list(answer_all(load(tiny, dtype=torch.float32), requests, max_new_tokens=2))
    assert len(results) == len(requests)
    assert list(failures(results)) == [2] and "nothing to see" in failures(results)[2]
    skipping = load(tiny, dtype=torch.float32, on_expert_error="skip")
    for result in answer_all(skipping, [requests[2]], max_new_tokens=2):
        assert result.answer is not None and list(result.answer.skipped) == ["tiny-red"]


def test_other_failures_are_not_hidden(
    assistant: Mova, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(assistant, "answer", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        list(answer_all(assistant, [Request(QUESTIONS[0], (picture(1),))]))


def test_questions_are_read_window_by_window(assistant: Mova, picture: Any) -> None:
    read = []

    def endless() -> Iterator[Request]:
        for number in range(1_000_000):
            read.append(number)
            yield Request(QUESTIONS[0], (picture(number % 3),))

    results = answer_all(assistant, endless(), max_new_tokens=1, window=4)
    assert {next(results).place for _ in range(6)} < set(range(8)) and len(read) == 8


def test_it_tells_of_routes_as_they_come(assistant: Mova, picture: Any) -> None:
    told: list[int] = []
    requests = [Request(QUESTIONS[0], (picture(n),)) for n in range(5)]
    results = answer_all(assistant, requests, max_new_tokens=1, batch_size=2, routed=told.append)
    next(results)
    assert told == [2, 2, 1]


def test_each_picture_is_encoded_once(assistant: Mova, picture: Any, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "a.png")
    requests = [Request(q, (tmp_path / "a.png",), ("tiny-red",)) for q in QUESTIONS * 2]
    assert len(list(answer_all(assistant, requests, max_new_tokens=1, batch_size=2))) == 6
    assert [assistant.pool.expert(id).seen for id in ("tiny-base", "tiny-red")] == [1, 1]


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"window": 0}])
def test_a_batch_of_nothing_is_refused(assistant: Mova, sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be positive; got 0"):
        next(answer_all(assistant, [], **sizes))


def test_errors_are_those_that_asking_raises(assistant: Mova, picture: Any) -> None:
    request = Request(QUESTIONS[0], (picture(1),), ("tiny-rad",))
    (result,) = answer_all(assistant, [request])
    with pytest.raises(MovaError) as caught:
        assistant.ask(request.images, request.question, experts=request.experts)
    assert type(result.error) is type(caught.value) and str(result.error) == str(caught.value)
