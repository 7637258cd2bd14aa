from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import RoutingError, UnknownExpertError
from mova_core.routing import AllRouter, FixedRouter, NoneRouter, RandomRouter, Route


def test_all_chooses_all_and_none_chooses_none(tiny_images, tiny_pool):
    everyone = AllRouter().route(tiny_images(2), ["a", "b"], tiny_pool(5)[::-1])
    ids = tuple(expert.id for expert in tiny_pool(5))
    assert [route.experts for route in everyone] == [ids, ids]
    assert set(everyone[0].probabilities.values()) == {1.0}
    nobody = NoneRouter().route(tiny_images(2), ["a", "b"], tiny_pool(5))
    assert [route.experts for route in nobody] == [(), ()]
    assert nobody[0].probabilities == dict.fromkeys(ids, 0.0)


def test_fixed_chooses_its_experts_in_its_order(tiny_images, tiny_pool):
    (route,) = FixedRouter(["expert-02", "expert-00"]).route(tiny_images(1), ["a"], tiny_pool(3))
    assert route.experts == ("expert-02", "expert-00")
    assert route.probabilities == {"expert-00": 1.0, "expert-01": 0.0, "expert-02": 1.0}


def test_fixed_names_the_nearest_expert(tiny_images, tiny_pool):
    with pytest.raises(UnknownExpertError, match="expert-O2.*Did you mean expert-02"):
        FixedRouter(["expert-O2"]).route(tiny_images(1), ["a"], tiny_pool(3))
    with pytest.raises(UnknownExpertError, match="no experts at all"):
        FixedRouter(["expert-02"]).route(tiny_images(1), ["a"], [])
    with pytest.raises(RoutingError, match="twice"):
        FixedRouter(["x", "x"])


@given(count=st.integers(0, 7), n=st.integers(0, 5), seed=st.integers(0, 99))
def test_random_chooses_as_many_as_asked_for(tiny_images, tiny_pool, count, n, seed):
    routes = RandomRouter(count, seed=seed).route(tiny_images(4), ["a"] * 4, tiny_pool(n))
    for route in routes:
        assert len(set(route.experts)) == len(route.experts) == min(count, n)
        assert sum(route.probabilities.values()) == pytest.approx(min(count, n))


def test_random_draws_do_not_depend_on_batching_or_the_order_of_the_pool(tiny_images, tiny_pool):
    whole = RandomRouter(2, seed=7).route(tiny_images(6), ["a"] * 6, tiny_pool(5))
    router = RandomRouter(2, seed=7)
    parts = [
        route
        for size in (1, 3, 2)
        for route in router.route(tiny_images(size), ["a"] * size, tiny_pool(5)[::-1])
    ]
    assert whole == parts
    assert whole != RandomRouter(2, seed=8).route(tiny_images(6), ["a"] * 6, tiny_pool(5))


def test_random_draws_every_expert_equally_often(tiny_images, tiny_pool):
    routes = RandomRouter(1, seed=0).route(tiny_images(1) * 4000, ["a"] * 4000, tiny_pool(4))
    counts = Counter(name for route in routes for name in route.experts)
    assert all(abs(count - 1000) < 120 for count in counts.values()) and len(counts) == 4


def test_random_copies_the_numbers_of_other_routes(tiny_images, tiny_pool):
    like = [Route(("x", "y")), Route(()), Route(("x",))]
    router = RandomRouter(like=like)
    first = router.route(tiny_images(2), ["a", "b"], tiny_pool(4))
    (third,) = router.route(tiny_images(1), ["c"], tiny_pool(4))
    assert [len(route.experts) for route in [*first, third]] == [2, 0, 1]
    with pytest.raises(RoutingError, match="at most 3 samples"):
        router.route(tiny_images(1), ["d"], tiny_pool(4))


@pytest.mark.parametrize("wrong", [{}, {"count": -1}, {"count": 1, "like": []}])
def test_random_needs_one_number(wrong):
    with pytest.raises(RoutingError, match="one number"):
        RandomRouter(**wrong)


@pytest.mark.parametrize("router", [AllRouter(), NoneRouter(), FixedRouter([]), RandomRouter(1)])
def test_an_empty_pool_gives_empty_routes_and_pairs_must_match(router, tiny_images):
    (route,) = router.route(tiny_images(1), ["a"], [])
    assert route.experts == () and not route.probabilities
    with pytest.raises(RoutingError, match="pair up"):
        router.route(tiny_images(2), ["a"], [])
