"""From what a user asks for to what an installer is told: an id the index vouches for, or a full requirement.

A bare name that the index does not vouch for never becomes a target. Anyone can publish a package of that
name, and an installer would fetch and run it (dependency confusion).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from mova_core.cli.index import Index
from mova_core.errors import InstallError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from mova_core.cards.registry import RegistryEntry

FULL = "NAME==VERSION, NAME @ https://..., git+https://...@REVISION, or a path such as ./FOLDER"
"""The forms of a full requirement, for messages."""


@dataclass(frozen=True, slots=True)
class Target:
    """One distribution to install.

    Args:
        requirement: as an installer reads it on its command line.
        name: of the distribution; empty where only the source knows it.
        origin: where it is taken from, in words.
        sha256: digests that its file on the package index may have; empty for another source.
        local: it lies on this machine.
    """

    requirement: str
    name: str
    origin: str
    sha256: tuple[str, ...] = ()
    local: bool = False


def target_of(text: str, index: Index) -> Target:
    """What a user means by an id, a distribution's name, or a full requirement.

    Raises:
        InstallError: the index does not vouch for the name, or the requirement is not full.
    """
    if entry := index.find(text):
        return entry_target(entry, index)
    if "://" in text and "@ " not in text:
        return _from_url(text)
    if text.startswith((".", "/", "~")) or ("://" not in text and text.endswith((".whl", ".tar.gz"))):
        return path_target(Path(text).expanduser())
    requirement = _parsed(text)
    if requirement is not None and requirement.url:
        return _from_named_url(requirement, requirement.url)
    if requirement is not None and _is_exact(requirement):
        return exact_target(str(requirement), normal_name(requirement.name))
    raise InstallError(
        f"the index {index.place} does not vouch for this name, and nothing is fetched by guess",
        value=text,
        expected=" or ".join(index.near(text)) or None,
        hint=f"`mova experts search` shows what is known; anything else takes a full requirement: {FULL}.",
    )


def entry_target(entry: RegistryEntry, index: Index) -> Target:
    """Where the index says that an entry's distribution is.

    Raises:
        InstallError: it is a folder of a repository that is not here.
    """
    source, name = entry.source, entry.distribution
    if source.kind == "git":
        return git_target(name, source.url, source.revision, source.subdirectory)
    if source.kind == "index":
        return pinned_target(source.requirement, source.sha256)
    folder = index.root / source.path if index.root else None
    if folder and (folder / "pyproject.toml").is_file():
        return path_target(folder, name)
    if source.repository and source.revision:
        return git_target(name, source.repository, source.revision, source.path)
    raise InstallError(
        f"{name} is the folder {source.path} of the repository of the index {index.place}, which is not here",
        hint=f"Give a checkout's index (--index CHECKOUT/registry), or a full requirement: {FULL}.",
    )


def pinned_target(requirement: str, sha256: tuple[str, ...]) -> Target:
    """A version on the package index, of which the digests of its files are known."""
    digests = ", ".join(f"sha256 {digest[:12]}..." for digest in sha256)
    return Target(requirement, requirement.partition("==")[0], f"the package index, {digests}", sha256)


def exact_target(requirement: str, name: str = "") -> Target:
    """A version on the package index, whatever is in its files."""
    name = name or requirement.partition("==")[0]
    return Target(requirement, name, "the package index, its files not vouched for")


def archive_target(name: str, url: str, sha256: str | None) -> Target:
    """A distribution file at an address.

    Raises:
        InstallError: the address is not https.
    """
    _check_url(url)
    return Target(f"{name} @ {url}" + (f"#sha256={sha256}" if sha256 else ""), name, url)


def git_target(name: str, url: str, revision: str, subdirectory: str | None) -> Target:
    """A commit of a git repository.

    Raises:
        InstallError: the address is not https.
    """
    _check_url(f"git+{url}@{revision}")
    inside = f"#subdirectory={quote(subdirectory)}" if subdirectory else ""
    origin = f"{url} at {revision}" + (f", folder {subdirectory}" if subdirectory else "")
    return Target(f"{name} @ git+{url}@{revision}{inside}", name, origin)


def path_target(path: Path, name: str = "") -> Target:
    """A folder or a distribution file of this machine.

    Args:
        path: where it is.
        name: the distribution it must be; empty to take what is there.

    Raises:
        InstallError: there is nothing to install.
    """
    path = path.absolute()
    if not (path.is_file() or any((path / file).is_file() for file in ("pyproject.toml", "setup.py"))):
        raise InstallError(
            "there is nothing to install",
            value=str(path),
            expected="a folder with pyproject.toml, or a wheel",
        )
    requirement = f"{name} @ {path.as_uri()}" if name else str(path)
    return Target(requirement, name or _name_at(path), str(path), local=True)


def normal_name(name: str) -> str:
    """A distribution's name in the form package indexes use."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _parsed(text: str) -> Requirement | None:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _is_exact(requirement: Requirement) -> bool:
    clauses = list(requirement.specifier)
    return len(clauses) == 1 and clauses[0].operator == "==" and not clauses[0].version.endswith("*")


def _from_url(url: str) -> Target:
    """`git+https://...@REVISION`, the one URL that stands alone."""
    _check_url(url)
    if not url.startswith("git+"):
        raise InstallError(
            "a URL needs the name of its distribution",
            value=url,
            expected=f"NAME @ {url}",
            hint='In quotes: mova experts install "NAME @ URL".',
        )
    return Target(url, "", url.removeprefix("git+"))


def _from_named_url(requirement: Requirement, url: str) -> Target:
    name = normal_name(requirement.name)
    if url.startswith("file:"):
        from urllib.request import url2pathname

        return path_target(Path(url2pathname(urlsplit(url).path)), name)
    _check_url(url)
    return Target(str(requirement), name, url.removeprefix("git+"))


def _check_url(url: str) -> None:
    pieces = urlsplit(url)
    if pieces.scheme not in ("https", "git+https") or not pieces.netloc:
        raise InstallError(
            "the URL is of the wrong kind", value=url, expected="https://... or git+https://..."
        )
    _, at, revision = pieces.path.rpartition("@")
    if pieces.scheme == "git+https" and not (at and revision):
        raise InstallError(
            "the git URL has no revision", value=url, expected=f"{url.partition('#')[0]}@REVISION"
        )


def _name_at(path: Path) -> str:
    """The name of the distribution at a path, where that stands in plain words."""
    if path.is_file():
        return normal_name(path.name.split("-")[0]) if path.suffix == ".whl" else ""
    try:
        project = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8")).get("project")
    except (OSError, ValueError):
        return ""
    name = project.get("name") if isinstance(project, dict) else None
    return normal_name(name) if isinstance(name, str) else ""
