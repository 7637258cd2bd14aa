"""Telling who is chosen before the route is complete."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.routing import (
    EagerRouter,
    ListwiseRouter,
    NoneRouter,
    PointwiseRouter,
    ShortlistRouter,
    route_in_steps,
)

QUESTIONS = ["what does the small print say?", "how many?", ""]


@given(seed=st.integers(0, 20), n=st.sampled_from([2, 5, 28]), k=st.integers(1, 4))
@settings(deadline=None, max_examples=12)
def test_steps_tell_the_routes_and_nothing_else(tiny_language, tiny_images, tiny_pool, seed, n, k):
    router, args = ListwiseRouter(tiny_language(seed=seed), k=k), (tiny_images(3, seed), QUESTIONS)
    steps: list[dict[int, str]] = []
    routes = router.route_in_steps(*args, tiny_pool(n), lambda decided: steps.append(dict(decided)))
    assert routes == router.route(*args, tiny_pool(n))
    told = [[step[row] for step in steps if row in step] for row in range(3)]
    assert [set(ids) for ids in told] == [set(route.experts) for route in routes]
    assert [len(ids) for ids in told] == [len(route.experts) for route in routes]
    assert all(row in steps[place - 1] for place in range(1, len(steps)) for row in steps[place])
    assert 1 <= len(steps) <= k


def test_a_step_is_told_before_the_next_forward_pass(tiny_language, tiny_images, tiny_pool):
    events: list[str] = []
    language = tiny_language()
    handle = language.model.get_decoder().register_forward_pre_hook(lambda *_: events.append("pass"))
    try:
        router = ListwiseRouter(language, k=3)
        router.route_in_steps(tiny_images(3), QUESTIONS, tiny_pool(5), lambda _: events.append("told"))
    finally:
        handle.remove()
    assert events == ["pass", "told"] * (len(events) // 2) and len(events) >= 4


def test_a_shortlist_tells_by_the_places_of_the_whole_batch(
    tiny_language, tiny_images, tiny_pool, encode_words
):
    questions = ["number 0 and number 1", "number 2 and number 3", "number 1 and number 0"]
    router = ShortlistRouter(ListwiseRouter(tiny_language(seed=5)), encode_words, 2)
    told: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}

    def tell(decided):
        for row, id in decided.items():
            told[row].add(id)

    routes = router.route_in_steps(tiny_images(3), questions, tiny_pool(4), tell)
    assert routes == router.route(tiny_images(3), questions, tiny_pool(4))
    assert [told[row] for row in range(3)] == [set(route.experts) for route in routes]
    assert any(route.experts for route in routes)


def test_who_decides_at_once_tells_nothing(tiny_language, tiny_images, tiny_pool):
    for router in (PointwiseRouter(tiny_language()), NoneRouter()):
        told: list[object] = []
        routes = route_in_steps(router, tiny_images(2), QUESTIONS[:2], tiny_pool(3), told.append)
        assert routes == router.route(tiny_images(2), QUESTIONS[:2], tiny_pool(3))
        assert told == [] and not isinstance(router, EagerRouter)


def test_an_error_of_the_listener_stops_the_router(tiny_language, tiny_images, tiny_pool):
    def fail(_):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        ListwiseRouter(tiny_language()).route_in_steps(tiny_images(1), ["why?"], tiny_pool(3), fail)
