"""Which file of a release held what: written at an import, read for the way back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final, Self

from pydantic import ValidationError, model_validator

from mova_core.cards.spec import Spec, written_as
from mova_core.errors import CheckpointError
from mova_core.model.release.shards import Shard

LAYOUT: Final = "release/layout.json"
FILES: Final = "release/files"
_KEPT_SUFFIXES: Final = (".json", ".txt", ".md", ".model", ".jinja")
_KEPT_NAMES: Final = ("LICENSE", "NOTICE", "USE_POLICY")
_LARGEST_KEPT: Final = 64 * 2**20
_PICKLED_INDEX: Final = ".bin.index.json"

FileName = Annotated[str, written_as(r"[^/\\\0]+\.safetensors", "a file name that ends in .safetensors")]
"""A name that cannot leave its folder."""


class ShardLayout(Spec):
    """One file of a release.

    Args:
        file: its name; that of a pickled file as safetensors.
        header: its header, if it was safetensors.
        tensors: names of what it held, in order.
    """

    file: FileName
    header: str | None = None
    tensors: tuple[str, ...]


class ReleaseLayout(Spec):
    """All files of a release.

    Args:
        shards: in order.
    """

    shards: tuple[ShardLayout, ...]

    @model_validator(mode="after")
    def _everything_has_one_place(self) -> Self:
        for what in ([s.file for s in self.shards], [name for s in self.shards for name in s.tensors]):
            if len(set(what)) < len(what):
                raise ValueError("a file or a tensor is named twice")
        return self


def keep_layout(made: Path, shards: Sequence[Shard], folder: Path) -> None:
    """Write down which file held what, and keep the release's small files as they are.

    Args:
        made: the checkpoint.
        shards: the files of the release.
        folder: where it is.
    """
    layout = ReleaseLayout(
        shards=tuple(
            ShardLayout(
                file=shard.path.with_suffix(".safetensors").name.replace("pytorch_model", "model"),
                header=shard.header.decode() if shard.header else None,
                tensors=tuple(shard.tensors),
            )
            for shard in shards
        )
    )
    kept = made / FILES
    kept.mkdir(parents=True)
    (made / LAYOUT).write_text(layout.model_dump_json(), encoding="utf-8")
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts)
        if not hidden and path.is_file() and _is_kept(path):
            (kept / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept / inner)


def read_layout(directory: Path) -> ReleaseLayout:
    """What `keep_layout` wrote.

    Raises:
        CheckpointError: the checkpoint was not imported, or the file was changed.
    """
    file = directory / LAYOUT
    if not file.is_file():
        raise CheckpointError(
            "this checkpoint does not know a released layout",
            value=str(directory),
            expected=f"a checkpoint made by `mova convert`, with {LAYOUT}",
        )
    try:
        return ReleaseLayout.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(
            "the released layout cannot be read",
            value=str(file),
            expected=f"what `mova convert` wrote ({reason})",
        ) from error


@contextmanager
def appearing(out: Path, what: str) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end; after an error nothing is left of it.

    Args:
        out: a folder that is empty or not there.
        what: what it will be, for the error.

    Raises:
        CheckpointError: there is something in the way, or it cannot be written.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir()) or out == Path.cwd()):
        raise CheckpointError(
            "there is something in the way",
            value=str(out),
            expected="a folder that is not there, or empty and not the current one",
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            yield made
            if out.exists():
                out.rmdir()
            made.rename(out)
    except OSError as error:
        raise CheckpointError(
            f"the {what} cannot be written", value=str(out), expected=f"a writable place with room ({error})"
        ) from error


def _is_kept(path: Path) -> bool:
    """Small files that are no weights; an index of pickled files says nothing of what comes back."""
    small = path.stat().st_size <= _LARGEST_KEPT
    named = path.suffix in _KEPT_SUFFIXES or path.name.startswith(_KEPT_NAMES)
    return small and named and not path.name.endswith(_PICKLED_INDEX)
