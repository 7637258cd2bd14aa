"""Where weights come from, and whether they are here already. Nothing is fetched in this module.

A source is one of
    package:FILE        a file inside the package that holds the card
    part:MODEL/PART     a part of an installed model, fetched by `mova models pull MODEL`
    hf:OWNER/NAME       a repository of the Hugging Face hub
    file:PATH           a file or folder of this machine
    https://...         a file to download
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from mova_core.cards.spec import written_as

Source = Annotated[
    str,
    written_as(
        r"package:[^/:][^:]*|part:[a-z0-9-]+/[a-z0-9-]+|hf:[^/:]+/[^/:]+|file:.+|https://.+",
        "package:FILE, part:MODEL/PART, hf:OWNER/NAME, file:PATH or https://...",
    ),
]
"""One place to take weights from."""


def locate(source: str, *, beside: Path | None = None, revision: str | None = None) -> Path | None:
    """Where the weights of a `package:`, `file:` or `hf:` source lie on this machine.

    Args:
        source: a source as cards write it.
        beside: folder of the card, for `package:`.
        revision: commit, tag or branch, for `hf:`; None is the hub's main branch.

    Returns:
        the path, or None if nothing is there. Sources of the other kinds are kept by who fetches them: None.
    """
    scheme, _, place = source.partition(":")
    path: Path | None = None
    if scheme == "package" and beside is not None:
        path = beside / place
    elif scheme == "file":
        path = Path(place).expanduser()
    elif scheme == "hf":
        path = _hub_snapshot(place, revision or "main")
    return path if path is not None and path.exists() else None


def _hub_snapshot(repository: str, revision: str) -> Path:
    """The folder in which the hub's own client keeps that revision of a repository."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    hub = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    folder = hub / ("models--" + repository.replace("/", "--"))
    reference = folder / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return folder / "snapshots" / commit
