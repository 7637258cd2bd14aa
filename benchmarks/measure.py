"""Times and memory: contenders take turns, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.progress import PROGRESS

PROCESS = Path("/proc/self")
MATMUL = 2048
"""Side of the matrices by which the machine's rate is measured."""


@dataclass(frozen=True, slots=True)
class Race:
    """What the rounds of some contenders took.

    Args:
        seconds: by contender, the time of each round.
        peaks: by contender, the peak memory of its first round beyond what was held before, in MB; None where
            the system cannot tell.
    """

    seconds: Mapping[str, list[float]]
    peaks: Mapping[str, float | None]

    def median(self, *names: str) -> float:
        """Median over the rounds of what these contenders took together."""
        return statistics.median(map(sum, zip(*(self.seconds[name] for name in names), strict=True)))

    def peak(self, *names: str) -> float | None:
        """The highest peak of these contenders."""
        peaks = [self.peaks[name] for name in names]
        return None if None in peaks else max(peak for peak in peaks if peak is not None)


def race(contenders: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: bool = True) -> Race:
    """Time contenders in turn.

    Args:
        contenders: what to run, by name.
        rounds: timed rounds.
        warm_up: run each once before, untimed. Memory is measured in the first round of all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, float | None] = {}
    for number in range(rounds + warm_up):
        timed = number >= warm_up
        PROGRESS.say(f"round {number + 1} of {rounds + warm_up}")
        for name, run in contenders.items():
            held = None if peaks.keys() >= contenders.keys() else start_of_peak()
            begin = time.perf_counter()
            run()
            took = time.perf_counter() - begin
            if held is not None:
                peaks[name] = peak_since(held)
            peaks.setdefault(name, None)
            if timed:
                seconds[name].append(took)
    return Race(seconds, peaks)


def start_of_peak() -> float | None:
    """Forget the peak so far and give freed memory back to the system.

    Returns:
        What is held now, in MB; None where the system cannot tell.
    """
    if not sys.platform.startswith("linux"):
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    (PROCESS / "clear_refs").write_text("5")  # resets VmHWM; see proc_pid_clear_refs(5)
    return _status("VmRSS")


def peak_since(held: float) -> float:
    """Peak memory since `start_of_peak`, in MB beyond what was held then."""
    return _status("VmHWM") - held


def matmul(dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A contender by which `rate` tells how fast this machine multiplies."""
    a, b = (torch.randn(MATMUL, MATMUL).to(dtype) for _ in range(2))
    b = b.T  # as linear layers hold their weights
    a @ b  # kernels are made when first needed
    return lambda: a @ b


def rate(seconds: float) -> float:
    """Operations a second of a `matmul` that took so long."""
    return 2 * MATMUL**3 / seconds


def _status(field: str) -> float:
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024
