"""Pure functions from answers to figures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_ARTICLES = {"a", "an", "the"}
Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of right answers with its 95 % interval.

    Args:
        hits: right ones.
        total: all.
    """

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share, 0 to 1; NaN of nothing."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %, (low, high)."""
        if not self.total:
            return math.nan, math.nan
        n, p = self.total, self.value
        centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        return _percent(self.value, self.interval)


@dataclass(frozen=True, slots=True)
class MeanShare:
    """The unweighted mean of several shares, such as one for each task, with its 95 % interval.

    Args:
        shares: of independent questions.
    """

    shares: tuple[Share, ...]

    @property
    def value(self) -> float:
        """The mean, 0 to 1; NaN of nothing."""
        return sum(share.value for share in self.shares) / len(self.shares) if self.shares else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """By the normal approximation at 95 %, (low, high): the variances of the shares add up."""
        if not self.shares:
            return math.nan, math.nan
        variance = sum(share.value * (1 - share.value) / share.total for share in self.shares)
        half = Z95 * math.sqrt(variance) / len(self.shares)
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def __str__(self) -> str:
        return _percent(self.value, self.interval)


def _percent(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def normalised(answer: str) -> str:
    """Lower-cased words without articles and punctuation, numbers up to twenty written out."""
    words = re.findall(r"[a-z]+|\d+", answer.lower())
    spelled = (_NUMBERS[int(w)] if w.isdigit() and int(w) < len(_NUMBERS) else w for w in words)
    return " ".join(w for w in spelled if w not in _ARTICLES)


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Share:
    """How many answers equal their reference after `normalised`.

    Raises:
        ValueError: if there are not as many answers as references.
    """
    pairs = zip(answers, references, strict=True)
    return Share(sum(normalised(a) == normalised(r) for a, r in pairs), len(references))


def route_accuracy(routes: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> Share:
    """How many routes choose exactly the experts that help, in any order.

    Raises:
        ValueError: if there are not as many routes as references.
    """
    pairs = zip(routes, references, strict=True)
    return Share(sum(set(chosen) == set(useful) for chosen, useful in pairs), len(references))
