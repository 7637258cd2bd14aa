"""A card for a vision model of transformers: nothing is fetched, and no weights are needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from mova_core.cards.weights import locate
from mova_core.errors import ConfigError, ExpertLoadError
from mova_expert_timm.documents import Published, Wording, document
from mova_expert_timm.streams import Fit
from mova_expert_transformers.expert import PenultimateExpert, TransformersExpert
from mova_expert_transformers.networks import built, configuration, is_described
from mova_expert_transformers.streams import processor_settings, processor_stream

_EXPERTS: Final = {each.layer: each for each in (TransformersExpert, PenultimateExpert)}

_LICENCE: Final = re.compile(r"\A---\s*\n(?:.*\n)*?license:[ \t]*['\"]?([^'\"\s#]+)")
"""The licence in the front matter of a repository's README.md."""


def card(
    source: str,
    *,
    id: str | None = None,
    descriptions: Sequence[str],
    example_questions: Sequence[str] = (),
    title: str | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit = "pad",
    layer: int = -1,
) -> dict[str, Any]:
    """A card for a vision model of transformers.

    Features and parameters are found by building the network on the meta device.

    Args:
        source: "hf:OWNER/NAME", of which `config.json` and the image settings must be in the local cache, or
            a folder with or without "file:" before it.
        id: the expert's name; None makes one of the model's name.
        descriptions: what the router is told, in several wordings.
        example_questions: questions it helps with.
        title: it in a few words; None makes one of the model's name.
        size: (h, w) of its pictures in pixels; None is the publisher's.
        fit: how pictures are brought to that size; see `mova_expert_timm.streams`.
        layer: the hidden state that is the feature: -1, or -2 for the state before the last layer.

    Returns:
        The card as its TOML file has it; entries that are None are to be left out.

    Raises:
        ConfigError: there is no expert of this layer.
        ExpertLoadError: the description is not on this machine, or is of no vision model.
        ExpertRunError: the network gives no single map of features.
        CardError: the words do not make a card.
    """
    expert_class = _EXPERTS.get(layer)
    if expert_class is None:
        raise ConfigError("no expert gives this hidden state", value=f"layer {layer}", expected="-1 or -2")
    folder, published = _found(source)
    config = configuration(folder)
    stream = processor_stream(processor_settings(folder), config, size=size, fit=fit)
    with torch.device("meta"):
        expert = expert_class(built(config), stream)
    return document(
        published,
        Wording(id, descriptions, example_questions, title),
        expert,
        factory=f"{expert_class.__module__}:{expert_class.__name__}",
        stream=stream,
    )


def covers(source: str) -> bool:
    """Whether `card` is to be asked for a source: any but a folder that is another library's."""
    scheme, _, _ = source.partition(":")
    if scheme not in ("hf", "file"):
        return False
    folder = locate(source)
    return folder is None or not (folder / "config.json").is_file() or is_described(folder)


def _found(source: str) -> tuple[Path, Published]:
    """The folder of a source, and what is known of its weights."""
    scheme, colon, place = source.partition(":")
    hub = bool(colon) and scheme == "hf"
    if hub:
        found = locate(source)
        if found is None:
            raise ExpertLoadError(
                "the model's description is not on this machine",
                value=source,
                hint=f"Run `hf download {place} config.json preprocessor_config.json README.md`.",
            )
        folder = found
    else:
        folder = Path(place if colon and scheme == "file" else source).expanduser().resolve()
    return folder, Published(
        name=place.rpartition("/")[2] if hub else folder.name,
        source=source if hub else f"file:{folder}",
        library="transformers",
        revision="main" if hub else None,
        licence=_licence(folder),
    )


def _licence(folder: Path) -> str | None:
    """What a folder's README.md states."""
    path = folder / "README.md"
    stated = _LICENCE.match(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    return stated[1] if stated else None
