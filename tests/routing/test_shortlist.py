from __future__ import annotations

import pytest

from mova_core.errors import RoutingError
from mova_core.routing import AllRouter, PointwiseRouter, Route, ShortlistRouter


class Recorder:
    """Chooses the first expert it is offered, and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def route(self, images, questions, pool):
        ids = [expert.id for expert in pool]
        self.calls.append((list(questions), ids))
        return [Route(tuple(ids[:1]), dict.fromkeys(ids, 0.5), "first") for _ in questions]


@pytest.fixture
def pool(tiny_pool):
    make = type(tiny_pool(1)[0])
    words = {"d": "ships on water", "c": "water birds", "b": "letters in print", "a": "print of letters"}
    return [make(name, (text,)) for name, text in words.items()]


def test_only_the_most_fitting_are_offered_and_equal_shortlists_go_together(encode_words, tiny_images, pool):
    inner = Recorder()
    routes = ShortlistRouter(inner, encode_words, 2).route(
        tiny_images(3), ["water", "print letters", "water birds"], pool
    )
    assert inner.calls == [(["water", "water birds"], ["d", "c"]), (["print letters"], ["b", "a"])]
    assert [route.experts for route in routes] == [("d",), ("b",), ("d",)]
    assert routes[1].probabilities == {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}
    assert routes[1].router == "shortlist+first"


def test_a_small_pool_is_passed_on_as_it_is(encode_words, tiny_images, pool):
    inner = Recorder()
    (route,) = ShortlistRouter(inner, encode_words, 4).route(tiny_images(1), ["water"], pool)
    assert inner.calls == [(["water"], ["d", "c", "b", "a"])]
    assert route.router == "first"


def test_what_is_left_keeps_its_pointwise_probability(encode_words, tiny_language, tiny_images, pool):
    inner = PointwiseRouter(tiny_language())
    (whole,) = inner.route(tiny_images(1), ["print letters"], pool)
    (short,) = ShortlistRouter(inner, encode_words, 2).route(tiny_images(1), ["print letters"], pool)
    assert short.probabilities["a"] == pytest.approx(whole.probabilities["a"], abs=1e-5)
    assert short.probabilities["c"] == short.probabilities["d"] == 0.0


def test_edges(encode_words, tiny_images, pool):
    router = ShortlistRouter(AllRouter(), encode_words, 2)
    assert router.route([], [], pool) == []
    assert router.route(tiny_images(1), ["a"], [])[0].experts == ()
    with pytest.raises(RoutingError, match="pair up"):
        router.route(tiny_images(2), ["a"], pool)
    with pytest.raises(RoutingError):
        ShortlistRouter(AllRouter(), encode_words, 0)
