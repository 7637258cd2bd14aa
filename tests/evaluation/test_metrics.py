"""Figures from answers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.evaluation.metrics import MeanShare, Share, exact_match, normalised, route_accuracy


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 300, 0.0006, 0.0186),
        (270, 300, 0.8608, 0.9291),
    ],
)
def test_the_interval_is_wilsons(hits: int, total: int, low: float, high: float) -> None:
    assert Share(hits, total).interval == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_holds_the_share_and_narrows_with_more_of_the_same(total: int, part: float) -> None:
    share = Share(round(part * total), total)
    low, high = share.interval
    assert 0 <= low <= share.value + 1e-12 and share.value - 1e-12 <= high <= 1
    more = Share(4 * share.hits, 4 * total)
    assert more.interval[1] - more.interval[0] < high - low


@given(st.integers(1, 99), st.integers(100, 2000))
def test_at_its_ends_the_score_test_is_at_its_limit(hits: int, total: int) -> None:
    for end in Share(hits, total).interval:
        score = (hits / total - end) / math.sqrt(end * (1 - end) / total)
        assert abs(score) == pytest.approx(1.959964, abs=1e-5)


@given(st.integers(0, 200), st.integers(1, 200))
def test_wrong_answers_have_the_mirror_image_of_the_interval(hits: int, misses: int) -> None:
    low, high = Share(hits, hits + misses).interval
    assert Share(misses, hits + misses).interval == pytest.approx((1 - high, 1 - low))


def test_of_nothing_there_is_no_share() -> None:
    nothing = Share(0, 0)
    assert math.isnan(nothing.value) and all(map(math.isnan, nothing.interval))


def test_a_share_is_shown_in_per_cent() -> None:
    assert str(Share(8, 10)) == "80.0 (49.0 to 94.3)"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red one.", "red one"),
        ("  a   BUS!! ", "bus"),
        ("3", "three"),
        ("20", "twenty"),
        ("21", "21"),
        ("12 dogs, 7 cats", "twelve dogs seven cats"),
        ("$4.50", "four 50"),
        ("none", "none"),
        ("", ""),
        ("...", ""),
    ],
)
def test_answers_are_compared_by_their_words(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


@given(st.text(alphabet="aA1 .,the9", max_size=20))
def test_comparing_twice_is_comparing_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_an_answer_is_right_if_it_says_the_same() -> None:
    assert exact_match(["Two.", "the left", "red"], ["2", "Left", "blue"]) == Share(2, 3)


def test_a_route_is_right_if_it_has_the_same_experts() -> None:
    routes = [("a", "b"), ("a",), (), ("a",)]
    assert route_accuracy(routes, [("b", "a"), ("a", "b"), (), ()]) == Share(2, 4)


def test_answers_and_references_must_pair_up() -> None:
    for call in (exact_match, route_accuracy):
        with pytest.raises(ValueError):
            call(["a"], ["a", "b"])


def test_the_mean_of_shares_weighs_each_alike_and_is_surer_than_either() -> None:
    one, other = Share(50, 100), Share(270, 300)
    mean = MeanShare((one, other))
    assert mean.value == pytest.approx(0.7)
    low, high = mean.interval
    # by hand: sqrt(.5 * .5 / 100 + .9 * .1 / 300) / 2 * 1.96
    assert (low, high) == pytest.approx((0.7 - 0.05186, 0.7 + 0.05186), abs=1e-4)
    assert str(MeanShare((Share(1, 1),))) == "100.0 (100.0 to 100.0)"
    assert math.isnan(MeanShare(()).value)
