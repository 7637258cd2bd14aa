"""Where parts live: `CACHE/parts/ID/DIGEST/`, one folder for each version of a part, whole or not there.

A folder gets its name only when everything is in it, by one rename. Its `part.json` tells what it was made
from and the digest of each file, so that damage that happens later is noticed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from mova_core.cards.folders import cache_root
from mova_core.cards.models import PartSpec

MANIFEST = "part.json"


class StoredFile(BaseModel):
    """Digest and size in bytes of one file of a part."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size: int


class Manifest(BaseModel):
    """What a part's folder was made from, and what is in it: `files`, by path inside the folder."""

    model_config = ConfigDict(frozen=True)

    id: str
    package: str
    version: str
    filename: str
    sha256: str
    member: str
    convert: str
    licence: str
    source: str
    files: dict[str, StoredFile]

    def fits(self, part: PartSpec) -> bool:
        """Whether this is what `part` asks for."""
        same_member = self.member.rstrip("/") == part.member.rstrip("/")
        return same_member and (self.sha256, self.convert) == (part.sha256, part.convert)


def part_folder(part: PartSpec) -> Path:
    """The folder of this version of the part, whether it is there or not."""
    return cache_root() / "parts" / part.id / part.sha256[:12]


def downloaded(part: PartSpec) -> Path:
    """Where the part's archive is kept until the part is made."""
    return cache_root() / "downloads" / f"{part.sha256[:12]}-{part.filename}"


def stored(part: PartSpec, *, thorough: bool = False) -> Path | None:
    """The part's folder if it is whole: made from this specification, every file there in its size.

    Args:
        part: what is looked for.
        thorough: compare the content of each file with its digest too, a second or so for a large part.
    """
    folder = part_folder(part)
    if thorough:
        return None if damage(part) else folder
    manifest = read_manifest(folder)
    return folder if manifest and manifest.fits(part) and not _wrong_sizes(folder, manifest) else None


def newest(part_id: str, sha256: str | None = None) -> Path | None:
    """The folder of a part that was made last and is whole; of any version, or of that archive digest."""
    manifests = (cache_root() / "parts" / part_id).glob(f"[!.]*/{MANIFEST}")
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True):
        manifest = read_manifest(path.parent)
        if manifest and sha256 in (None, manifest.sha256) and not _wrong_sizes(path.parent, manifest):
            return path.parent
    return None


def damage(part: PartSpec) -> list[str]:
    """What is wrong with the part's folder, a line for each problem; empty if each byte is as it was made."""
    folder = part_folder(part)
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder}: no readable {MANIFEST}" if folder.exists() else f"{folder}: not there"]
    if not manifest.fits(part):
        return [f"{folder}: made from another specification of this part"]
    return _wrong_sizes(folder, manifest) or [
        f"{folder / name}: content differs from what was stored"
        for name, file in manifest.files.items()
        if file_digest(folder / name) != file.sha256
    ]


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a part's folder; None where there is none that can be read."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def _wrong_sizes(folder: Path, manifest: Manifest) -> list[str]:
    problems = []
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif (size := path.stat().st_size) != file.size:
            problems.append(f"{path}: {size:,} bytes, expected {file.size:,}")
    return problems


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def workshop(part: PartSpec) -> Iterator[Path]:
    """An empty temporary folder beside the part's own, gone afterwards. To be used under `locked`."""
    folder = part_folder(part)
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(part: PartSpec, made: Path) -> Path:
    """Write the manifest of the finished folder `made` and give it its final name.

    Args:
        part: what was made.
        made: a folder on the same disk as the cache; it is moved.

    Returns:
        the part's folder.
    """
    note = made / MANIFEST
    files = {
        path.relative_to(made).as_posix(): StoredFile(sha256=file_digest(path), size=path.stat().st_size)
        for path in sorted(made.rglob("*"))
        if path.is_file() and path != note
    }
    origin = part.model_dump(include=set(Manifest.model_fields))
    note.write_text(Manifest(**origin, files=files).model_dump_json(indent=2) + "\n", encoding="utf-8")
    for name in files:  # some writers keep files private; a cache may be shared, as the user's umask says
        (made / name).chmod(note.stat().st_mode)
    folder = part_folder(part)
    if folder.exists():  # damaged, or of another conversion; a rename does not replace a full folder
        os.replace(folder, made.with_name("replaced"))
    os.replace(made, folder)
    return folder


@contextmanager
def locked(part: PartSpec, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of the part's archive, so that two processes do not fetch it twice.

    Args:
        part: what will be made.
        waiting: called once if another process holds the lock.
    """
    path = downloaded(part).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
