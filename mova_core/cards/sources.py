"""Where a distribution is taken from, as the registry vouches for it. Nothing is fetched in this module."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mova_core.cards.spec import InnerPath, Sha256, Spec, written_as

DistributionName = Annotated[
    str,
    written_as(
        r"[a-z0-9]+(-[a-z0-9]+)*", "a distribution's normal name: lower-case letters, digits, single hyphens"
    ),
]
"""A distribution's name in the form package indexes use."""

RepositoryUrl = Annotated[
    str, written_as(r"https://[^\s@#?]+", "an https URL without user name, query and fragment")
]
"""Where a git repository is cloned from."""

Commit = Annotated[str, written_as(r"[0-9a-f]{40}", "a full commit, 40 lower-case hexadecimal digits")]
"""A git commit: tags and branches can be moved, commits cannot."""

ExactRequirement = Annotated[
    str, written_as(r"[a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-zA-Z.!+]*", "written as 'name==version'")
]
"""One version of one distribution."""


class FolderSource(Spec):
    """A folder of the repository that the index belongs to.

    Args:
        kind: "folder".
        path: of the folder, relative to the repository.
        repository: where the repository is cloned from, for an index that is used outside of a checkout.
        revision: the commit to take there; goes with `repository`.
    """

    kind: Literal["folder"]
    path: InnerPath
    repository: RepositoryUrl | None = None
    revision: Commit | None = None

    @model_validator(mode="after")
    def _repository_is_pinned(self) -> FolderSource:
        if (self.repository is None) != (self.revision is None):
            raise ValueError("'repository' and 'revision' go together")
        return self


class GitSource(Spec):
    """A commit of a git repository.

    Args:
        kind: "git".
        url: where the repository is cloned from.
        revision: the commit.
        subdirectory: folder of the distribution, where it is not the repository itself.
    """

    kind: Literal["git"]
    url: RepositoryUrl
    revision: Commit
    subdirectory: InnerPath | None = None


class IndexSource(Spec):
    """One version on the package index, in files of known content.

    Args:
        kind: "index".
        requirement: name and version.
        sha256: digests of the files that may be taken, as of a wheel and an sdist.
    """

    kind: Literal["index"]
    requirement: ExactRequirement
    sha256: Annotated[tuple[Sha256, ...], Field(min_length=1)]


DistributionSource = Annotated[FolderSource | GitSource | IndexSource, Field(discriminator="kind")]
"""One of the places a distribution can be taken from; `kind` says which."""
