"""Which questions go together through the language model.

A batch takes as long as its longest prompt, so only prompts of about one length share one. Those of one route
come first: they need the same experts, and their answers are alike in length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mova_core.model.batch.window import Opened

MOST_PADDING = 1.25
"""The longest prompt of a batch as a multiple of its shortest."""


def by_length(opened: Iterable[Opened], size: int) -> Iterator[list[Opened]]:
    """Batches of up to `size` questions of about one length, the shortest first."""
    batch: list[Opened] = []
    for one in sorted(opened, key=lambda one: (one.length, one.place)):
        if batch and (len(batch) == size or one.length > MOST_PADDING * batch[0].length):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def by_route(opened: Iterable[Opened], size: int) -> Iterator[list[Opened]]:
    """Batches of one route and about one length each; what does not fill one is put together by length."""
    groups: dict[tuple[tuple[str, ...], ...], list[Opened]] = {}
    for one in opened:
        groups.setdefault(_key(one), []).append(one)
    left: list[Opened] = []
    for _, group in sorted(groups.items()):
        for batch in by_length(group, size):
            if len(batch) == size:
                yield batch
            else:
                left += batch
    yield from by_length(left, size)


def _key(one: Opened) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sorted(route.experts)) for route in one.routes)


def halves(batch: Sequence[Opened]) -> tuple[Sequence[Opened], Sequence[Opened]]:
    """A batch in two parts, as equal as can be."""
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]
