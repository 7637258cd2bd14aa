"""Progress of a batch: a bar on a terminal, lines in a log, nothing when quiet."""

from __future__ import annotations

import io

import pytest

from mova_core.cli.batch import progress as module
from mova_core.cli.batch.progress import BatchProgress, shown_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(total: int, *, quiet: bool = False) -> None:
    with shown_progress(total, quiet=quiet) as progress:
        progress.routed(total)
        for _ in range(total):
            progress.done()


def test_routing_is_half_of_the_work() -> None:
    seen: list[int] = []
    progress = BatchProgress(3, lambda now: seen.append(now.halves))
    progress.routed(2)
    progress.done()
    progress.done()
    progress.done()  # one that could not be opened, and so was never routed
    assert seen == [2, 3, 4, 6]


def test_a_log_gets_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    work(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"{answered} of 2 questions answered, about 0:00:00 left" for answered in (0, 1, 2)
    ]


def test_a_log_is_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    work(1000)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    work(1234)
    assert "1,234 of 1,234 answered" in screen.getvalue()
    screen.truncate(0)
    work(5, quiet=True)
    assert screen.getvalue().strip("\0") == ""
