"""The lines that tell when what was done for an answer."""

from __future__ import annotations

from mova_core.cli.timeline import timeline_lines
from mova_core.model.answer import Answer
from mova_core.model.timeline import Event


def test_each_event_is_a_line_in_milliseconds() -> None:
    events = (Event("look", 0.0, 0.0124, "cpu"), Event("expert tiny-red", 0.5, 1.25, "cuda:1"))
    assert timeline_lines(Answer("yes", timeline=events)) == [
        "when         0 to     12 ms   look              cpu",
        "when       500 to   1250 ms   expert tiny-red   cuda:1",
    ]


def test_an_answer_without_events_has_no_line() -> None:
    assert timeline_lines(Answer("yes")) == []
