"""Where the parts of a checkpoint lie: inside it, in the cache, on the hub's disk, or at a path."""

from __future__ import annotations

from pathlib import Path

from mova_core.cards.weights import locate
from mova_core.errors import CheckpointError
from mova_core.model.parts.fetch import part_path


def find_source(source: str, directory: Path | None = None) -> Path:
    """The folder or file that a source names. Nothing is fetched.

    Args:
        source: `part:MODEL/PART`, `inside:FOLDER` (of the checkpoint), `hf:OWNER/NAME` or `file:PATH`.
        directory: the checkpoint, for `inside:`.

    Raises:
        PartsError: a part was not fetched.
        CheckpointError: nothing is there.
    """
    scheme, _, place = source.partition(":")
    if scheme == "part":
        return part_path(place.rpartition("/")[2])
    found = directory / place if scheme == "inside" and directory else locate(source)
    if found is None or not found.exists():
        fetch = f"Run `hf download {place}`." if scheme == "hf" else "Check the checkpoint's config.json."
        raise CheckpointError(
            "a part of the checkpoint is not on this machine", value=source, expected="it on disk", hint=fetch
        )
    return found


def find_weights(source: str) -> Path | None:
    """For the expert pool: where a `part:` source was put; None for what is not kept here."""
    return part_path(source.rpartition("/")[2]) if source.startswith("part:") else None
