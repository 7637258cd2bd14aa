"""What all static descriptions share: frozen, strict, and hashed by content."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints


def written_as(pattern: str, expected: str) -> AfterValidator:
    """A validator for text of a certain form, whose error says the form in words."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise ValueError(f"must be {expected}")
        return value

    return AfterValidator(check)


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\\" in path or ".." in parts or not parts:
        raise ValueError("must be a relative path with forward slashes that stays inside its folder")
    return path


Identifier = Annotated[str, written_as(r"[a-z0-9][a-z0-9-]*", "lower-case letters, digits and hyphens")]
"""Name of an expert, a model or a part."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""Words that may not be blank."""

Sha256 = Annotated[str, written_as(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")]
"""A SHA-256 digest."""

InnerPath = Annotated[str, AfterValidator(_inside)]
"""A path that cannot leave the package or archive it is relative to."""


class Spec(BaseModel):
    """A frozen description that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: equal for equal content, whatever the order it was written in."""
        stated = self.model_dump(
            mode="json", exclude_defaults=True
        )  # a field added later changes no old hash
        canonical = json.dumps(stated, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
