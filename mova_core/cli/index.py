"""Opening an index of known experts: the one that came with this package, a folder, a file or an address."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mova_core
from mova_core.cards.registry import RegistryEntry, parse_registry, read_registry
from mova_core.errors import CardError, ConfigError, InstallError

MOST_BYTES = 1_000_000
"""Largest JSON index that is read."""


@dataclass(frozen=True, slots=True)
class Index:
    """The experts and models that somebody vouches for.

    Args:
        entries: by id.
        place: where they are from, for messages.
        root: the folder that folder sources are relative to; None where there is none.
    """

    entries: tuple[RegistryEntry, ...]
    place: str
    root: Path | None = None

    def find(self, name: str) -> RegistryEntry | None:
        """The entry of an id; else the first that comes in the distribution of that name."""
        by_id = (entry for entry in self.entries if entry.id == name)
        by_distribution = (entry for entry in self.entries if entry.distribution == name)
        return next(by_id, None) or next(by_distribution, None)

    def needs(self, name: str) -> list[RegistryEntry]:
        """The entries that an entry needs, and those that they need.

        Raises:
            CardError: one is not in this index.
        """
        entry, found = self.find(name), dict[str, RegistryEntry]()
        waiting = [(entry, id) for id in entry.needs] if entry else []
        for user, id in waiting:  # grows as it is gone through
            needed = next((entry for entry in self.entries if entry.id == id), None)
            if needed is None:
                raise CardError(f"entry {user.id} of {self.place} needs another that is not there", value=id)
            if id not in found:
                found[id] = needed
                waiting += [(needed, further) for further in needed.needs]
        return list(found.values())

    def near(self, name: str) -> list[str]:
        """Ids and distributions that are spelt like a name."""
        known = dict.fromkeys(text for entry in self.entries for text in (entry.id, entry.distribution))
        return difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)


def open_index(place: str | None = None) -> Index:
    """Read an index.

    Args:
        place: a folder of TOML files, whose parent is what folder sources are relative to; the path or https
            URL of a JSON file; None for the index of this package.

    Raises:
        CardError: an entry is wrong.
        ConfigError: there is nothing at the place, it is no https URL, or too large.
        InstallError: it cannot be fetched.
    """
    if place is None:
        folder = _own_folder()
    elif "://" in place:
        return Index(tuple(parse_registry(_fetched(place), place)), place)
    else:
        folder = Path(place).expanduser().absolute()
    if folder.is_dir():
        return _from_folder(folder)
    return Index(tuple(parse_registry(_read(folder), str(folder))), str(folder))


def _own_folder() -> Path:
    """The registry inside the installed package; in a checkout, the one beside it."""
    package = Path(mova_core.__file__).parent
    checkout = package.parent
    if not (package / "registry").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout / "registry"
    return package / "registry"


def _from_folder(folder: Path) -> Index:
    entries = tuple(read_registry(folder))
    if not entries:
        raise ConfigError(
            "the index has no entries", value=str(folder), expected="a folder with a TOML file for each"
        )
    return Index(entries, str(folder), root=folder.parent)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _bounded(file.read(MOST_BYTES + 1), str(path))
    except OSError as error:
        raise ConfigError(
            f"the index cannot be read: {error.strerror}",
            value=str(path),
            expected="a folder of TOML files, a JSON file, or an https URL",
            hint="Give one with --index.",
        ) from error


def _bounded(content: bytes, place: str) -> bytes:
    if len(content) > MOST_BYTES:
        raise ConfigError("the index is too large", value=place, expected=f"at most {MOST_BYTES:,} bytes")
    return content


def _fetched(url: str) -> bytes:
    from requests import RequestException

    from mova_core.model.parts.pip_settings import pip_settings
    from mova_core.model.parts.web import open_session, without_credentials

    shown = without_credentials(url)
    if not url.startswith("https://"):
        raise ConfigError("the index is not at an https URL", value=shown, expected="https://...")
    if offline():
        raise InstallError("the index cannot be fetched while MOVA_OFFLINE is set", value=shown)
    try:
        with (
            open_session(pip_settings()) as session,
            session.get(url, timeout=(20.0, 60.0), stream=True, allow_redirects=False) as answer,
        ):
            answer.raise_for_status()
            if answer.is_redirect:
                raise ConfigError("the index has moved", value=shown, expected=answer.headers["Location"])
            return _bounded(b"".join(_pieces(answer.iter_content(1 << 16))), shown)
    except RequestException as error:
        raise InstallError(f"the index cannot be fetched: {error}", value=shown) from error


def _pieces(content: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of an answer, up to the first that makes it too large."""
    total = 0
    for piece in content:
        yield piece
        total += len(piece)
        if total > MOST_BYTES:
            return


def offline() -> bool:
    """Whether MOVA_OFFLINE says that nothing may be fetched."""
    return os.environ.get("MOVA_OFFLINE", "") not in ("", "0")
