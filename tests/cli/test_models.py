"""`mova models list`: what is installed, and which of its parts are on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Mova = Callable[..., Any]


def test_the_table_tells_whole_what_json_tells(mova: Mova) -> None:
    (nano,) = [m for m in json.loads(mova("models", "list", "--json").out) if m["id"] == "mova-nano"]
    head, *lines = mova("models", "list").out.splitlines()
    assert head.startswith("MODEL  ") and head.endswith("  ON DISK")
    first = next(place for place, line in enumerate(lines) if line.startswith("mova-nano "))
    assert nano["title"] in lines[first]
    for part, line in zip(nano["parts"], lines[first + 1 :], strict=False):
        assert line.split()[0] == part["id"] and part["licence"] in line
        assert line.endswith("yes" if part["on_disk"] else "no")
    assert len(nano["parts"]) > 3
