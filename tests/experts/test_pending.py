"""Experts that start before all routes are known, and give what they give when all are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mova_core.errors import ExpertLoadError, ExpertRunError, InputError, PoolError, UnknownExpertError
from mova_core.experts.batch import ImageBatch
from mova_core.experts.cache import FeatureCache
from mova_core.experts.pool import ExpertPool
from mova_core.routing.route import Route

IDS = ("charts", "objects", "text")
PATIENCE = 60.0
"""Seconds after which a test gives up waiting for what should have happened at once."""


@pytest.fixture
def workshop(make_workshop: Any) -> Any:
    return make_workshop()


@pytest.fixture
def make_pool(make_card: Any, workshop: Any) -> Callable[..., ExpertPool]:
    def make(**options: Any) -> ExpertPool:
        cards = [make_card(id) for id in IDS] + [make_card("base", role="base")]
        return ExpertPool(cards, **{"loader": workshop} | options)

    return make


def _ours() -> list[str]:
    """Threads of pending encodings that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mova-experts")]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), cached=st.booleans())
def test_steps_give_what_whole_routes_give(
    make_card: Any, make_workshop: Any, pictures: list[Any], data: st.DataObject, cached: bool
) -> None:
    some = st.tuples(st.permutations(IDS), st.integers(0, 3)).map(lambda drawn: drawn[0][: drawn[1]])
    chosen = data.draw(st.lists(some, min_size=1, max_size=len(pictures)))
    images = pictures[: len(chosen)]
    told = data.draw(st.integers(0, 3))  # a router may tell of a part only
    routes = [Route(tuple(ids)) for ids in chosen]
    cache = FeatureCache(10**6) if cached else None
    pools = [
        ExpertPool([make_card(id) for id in IDS], loader=make_workshop(), cache=c) for c in (None, cache)
    ]
    expected = pools[0].encode(images, routes)
    with pools[1].begin(images) as pending:
        for step in range(told):
            pending.start({row: ids[step] for row, ids in enumerate(chosen) if step < len(ids)})
        found = pending.finish(routes)
    assert list(found) == list(expected)
    for id, routed in expected.items():
        assert found[id].rows == routed.rows
        torch.testing.assert_close(
            found[id].features.tokens, routed.features.tokens, atol=1e-5, rtol=0, check_stride=False
        )
    assert _ours() == []


def test_one_picture_gives_the_same_bits(make_pool: Any, pictures: list[Any]) -> None:
    route = Route(("text", "charts", "objects"))
    expected = make_pool().encode(pictures[:1], [route])
    with make_pool().begin(pictures[:1]) as pending:
        for id in route.experts:
            pending.start({0: id})
        found = pending.finish([route])
    for id in IDS:
        assert torch.equal(found[id].features.tokens, expected[id].features.tokens)


def test_an_expert_is_done_before_the_routes_are_known(
    make_pool: Any, workshop: Any, pictures: list[Any]
) -> None:
    done = Event()
    pool = make_pool()
    pool.expert("text").register_forward_hook(lambda *_: done.set())
    with pool.begin(pictures[:2]) as pending:
        pending.start({0: "text", 1: "text"})
        assert done.wait(PATIENCE), "nobody but the thread can have run it: finish was not called"
        encoded = pending.finish([Route(("text",)), Route(("text", "charts"))])
    assert workshop.experts["text"].batches == [2] and workshop.experts["charts"].batches == [1]
    assert [(run.id, run.pictures, run.device) for run in encoded.runs] == [
        ("text", 2, "cpu"),
        ("charts", 1, "cpu"),
    ]
    assert all(run.start <= run.end for run in encoded.runs)
    assert encoded.runs[0].end <= encoded.runs[1].start


def test_pictures_of_one_step_are_one_batch_and_equal_ones_run_once(
    make_pool: Any, workshop: Any, pictures: list[Any]
) -> None:
    same = [pictures[0], pictures[1], pictures[0].copy(), pictures[1]]
    with make_pool().begin(same) as pending:
        pending.start({0: "text", 1: "charts", 2: "text"})
        pending.start({1: "text", 3: "text"})
        encoded = pending.finish([Route(("text",)), Route(("charts", "text")), *[Route(("text",))] * 2])
    assert workshop.experts["text"].batches == [1, 1] and workshop.experts["charts"].batches == [1]
    tokens = encoded["text"].features.tokens
    assert torch.equal(tokens[0], tokens[2]) and torch.equal(tokens[1], tokens[3])


def test_cached_features_are_told_apart_in_the_report(make_pool: Any, pictures: list[Any]) -> None:
    pool = make_pool(cache=FeatureCache(10**6))
    pool.encode(pictures[:1], [Route(("text",))])
    encoded = pool.encode(pictures[:2], [Route(("text",))] * 2)
    assert [(run.id, run.pictures) for run in encoded.runs] == [("text", 1)]


