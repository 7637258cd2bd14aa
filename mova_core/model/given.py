"""Pictures and questions as a caller hands them in, checked without anything that takes long to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from mova_core.errors import InputError
from mova_core.experts.images import load_image

ImageLike: TypeAlias = str | Path | bytes | Image.Image
"""A picture: its path, its bytes, or the picture itself."""

MAX_QUESTION_CHARACTERS = 8_000
"""A longer question is refused: the language model's context would be filled by it."""


def load_images(given: ImageLike | Sequence[ImageLike] | None) -> tuple[Image.Image, ...]:
    """RGB pictures from what a caller may hand in.

    Raises:
        InputError: naming the picture that cannot be read.
    """
    if given is None:
        return ()
    if isinstance(given, (str, Path, bytes, Image.Image)):
        return (load_image(given),)
    return tuple(load_image(each) for each in given)


def check_question(question: str) -> str:
    """The question, if it can be asked.

    Raises:
        InputError: if it is empty, too long, or no text that UTF-8 can hold.
    """
    if not question.strip():
        raise InputError(
            "the question is empty", expected="some words", hint='Example: mova ask IMAGE "What is this?"'
        )
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise InputError(
            "the question is too long",
            value=f"{len(question):,} characters",
            expected=f"at most {MAX_QUESTION_CHARACTERS:,}",
            hint="Shorten it.",
        )
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "the question holds half a character",
            value=question[error.start].encode(errors="backslashreplace").decode(),
            expected="text that can be written as UTF-8",
            hint="Type it again.",
        ) from error
    return question
