from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import RoutingError
from mova_core.routing.trie import Trie

SHARES = {(): {1: 0.6, 2: 0.4}, (1,): {3: 0.3, 4: 0.7}}


def test_probabilities_multiply_along_a_path_and_add_up_over_paths():
    trie = Trie.of({(1, 3): 0, (1, 4): 1, (2, 5, 6): 1}.items())
    assert set(trie.decisions) == {(), (1,)}
    assert trie.probabilities(SHARES) == pytest.approx({0: 0.18, 1: 0.42 + 0.4})


def test_greedy_takes_the_best_token_at_each_decision():
    assert Trie.of({(1, 3): 0, (1, 4): 1, (2, 5): 2}.items()).greedy(SHARES) == 1
    # The path (2,) is the most probable as a whole, but its first token is not.
    shares = {(): {1: 0.6, 2: 0.4}, (1,): {3: 0.5, 4: 0.5}}
    assert Trie.of({(1, 3): 0, (1, 4): 1, (2,): 2}.items()).greedy(shares) == 0


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_probabilities_of_all_options_sum_to_one(paths):
    trie = Trie.of({path: place for place, path in enumerate(sorted(paths))}.items())
    shares = {
        path: {token: 1 / len(trie.children[path]) for token in trie.children[path]}
        for path in trie.decisions
    }
    assert sum(trie.probabilities(shares).values()) == pytest.approx(1)
    assert trie.greedy(shares) in range(len(paths))


def test_an_answer_that_begins_another_is_refused():
    with pytest.raises(RoutingError, match=r"\[1\]"):
        Trie.of([((1,), 0), ((1, 2), 1)])


def test_two_options_of_one_path_are_refused():
    with pytest.raises(RoutingError, match=r"\[1, 2\]"):
        Trie.of([((1, 2), 0), ((1, 2), 1)])
