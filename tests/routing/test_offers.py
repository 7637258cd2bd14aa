from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import RoutingError
from mova_core.routing import plain_offers, random_offers


def test_plain_offers_tell_the_first_wording_in_either_order(tiny_pool):
    pool = tiny_pool(3)[::-1]
    assert [offer.id for offer in plain_offers(pool)] == ["expert-00", "expert-01", "expert-02"]
    assert [offer.id for offer in plain_offers(pool, "pool")] == ["expert-02", "expert-01", "expert-00"]
    assert plain_offers(pool, "pool")[0].description == pool[0].descriptions[0]


@given(order=st.lists(st.sampled_from([f"expert-{place:02d}" for place in range(6)]), unique=True))
def test_an_order_of_ids_comes_first_and_the_rest_follows_by_id(tiny_pool, order):
    pool = tiny_pool(4)
    offered = [offer.id for offer in plain_offers(pool[::-1], order)]
    named = [id for id in order if id in offered]
    assert offered[: len(named)] == named
    assert offered[len(named) :] == sorted({expert.id for expert in pool} - set(named))


def test_descriptions_given_replace_the_first_wording_of_an_expert(tiny_pool):
    offers = plain_offers(tiny_pool(2), descriptions={"expert-01": "DINOv2", "elsewhere": "unused"})
    assert [offer.description for offer in offers] == [tiny_pool(1)[0].descriptions[0], "DINOv2"]


def test_unfit_orders_and_descriptions_are_refused(tiny_pool):
    with pytest.raises(RoutingError, match='got size; expected "id", "pool"'):
        plain_offers(tiny_pool(2), "size")
    with pytest.raises(RoutingError, match="twice; got a, b, a"):
        plain_offers(tiny_pool(2), ["a", "b", "a"])
    with pytest.raises(RoutingError, match="says nothing; got expert-01"):
        plain_offers(tiny_pool(2), descriptions={"expert-01": " "})


@given(n=st.integers(0, 6), seed=st.integers(0, 999), fewest=st.integers(0, 8), data=st.data())
def test_random_offers_are_a_reworded_part_of_the_pool(tiny_pool, n, seed, fewest, data):
    pool = tiny_pool(n)
    ids = [expert.id for expert in pool]
    keep = data.draw(st.sets(st.sampled_from(ids))) if ids else set()
    offers = random_offers(pool, Random(seed), fewest=fewest, keep=keep)
    told = {offer.id: offer.description for offer in offers}
    assert len(told) == len(offers)
    assert keep <= set(told) <= set(ids)
    assert len(offers) >= min(n, fewest)
    assert all(told[expert.id] in expert.descriptions for expert in pool if expert.id in told)
    assert offers == random_offers(pool[::-1], Random(seed), fewest=fewest, keep=keep)


def test_random_offers_do_vary(tiny_pool):
    views = [random_offers(tiny_pool(5), Random(seed)) for seed in range(60)]
    assert {len(view) for view in views} == {1, 2, 3, 4, 5}
    assert {view[0].id for view in views} == {expert.id for expert in tiny_pool(5)}
    assert len({offer.description for view in views for offer in view}) == 10


def test_kept_experts_stand_anywhere(tiny_pool):
    views = [random_offers(tiny_pool(3), Random(seed), fewest=3, keep=["expert-02"]) for seed in range(40)]
    assert {[offer.id for offer in view].index("expert-02") for view in views} == {0, 1, 2}


def test_keeping_an_expert_that_is_not_there_is_refused(tiny_pool):
    with pytest.raises(RoutingError, match="ghost.*expert-00"):
        random_offers(tiny_pool(1), Random(0), keep=["ghost"])
