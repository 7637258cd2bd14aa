"""What happened when, on the way from a question to its answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that was done for an answer.

    Args:
        what: "look", "route", "route step 1" and so on, "expert ID", "fuse" or "answer".
        start, end: seconds since the question was asked. A GPU may go on after `end`: that is when the work
            was handed to it.
        device: where it was done.
    """

    what: str
    start: float
    end: float
    device: str


class Clock:
    """Writes down events, from its making on."""

    def __init__(self) -> None:
        self._zero = time.perf_counter()
        self._events: list[Event] = []
        self.seconds: dict[str, float] = {}

    @property
    def events(self) -> tuple[Event, ...]:
        """Events in the order they began; what contains others comes before them."""
        return tuple(sorted(self._events, key=lambda event: (event.start, -event.end)))

    @contextmanager
    def step(self, what: str, device: str | None) -> Iterator[None]:
        """Times the body: its duration goes into `seconds` and, with a device, an event among the events."""
        start = time.perf_counter()
        yield
        end = time.perf_counter()
        self.seconds[what] = end - start
        if device is not None:
            self.add(what, start, end, device)

    def add(self, what: str, start: float, end: float, device: str) -> None:
        """Writes an event down, its times by `time.perf_counter`."""
        self._events.append(Event(what, start - self._zero, end - self._zero, device))

    def laps(self, what: str, device: str) -> Callable[[], None]:
        """Ends a numbered event each time it is called; the first begins now, the next one with that call."""
        start, number = time.perf_counter(), 0

        def lap() -> None:
            nonlocal start, number
            end, number = time.perf_counter(), number + 1
            self.add(f"{what} {number}", start, end, device)
            start = end

        return lap
