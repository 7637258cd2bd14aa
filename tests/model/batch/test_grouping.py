"""Batches: every question in exactly one, prompts of about one length, questions of one route together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mova_core.model.batch.grouping import MOST_PADDING, by_length, by_route
from mova_core.model.batch.window import Opened
from mova_core.model.processing import Turn
from mova_core.routing.route import Route

ROUTES = ((), ("a",), ("b", "a"), ("a", "b"))
GIVEN = st.lists(st.tuples(st.integers(1, 300), st.sampled_from(ROUTES)), max_size=40)


def opened(given: list[tuple[int, tuple[str, ...]]]) -> list[Opened]:
    return [Opened(n, Turn("?"), None, length, [Route(ids)]) for n, (length, ids) in enumerate(given)]


@given(GIVEN, st.integers(1, 8))
def test_batches_are_a_partition_of_bounded_size_and_padding(
    given: list[tuple[int, tuple[str, ...]]], size: int
) -> None:
    for batches in (list(by_length(opened(given), size)), list(by_route(opened(given), size))):
        assert sorted(one.place for batch in batches for one in batch) == list(range(len(given)))
        for batch in batches:
            lengths = [one.length for one in batch]
            assert len(batch) <= size and max(lengths) <= MOST_PADDING * min(lengths)


@given(GIVEN, st.integers(1, 8))
def test_a_route_that_fills_a_batch_has_it_for_itself(
    given: list[tuple[int, tuple[str, ...]]], size: int
) -> None:
    alike = [(100, ids) for _, ids in given]
    mixed = [
        batch
        for batch in by_route(opened(alike), size)
        if len({frozenset(one.routes[0].experts) for one in batch}) > 1
    ]
    kinds = len({frozenset(ids) for _, ids in given})
    assert sum(len(batch) for batch in mixed) <= kinds * (size - 1)
