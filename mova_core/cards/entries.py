"""Entry points of one group, read without importing anything and with each distribution on its own.

`importlib.metadata.entry_points` gives up on all of them when one has a broken file, so the loop is ours.
"""

from __future__ import annotations

import configparser
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

from mova_core.errors import CardError


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
    """Names keep their case, and only "=" divides: our values contain ":"."""

    def __init__(self) -> None:
        super().__init__(delimiters=("=",), interpolation=None)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def entries(group: str) -> Iterator[Entry]:
    """Yield the entry points of a group. Of two distributions of one name the first on `sys.path` counts."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        text = _text(distribution, "entry_points.txt")
        if not text or group not in text:
            continue
        owner = _owner(distribution)
        if owner.name in seen:
            continue
        seen.add(owner.name)
        parser = _EntryPointFile()
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


def _owner(distribution: metadata.Distribution) -> Owner:
    """Read once from the metadata's headers; its body, often long, is not parsed."""
    text = _text(distribution, "METADATA") or _text(distribution, "PKG-INFO")
    headers = HeaderParser().parsestr(text)
    name = re.sub(r"[-_.]+", "-", headers["Name"] or "unnamed").lower()
    return Owner(name, headers["Version"] or "", tuple(headers.get_all("Requires-Dist") or ()))


def card_path(value: str) -> Path:
    """The file that an entry point `package:file.toml` names.

    Only the top-level package is ever looked up: `find_spec("package.module")` would import `package`.

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
        if (path := Path(folder) / file).is_file():
            return path
    raise CardError(f"package {package} has no file {file}")


def package_spec(name: str) -> ModuleSpec | None:
    """Where a top-level package is, without importing it; None if it is nowhere."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: imported already, but from nowhere that is known
        return None