def test_a_batch_of_pictures_serves_several_calls(make_pool: Any, workshop: Any, pictures: list[Any]) -> None:
    pool, batch = make_pool(), ImageBatch(pictures[:2])
    pool.encode_all(batch, "base")
    pool.encode(batch, [Route(("text",))] * 2)
    assert workshop.experts["base"].prepared == [2] and workshop.experts["text"].prepared == []
    with pytest.raises(PoolError, match="got 1 routes; expected 2"):
        pool.encode(batch, [Route(("text",))])


def test_features_need_no_gradients_in_the_thread_either(make_pool: Any, pictures: list[Any]) -> None:
    pool, states = make_pool(), []
    pool.expert("text").register_forward_hook(lambda *_: states.append(torch.is_grad_enabled()))
    with torch.enable_grad(), pool.begin(pictures[:1]) as pending:
        pending.start({0: "text"})
        pending.finish([Route(("text",))])
    assert states == [False]


class TestFailures:
    def _broken(self, make_workshop: Any, built: list[str]) -> Any:
        whole = make_workshop()

        def build(id: str) -> Any:
            built.append(id)
            if id == "objects":
                raise KeyError("key")
            return whole.build(id)

        return make_workshop(build)

    def test_an_error_in_the_thread_is_raised_by_finish(
        self, make_pool: Any, make_workshop: Any, pictures: list[Any]
    ) -> None:
        pool = make_pool(loader=self._broken(make_workshop, []))
        with pool.begin(pictures[:1]) as pending:
            pending.start({0: "objects"})
            pending.start({0: "text"})
            with pytest.raises(ExpertLoadError, match="'objects' could not be loaded; got KeyError"):
                pending.finish([Route(("objects", "text"))])
        assert _ours() == []

    def test_a_failing_expert_can_be_skipped_and_is_tried_once(
        self, make_pool: Any, make_workshop: Any, pictures: list[Any]
    ) -> None:
        built: list[str] = []
        pool = make_pool(loader=self._broken(make_workshop, built), on_expert_error="skip")
        with pool.begin(pictures[:3]) as pending:
            pending.start({0: "objects", 1: "text"})
            pending.start({1: "objects"})
            encoded = pending.finish([Route(("objects",)), Route(("objects", "text")), Route(("objects",))])
        assert list(encoded) == ["text"] and "KeyError" in encoded.skipped["objects"]
        assert built.count("objects") == 1
        assert [run.id for run in encoded.runs] == ["text"]

    def test_a_run_that_fails_names_the_expert(self, make_pool: Any, pictures: list[Any]) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("out of luck")

        pool = make_pool()
        pool.expert("text").register_forward_hook(fail)
        with pool.begin(pictures[:2]) as pending:
            pending.start({0: "text", 1: "text"})
            with pytest.raises(ExpertRunError, match="'text' failed on 2 pictures; got RuntimeError"):
                pending.finish([Route(("text",))] * 2)

    def test_a_broken_picture_is_an_input_error(self, make_pool: Any, pictures: list[Any]) -> None:
        with make_pool(on_expert_error="skip").begin([Image.new("RGB", (0, 3))]) as pending:
            pending.start({0: "text"})
            with pytest.raises(InputError, match="no pixels"):
                pending.finish([Route(("text",))])

    def test_what_cannot_be_routed_to_is_refused_at_once(self, make_pool: Any, pictures: list[Any]) -> None:
        with make_pool().begin(pictures[:1]) as pending:
            with pytest.raises(UnknownExpertError, match="Did you mean 'charts'"):
                pending.start({0: "chart"})
            with pytest.raises(PoolError, match="names a base encoder"):
                pending.start({0: "base"})
        assert _ours() == []

    def test_who_is_started_must_be_chosen(self, make_pool: Any, pictures: list[Any]) -> None:
        with make_pool().begin(pictures[:2]) as pending:
            pending.start({0: "text", 1: "text"})
            with pytest.raises(PoolError, match="got text for picture 2"):
                pending.finish([Route(("text",)), Route(("charts",))])

    def test_an_error_of_the_router_cancels_what_has_not_begun(
        self, make_pool: Any, workshop: Any, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool, begun, leave, cancel = make_pool(), Event(), Event(), Future.cancel

        def cancelled(future: Future[None]) -> bool:
            done = cancel(future)
            leave.set()
            return done

        def hold(*_: object) -> None:
            begun.set()
            leave.wait(PATIENCE)

        monkeypatch.setattr(Future, "cancel", cancelled)
        pool.expert("text").register_forward_pre_hook(hold)
        with pytest.raises(KeyError, match="router"), pool.begin(pictures[:1]) as pending:
            pending.start({0: "text"})
            pending.start({0: "charts"})
            assert begun.wait(PATIENCE)
            raise KeyError("router")
        assert workshop.built == ["text"], "charts was cancelled"
        assert _ours() == []
