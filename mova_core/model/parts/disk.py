"""Disk space: asked for before work starts, and a full disk said in one line when it fills up anyhow."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mova_core.errors import PartsError
from mova_core.model.parts.progress import readable_size

_FULL = (errno.ENOSPC, errno.EDQUOT)


def require_space(folder: Path, needed: int) -> None:
    """Refuse to start what cannot be finished.

    Args:
        folder: where files will be written; it need not exist yet.
        needed: bytes.

    Raises:
        PartsError: fewer bytes are free.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise _full(folder, f"{needed:,} bytes are needed, {free:,} are free", needed)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the failures of writing below `folder` into a `PartsError` that says the way out."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder, str(error.strerror)) from error
        raise PartsError(
            f"the cache folder {folder} cannot be written: {error.strerror or error}",
            hint="Set MOVA_CACHE to a folder of yours and repeat the command.",
        ) from error


def _full(folder: Path, reason: str, needed: int | None = None) -> PartsError:
    room = f"room for {readable_size(needed)}" if needed else "room"
    return PartsError(
        f"not enough disk space in {folder}: {reason}",
        hint=f"Make {room} there, or set MOVA_CACHE to a folder on a larger disk, and repeat the command.",
    )
