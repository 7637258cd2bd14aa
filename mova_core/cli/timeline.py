"""An answer's timeline as lines to print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mova_core.model.answer import Answer


def timeline_lines(answer: Answer) -> list[str]:
    """A line for each event, in the order they began: from when to when, what, and where."""
    width = max((len(event.what) for event in answer.timeline), default=0)
    lines = []
    for event in answer.timeline:
        start, end = 1000 * event.start, 1000 * event.end
        lines.append(f"when    {start:6.0f} to {end:6.0f} ms   {event.what:<{width}}   {event.device}")
    return lines
