"""Taking a member out of a wheel, zip or tar archive: nothing else, nowhere else, bounded in size."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mova_core.errors import PartsError

_CHUNK = 1 << 20
# What the readers of both formats raise; RuntimeError is an encrypted zip or an unknown compression.
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size: int
    is_plain: bool
    open: Callable[[], IO[bytes]]


def extract(archive: Path, member: str, target: Path, *, limit: int) -> None:
    """Take one file, or the content of one folder, out of an archive.

    Args:
        archive: a `.whl`, `.zip` or `.tar.gz`.
        member: path inside the archive; of a folder, the content is taken, not the folder itself.
        target: an existing folder to put it into.
        limit: bytes that may be unpacked in all.

    Raises:
        PartsError: the archive is broken or has no such member; the member is too large, is a link or would
            leave the target. Files written until then stay in the target.
    """
    try:
        with _entries(archive) as entries:
            chosen = {place: entry for entry in entries if (place := _place(entry.name, member))}
            _check(archive, member, chosen, limit)
            for place, entry in chosen.items():
                _copy(archive, entry, target / place)
    except _BROKEN as error:
        raise PartsError(f"the archive {archive.name} cannot be read: {error}") from error


@contextmanager
def _entries(archive: Path) -> Iterator[list[_Entry]]:
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive, "r:gz") as tar:
            yield [_tar_entry(tar, info) for info in tar if not info.isdir()]
    else:
        with zipfile.ZipFile(archive) as zipped:
            yield [_zip_entry(zipped, info) for info in zipped.infolist() if not info.is_dir()]


def _zip_entry(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
    return _Entry(info.filename, info.file_size, kind in (0, stat.S_IFREG), lambda: zipped.open(info))


def _tar_entry(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Entry:
    def opened() -> IO[bytes]:
        file = tar.extractfile(info)
        if file is None:
            raise tarfile.ReadError(f"{info.name} is not a file")
        return file

    return _Entry(info.name, info.size, info.isfile(), opened)


def _place(name: str, member: str) -> str | None:
    """Where an entry goes inside the target; None if it is not part of the member."""
    member = member.rstrip("/")
    if name == member:
        return PurePosixPath(member).name
    return name.removeprefix(member + "/") if name.startswith(member + "/") else None


def _check(archive: Path, member: str, chosen: dict[str, _Entry], limit: int) -> None:
    if not chosen:
        raise PartsError(f"the archive {archive.name} has no such member", value=member)
    for place, entry in chosen.items():
        path = PurePosixPath(place)
        inside = not path.is_absolute() and ".." not in path.parts and not set(place) & set("\\:\0")
        if not (inside and entry.is_plain):
            raise PartsError(
                f"the archive {archive.name} holds a link or a path that leaves its folder; it is not used",
                value=entry.name,
            )
    total = sum(entry.size for entry in chosen.values())
    if total > limit:
        raise PartsError(
            f"{member} of {archive.name} is too large unpacked",
            value=f"{total:,} bytes",
            expected=f"at most {limit:,}",
        )


def _copy(archive: Path, entry: _Entry, path: Path) -> None:
    """Write one entry, never more bytes than it announced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = entry.size
    with entry.open() as source, path.open("xb") as file:
        while chunk := source.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        raise PartsError(
            f"{entry.name} of {archive.name} has another size than announced", expected=f"{entry.size:,}"
        )
