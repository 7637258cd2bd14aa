"""Where the tokens of one trunk and its branches stand, and what each may look at.

Several continuations of one text can share a forward pass: the trunk is written once, each branch after it. A
token sees the trunk and what stands before it on its own branch, and every branch starts at the position
where the trunk ends, so that each reads as if it were the only one.

Notation for tensor shapes:
    b: rows of a batch, q: tokens fed now, s: tokens fed so far, now included
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

TRUNK = 0
PADDING = -1


@dataclass(frozen=True, slots=True)
class Layout:
    """One batch of rows, padded on the right.

    Args:
        branch: [b, q], for each token 0 on the trunk, 1.. on a branch, -1 as padding.
        position: [b, q], its position in the text it belongs to.
        spans: for each row the columns of its trunk, then of each branch.
    """

    branch: Tensor
    position: Tensor
    spans: tuple[tuple[range, ...], ...]


def lay_out(sizes: Sequence[Sequence[int]], starts: Sequence[int]) -> Layout:
    """Place trunks and branches in a batch.

    Args:
        sizes: for each row the tokens of its trunk, then of each branch.
        starts: for each row the position of the trunk's first token.
    """
    branch, position, spans = [], [], []
    for row, start in zip(sizes, starts, strict=True):
        ends = torch.tensor([0, *row]).cumsum(0).tolist()
        spans.append(tuple(range(begin, end) for begin, end in zip(ends, ends[1:], strict=False)))
        firsts = [start, *[start + row[TRUNK]] * (len(row) - 1)]
        position.append(
            torch.cat([torch.arange(first, first + size) for first, size in zip(firsts, row, strict=True)])
        )
        branch.append(torch.arange(len(row)).repeat_interleave(torch.tensor(row)))
    return Layout(
        pad_sequence(branch, batch_first=True, padding_value=PADDING),  # [b, q]
        pad_sequence(position, batch_first=True),  # [b, q]
        tuple(spans),
    )


def visible(branch: Tensor, now: int) -> Tensor:
    """What the last tokens of each row may look at.

    Padding sees the trunk and itself, so that no row of attention is empty; nothing sees padding.

    Args:
        branch: [b, s], as in `Layout`, for all tokens fed so far.
        now: how many of them ask.

    Returns:
        A boolean [b, now, s].
    """
    total = branch.shape[1]
    place = torch.arange(total, device=branch.device)
    asking, asked = place[total - now :, None], place[None, :]
    own, theirs = branch[:, total - now :, None], branch[:, None, :]  # [b, now, 1], [b, 1, s]
    related = (theirs == TRUNK) | ((theirs == own) & (theirs != PADDING))  # [b, now, s]
    return (related & (asked <= asking)) | (asked == asking)


def stale(branch: Tensor) -> Tensor:
    """The same tokens [b, s] once the branches have been read: only the trunk stays visible."""
    return branch.masked_fill(branch > TRUNK, PADDING)
