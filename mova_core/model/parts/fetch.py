"""From a part's specification to its folder: there already, or fetched, unpacked and converted once."""

from __future__ import annotations

import os
from pathlib import Path

from mova_core.cards.discovery import discover_models
from mova_core.cards.folders import cache_root
from mova_core.cards.models import PartSpec
from mova_core.errors import MovaError, PartsError
from mova_core.model.parts import store
from mova_core.model.parts.archive import extract
from mova_core.model.parts.convert import Conversion, conversion
from mova_core.model.parts.disk import require_space, writing
from mova_core.model.parts.download import download
from mova_core.model.parts.index import find_file
from mova_core.model.parts.pip_settings import pip_settings
from mova_core.model.parts.progress import Progress, SilentProgress, readable_size
from mova_core.model.parts.web import open_session

_UNPACKED_GROWTH = 1.5  # weights hardly compress: unpacked bytes expected per byte of the archive
_UNPACKED_LIMIT = 20  # and the most that is accepted


def ensure(part: PartSpec, *, progress: Progress | None = None, thorough: bool = False) -> Path:
    """The folder of a part, fetched first if it is not in the cache. When it is, no network is touched.

    Args:
        part: what is wanted, from a model's card.
        progress: shows steps and bars; nothing is shown without one.
        thorough: read every byte of what is there, and fetch it again if one is wrong.

    Returns:
        the folder, complete.

    Raises:
        PartsError: it cannot be found, fetched, checked or stored, or is missing while MOVA_OFFLINE=1.
    """
    if folder := store.stored(part, thorough=thorough):
        return folder
    if os.environ.get("MOVA_OFFLINE", "") not in ("", "0"):
        raise _missing(part.id)
    shown = progress or SilentProgress()
    with (
        writing(cache_root()),
        store.locked(part, lambda: shown.say(f"{part.id}: waiting for another process that is fetching it")),
    ):
        return store.stored(part, thorough=thorough) or _make(part, shown)


def part_path(part_id: str, *, sha256: str | None = None) -> Path:
    """The folder of a part that was fetched before. No network is touched.

    Args:
        part_id: its id.
        sha256: digest of the archive it was made from, where one version is meant; else the one made last.

    Raises:
        PartsError: it is not in the cache, or incomplete.
    """
    if folder := store.newest(part_id, sha256):
        return folder
    raise _missing(part_id)


def _missing(part_id: str) -> PartsError:
    models = [record.id for record in discover_models() if part_id in {part.id for part in record.parts}]
    command = f"mova models pull {models[0] if models else 'MODEL'}"
    return PartsError(
        f"model part {part_id} is not in the cache {cache_root()}, or incomplete",
        hint=f"Run `{command}` once with a network and without MOVA_OFFLINE.",
    )


def _make(part: PartSpec, progress: Progress) -> Path:
    """Fetch, unpack, convert and publish; the caller holds the lock."""
    how = conversion(part.convert)
    archive = store.downloaded(part)
    require_space(cache_root(), int(part.size_bytes * (1 + _UNPACKED_GROWTH + how.growth)))
    _fetch(part, archive, progress)
    with store.workshop(part) as place:
        source, made = place / "source", place / "made"
        source.mkdir()
        made.mkdir()
        extract(archive, part.member, source, limit=max(_UNPACKED_LIMIT * part.size_bytes, 1 << 20))
        _convert(part, how, source, made, progress)
        folder = store.publish(part, made)
    archive.unlink()
    return folder


def _fetch(part: PartSpec, archive: Path, progress: Progress) -> None:
    """Bring the archive here, unless an earlier call did."""
    if archive.exists() and store.file_digest(archive) == part.sha256:
        return
    settings = pip_settings()
    with open_session(settings) as session:
        url = find_file(part, session, settings.index_urls)
        progress.say(f"{part.id}: fetching {part.filename} ({readable_size(part.size_bytes)})")
        download(url, archive, size=part.size_bytes, sha256=part.sha256, session=session, progress=progress)


def _convert(part: PartSpec, how: Conversion, source: Path, made: Path, progress: Progress) -> None:
    """Run the conversion; readers of foreign files fail in many ways, and each becomes one line."""
    if how.notice:
        progress.say(f"{part.id}: {how.notice}")
    try:
        how.run(source, made)
    except MovaError:
        raise
    except ImportError as error:
        raise PartsError(
            f"model part {part.id!r} needs the package {error.name} to be converted",
            hint=f"Run `pip install {error.name}` and repeat the command.",
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk, not of the file's content
        require_space(made, 1 << 20)  # a full disk comes in many disguises
        raise PartsError(
            f"model part {part.id} could not be converted by {part.convert}: {type(error).__name__}: {error}",
            hint="Repeat the command; if it fails again, please report it with this line.",
        ) from error
