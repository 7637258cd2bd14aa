"""What is wrong with an expert, and how its author mends it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that an expert's author should change.

    Args:
        expert: id of the expert.
        what: what is wrong, in one line.
        mend: what to do about it.
    """

    expert: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.expert}: {self.what}. Mend: {self.mend}"
