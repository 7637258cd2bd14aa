from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mova_core.routing.tree import PADDING, TRUNK, lay_out, stale, visible

SIZES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=3)


@given(SIZES, st.integers(0, 5))
def test_each_token_sees_the_trunk_before_it_and_its_own_branch(sizes, start):
    layout = lay_out(sizes, [start] * len(sizes))
    seen = visible(layout.branch, layout.branch.shape[1])
    for row, spans in enumerate(layout.spans):
        assert [len(span) for span in spans] == sizes[row]
        for branch, span in enumerate(spans):
            for place, column in enumerate(span):
                own = [*(spans[TRUNK] if branch != TRUNK else ()), *span[: place + 1]]
                assert seen[row, column].nonzero().flatten().tolist() == own
                # A token stands right after all that it sees but itself.
                assert layout.position[row, column] == start + len(own) - 1


@given(SIZES)
def test_padding_is_seen_by_itself_alone_and_never_sees_nothing(sizes):
    layout = lay_out(sizes, [0] * len(sizes))
    seen = visible(layout.branch, layout.branch.shape[1])
    assert bool(seen.any(dim=2).all())
    for row, column in (layout.branch == PADDING).nonzero().tolist():
        assert seen[row, :, column].nonzero().flatten().tolist() == [column]


def test_reading_on_sees_the_old_trunk_and_no_old_branch():
    before = stale(torch.tensor([[0, 0, 1, 2, PADDING]]))
    now = torch.tensor([[0, 1, 1]])
    seen = visible(torch.cat([before, now], dim=1), 3)
    assert seen[0].int().tolist() == [
        [1, 1, 0, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1, 1, 1],
    ]
