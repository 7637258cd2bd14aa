"""What a batch is asked, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mova_core.errors import MovaError
    from mova_core.model.answer import Answer
    from mova_core.model.given import ImageLike


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Args:
        question: the question.
        images: paths, bytes or Pillow pictures; may be empty. A path is opened when its turn comes.
        experts: a route of its own; None leaves it to the router.
    """

    question: str
    images: tuple[ImageLike, ...] = ()
    experts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What became of one question: an answer, or the error that it alone caused.

    Args:
        place: which request it is of, counted from 0.
        answer: the answer; its timings are those of the batch it was answered in.
        error: why there is none.
    """

    place: int
    answer: Answer | None = None
    error: MovaError | None = None
