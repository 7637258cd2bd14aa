"""Where an installed distribution came from, by what its installer left."""

from __future__ import annotations

import json
from typing import Annotated, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import Field

from mova_core.cards.sources import Commit
from mova_core.cards.spec import InnerPath, Sha256, Spec, Text


class FolderOrigin(Spec):
    """Installed from a folder of the machine it was frozen on."""

    kind: Literal["folder"] = "folder"
    path: Text


class GitOrigin(Spec):
    """Installed from a commit of a git repository."""

    kind: Literal["git"] = "git"
    url: Text
    revision: Commit
    subdirectory: InnerPath | None = None


class ArchiveOrigin(Spec):
    """Installed from a file at an address."""

    kind: Literal["archive"] = "archive"
    url: Text
    sha256: Sha256 | None = None


class IndexOrigin(Spec):
    """Installed from a package index, or from a file that lay on the machine it was frozen on."""

    kind: Literal["index"] = "index"
    sha256: Sha256 | None = None


Origin = Annotated[FolderOrigin | GitOrigin | ArchiveOrigin | IndexOrigin, Field(discriminator="kind")]


def origin_of(direct_url: str | None) -> FolderOrigin | GitOrigin | ArchiveOrigin | IndexOrigin:
    """Where a distribution came from, by the `direct_url.json` that installers leave (PEP 610)."""
    try:
        said = json.loads(direct_url or "")
        url, vcs, archive = str(said["url"]), said.get("vcs_info"), said.get("archive_info") or {}
        if vcs:
            return GitOrigin(url=url, revision=vcs["commit_id"], subdirectory=said.get("subdirectory"))
        if "dir_info" in said:
            return FolderOrigin(path=url2pathname(urlsplit(url).path))
        named = archive.get("hashes") or dict([archive.get("hash", "=").split("=", 1)])
        digest = named.get("sha256")
        return (
            IndexOrigin(sha256=digest) if url.startswith("file:") else ArchiveOrigin(url=url, sha256=digest)
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # none there, or not as the standard says
        return IndexOrigin()
