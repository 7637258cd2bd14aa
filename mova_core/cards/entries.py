"""Entry points of one group, read without importing anything and with each distribution on its own.

`importlib.metadata.entry_points` gives up on all of them when one has a broken file, so the loop is ours.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

from mova_core.errors import CardError

_HEADER = re.compile(r"^(name|version|requires-dist)[ \t]*:(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)
"""A header of a distribution's metadata, with the lines that go on with it."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The distribution that declares an entry point.

    Args:
        name: in the form package indexes use.
        version: its version.
        requires: its requirements, as pip reads them.
    """

    name: str
    version: str
    requires: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry point.

    Args:
        name: left of the equals sign; the owner's name if its entry points cannot be read.
        value: right of it; empty if the owner's entry points cannot be read.
        owner: who declares it.
        broken: why the owner's entry points cannot be read; empty if they can.
    """

    name: str
    value: str
    owner: Owner
    broken: str = ""


class _EntryPointFile(configparser.ConfigParser):
    """Names keep their case, no section is special, and only "=" divides: our values contain ":"."""

    def __init__(self) -> None:
        super().__init__(delimiters=("=",), interpolation=None, default_section="")

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def entries(group: str) -> Iterator[Entry]:
    """Yield the entry points of a group. Of two distributions of one name the first on `sys.path` counts."""
    seen: set[str] = set()
    parser = _EntryPointFile()  # one for all files, since making one takes longer than reading a file
    for distribution in metadata.distributions():
        text = _text(distribution, "entry_points.txt")
        if not text or group not in text:
            continue
        owner = owner_of(distribution)
        if owner.name in seen:
            continue
        seen.add(owner.name)
        parser.clear()
        try:
            parser.read_string(text)
        except configparser.Error as error:
            yield Entry(owner.name, "", owner, broken=" ".join(str(error).split()))
            continue
        if parser.has_section(group):
            for name, value in parser.items(group):
                yield Entry(name, value.strip(), owner)


def _text(distribution: metadata.Distribution, file: str) -> str:
    """A file of the metadata, empty if it is not there; bytes that are no UTF-8 are replaced."""
    try:
        return distribution.read_text(file) or ""
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")


def owner_of(distribution: metadata.Distribution) -> Owner:
    """Read a distribution's metadata once; just the headers that are wanted, not the body, often long."""
    text = _text(distribution, "METADATA") or _text(distribution, "PKG-INFO")
    headers: dict[str, list[str]] = {}
    for name, value in _HEADER.findall(text.partition("\n\n")[0]):
        headers.setdefault(name.lower(), []).append(" ".join(value.split()))
    (name, *_), (version, *_) = headers.get("name", ["unnamed"]), headers.get("version", [""])
    return Owner(re.sub(r"[-_.]+", "-", name).lower(), version, tuple(headers.get("requires-dist", ())))


def package_spec(name: str) -> ModuleSpec | None:
    """Where a top-level package is, without importing it; None if it is nowhere."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: imported already, but from nowhere that is known
        return None


def card_path(value: str, package_spec: Callable[[str], ModuleSpec | None] = package_spec) -> Path:
    """The file that an entry point `package:file.toml` names.

    Only the top-level package is ever looked up: `find_spec("package.module")` would import `package`.

    Args:
        value: of the entry point.
        package_spec: looks a top-level package up.

    Raises:
        CardError: the value has another form, or package or file are not there.
    """
    package, _, file = value.partition(":")
    if not file or not package.isidentifier():
        raise CardError("the entry point has the wrong form", value=value, expected="top_package:file.toml")
    spec = package_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise CardError(f"package {package} is not there")
    for folder in folders:
        if os.path.isfile(path := os.path.join(folder, file)):
            return Path(path)
    raise CardError(f"package {package} has no file {file}")
