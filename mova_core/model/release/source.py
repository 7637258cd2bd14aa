"""A release on this machine: its folder, and what its own `config.json` says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from mova_core.cards.spec import Spec
from mova_core.cards.stream import Finite, Positive
from mova_core.cards.warning import warn
from mova_core.errors import CheckpointError
from mova_core.model.release.naming import BASE, EXPERTS

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_TEXT_ENCODER: Final = "bert-large-uncased"
_SMALL_FILES: Final = ("*.json", "*.txt", "*.md", "*.model", "*.jinja", "LICENSE*")
_WEIGHTS: Final = (("model*.safetensors", "model.safetensors.index.json"), ("pytorch_model*.bin", ""))
"""Weight files of a repository, the kind to prefer first: many repositories hold both."""


class Normalisation(Spec):
    """Mean and deviation of a picture's channels, of values from 0 to 1."""

    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]


@dataclass(frozen=True, slots=True)
class Release:
    """A release.

    Args:
        folder: where it is.
        config: its `config.json`; empty without one.
    """

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text_encoder(self) -> str:
        """Name or folder of the text encoder, whose tokenizer a release does not bring."""
        return str(self.config.get("mm_projector_text_encoder") or _TEXT_ENCODER)

    def count(self, key: str, assumed: int) -> int:
        """A positive number of `config.json`; what is assumed where it says none.

        Raises:
            CheckpointError: it is something else.
        """
        found = self.config.get(key, assumed)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise CheckpointError(f"config.json: {key}", value=found, expected="a whole number above 0")
        return found

    def beside(self, name: str) -> Path | None:
        """A folder that `config.json` names, if it came along with the release."""
        for place in (self.folder / name, self.folder / Path(name).name):
            if name and place.is_dir():
                return place
        return None

    def normalisation(self, id: str) -> Normalisation | None:
        """How the release prepares an expert's pictures; None where no image processor came along.

        Raises:
            CheckpointError: a processor's mean or deviation is not one number a channel.
        """
        towers = self.config.get("mm_vision_tower")
        number = (BASE, *EXPERTS).index(id)
        if not isinstance(towers, list) or number >= len(towers):
            return None
        place = self.beside(str(towers[number]))
        file = place / "preprocessor_config.json" if place else None
        if file is None or not file.is_file():
            return None
        stated = read_json(file)
        if "image_mean" not in stated or "image_std" not in stated:
            return None
        try:
            return Normalisation.model_validate({"mean": stated["image_mean"], "std": stated["image_std"]})
        except ValidationError as error:
            raise CheckpointError(
                "an image processor of the release cannot be used",
                value=str(file),
                expected="image_mean and image_std, a number for each channel",
            ) from error


def find_release(source: str | Path, revision: str | None = None) -> Release:
    """A release in a folder, or of the hub.

    Args:
        source: a folder, or OWNER/NAME of a repository on the hub, which is fetched into its cache.
        revision: commit, tag or branch of that repository.

    Raises:
        CheckpointError: there is none, or it cannot be fetched.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetched(str(source), revision)
    file = folder / "config.json"
    return Release(folder, read_json(file) if file.is_file() else {})


def read_json(file: Path) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file holds none.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError("a file of the release cannot be read", value=str(file)) from error
    if not isinstance(document, dict):
        raise CheckpointError("a file of the release holds no JSON object", value=str(file), expected="{...}")
    return document


def told(release: Release, key: str, assumed: Any) -> Any:
    """What the release's `config.json` says; what is assumed without that, with a warning."""
    if key in release.config:
        return release.config[key]
    warn(f"the release's config.json says nothing of {key}: {assumed!r} is assumed")
    return assumed


def _fetched(source: str, revision: str | None) -> Path:
    """A repository's small files, then its weights in one of the kinds it holds them in."""
    folder = _snapshot(source, revision, _SMALL_FILES)
    kinds = [pattern for pattern, index in _WEIGHTS if index and (folder / index).is_file()]
    for pattern in kinds or [pattern for pattern, _ in _WEIGHTS]:
        folder = _snapshot(source, revision, (*_SMALL_FILES, pattern))
        if any(folder.glob(pattern)):
            break
    return folder


def _snapshot(source: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    offline = os.environ.get("MOVA_OFFLINE") == "1"
    try:
        found: str = snapshot_download(
            source.removeprefix("hf:"),
            revision=revision,
            allow_patterns=list(patterns),
            local_files_only=offline,
        )
    except Exception as error:  # the hub's client fails in ways of its own
        said = (str(error).splitlines() or [""])[0][:120]
        raise CheckpointError(
            "there is no such release",
            value=source,
            expected="a folder, or OWNER/NAME of a repository on the hub",
            hint="MOVA_OFFLINE is set: fetch it elsewhere, and name its folder."
            if offline
            else f"The hub's client said: {type(error).__name__}: {said}",
        ) from error
    return Path(found)
