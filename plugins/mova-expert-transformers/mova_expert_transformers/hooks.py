"""What this package adds to `mova experts add`: cards of transformers' vision models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mova_core.hookspecs import hookimpl


@hookimpl
def mova_card(
    source: str,
    id: str | None,
    descriptions: Sequence[str],
    example_questions: Sequence[str],
    title: str | None,
) -> Mapping[str, Any] | None:
    """A card for a vision model of transformers; None for a source that is another library's."""
    from mova_expert_transformers.cards import card, covers  # hooks are imported by every command

    if not covers(source):
        return None
    return card(source, id=id, descriptions=descriptions, example_questions=example_questions, title=title)
