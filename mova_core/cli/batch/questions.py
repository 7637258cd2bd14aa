"""The file of questions, read as often as need be and never as a whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mova_core.errors import InputError

MAX_LINE = 2**20
"""Bytes of a line; a longer one is no question."""

EXAMPLE = '{"image": "photo.jpg", "question": "What is this?"}'


@dataclass(frozen=True, slots=True)
class Asked:
    """A line that can be asked.

    Args:
        images: paths of its pictures.
        question: the question.
        experts: a route of its own.
        key: equal for lines that ask the same of the same pictures, whatever their ids and places.
    """

    images: tuple[Path, ...]
    question: str
    experts: tuple[str, ...] | None
    key: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file.

    Args:
        id: its id, or its number in the file.
        asked: what it asks; None if it cannot be read.
        problem: why it cannot be read.
    """

    id: str | int
    asked: Asked | None = None
    problem: str = ""


class _Fields(BaseModel):
    """The keys of a line; others, such as a reference answer, are not read."""

    model_config = ConfigDict(strict=True)
    image: str | list[str] | None
    question: str
    experts: list[str] | None = None
    id: str | int | None = None


class QuestionFile:
    """Questions as JSON, one a line; empty lines do not count.

    Args:
        path: the file. Paths of pictures in it are relative to its folder.
        experts: a route for lines without one of their own; None leaves it to the router.

    Raises:
        InputError: if there is no such file, or it cannot be opened.
    """

    def __init__(self, path: Path, experts: tuple[str, ...] | None = None) -> None:
        self.path = path
        self._experts = experts
        if not path.is_file():
            raise InputError(
                "there is no such file of questions",
                value=str(path),
                expected="a JSON Lines file (not a pipe: it is read more than once, to resume)",
                hint=f"One line a question: {EXAMPLE}",
            )
        try:
            path.open("rb").close()
        except OSError as error:
            raise InputError(
                f"the file of questions cannot be opened: {error.strerror}",
                value=str(path),
                hint="Check its permissions.",
            ) from error

    def __iter__(self) -> Iterator[Line]:
        with self.path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE):
                number += 1
                whole = raw.endswith(b"\n") or len(raw) < MAX_LINE
                while not whole:
                    rest = file.readline(MAX_LINE)
                    whole = rest.endswith(b"\n") or len(rest) < MAX_LINE
                    raw = b""
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as some editors write it
                if not raw:
                    yield Line(number, problem=f"the line is longer than {MAX_LINE:,} bytes")
                elif raw.strip():
                    yield self._line(raw, number)

    def _line(self, raw: bytes, number: int) -> Line:
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError) as error:
            return Line(number, problem=f"the line is no JSON ({error}); expected a line such as {EXAMPLE}")
        id = found.get("id") if isinstance(found, dict) else None
        shown = id if isinstance(id, (str, int)) and not isinstance(id, bool) else number
        try:
            fields = _Fields.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = f"`{first['loc'][0]}`: " if first["loc"] else ""
            said = f"{where}{first['msg'][:1].lower()}{first['msg'][1:]}"
            return Line(shown, problem=f"the line is no question ({said}); expected a line such as {EXAMPLE}")
        return Line(shown, self._asked(fields))

    def _asked(self, fields: _Fields) -> Asked:
        named = [fields.image] if isinstance(fields.image, str) else fields.image or []
        experts = self._experts if fields.experts is None else tuple(fields.experts)
        images = tuple(self.path.parent / name for name in named)
        content = [[str(path), _version(path)] for path in images], fields.question, experts
        key = hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
        return Asked(images, fields.question, experts, key)


def _version(path: Path) -> list[int]:
    """Changes when another picture is put in the place of this one."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # it will be said when the picture is opened
        return []
    return [found.st_size, found.st_mtime_ns]
