"""What is being done, in one line on stderr that the next one replaces."""

from __future__ import annotations

import sys


class Progress:
    """One line at a time: the present case and its present step."""

    def __init__(self) -> None:
        self._case = ""

    def start(self, case: str) -> None:
        """Go on to a case."""
        self._case = case
        self.say("preparing")

    def say(self, step: str) -> None:
        """Show a step of the present case."""
        begin, end = ("\r\033[K", "") if sys.stderr.isatty() else ("", "\n")
        print(f"{begin}{self._case}: {step}", end=end, file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Leave nothing of the line behind."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


PROGRESS = Progress()
"""The line of this process."""
