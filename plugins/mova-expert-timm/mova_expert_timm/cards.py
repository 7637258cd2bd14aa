"""A card for a timm model, by its name: nothing is fetched, and no weights are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from mova_core.cards.weights import locate
from mova_core.errors import ExpertLoadError
from mova_expert_timm.documents import Published, Wording, document
from mova_expert_timm.expert import TimmExpert
from mova_expert_timm.networks import described, is_described, named, settings
from mova_expert_timm.streams import Fit, timm_stream

FACTORY = "mova_expert_timm.expert:TimmExpert"


def card(
    source: str,
    *,
    id: str | None = None,
    descriptions: Sequence[str],
    example_questions: Sequence[str] = (),
    title: str | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit = "pad",
) -> dict[str, Any]:
    """A card for a timm model.

    Features and parameters are found by building the model on the meta device.

    Args:
        source: "timm:NAME" (with or without the tag of its weights), "hf:OWNER/NAME", or a folder with or
            without "file:" before it.
        id: the expert's name; None makes one of the model's name.
        descriptions: what the router is told, in several wordings.
        example_questions: questions it helps with.
        title: it in a few words; None makes one of the model's name.
        size: (h, w) of its pictures in pixels; None is the model's own.
        fit: how pictures are brought to that size; see `streams`.

    Returns:
        The card as its TOML file has it; entries that are None are to be left out.

    Raises:
        ExpertLoadError: there is no such model, or its weights are not published for timm.
        ExpertRunError: it gives no single map of features.
        CardError: the words do not make a card.
    """
    with torch.device("meta"):
        network, published = _found(source)
        stream = timm_stream(settings(network), size=size, fit=fit)
        expert = TimmExpert.around(network, size)
    wording = Wording(id, descriptions, example_questions, title)
    return document(published, wording, expert, factory=FACTORY, stream=stream)


def covers(source: str) -> bool:
    """Whether `card` makes cards of a source: a name of timm's, or a folder that timm described."""
    scheme, _, place = source.partition(":")
    if scheme == "timm":
        return True
    folder = locate(source) if scheme in ("hf", "file") else Path(source)
    if folder is None:
        return scheme == "hf" and place.startswith("timm/")
    return is_described(folder)


def _found(source: str) -> tuple[nn.Module, Published]:
    """The model of a source, and what is known of its weights."""
    scheme, colon, place = source.partition(":")
    if scheme == "timm":
        return _listed(place)
    if scheme == "hf":
        folder = locate(source)
        if folder is None and place.startswith("timm/"):
            return _listed(place.removeprefix("timm/"), source=source)
        if folder is None:
            raise ExpertLoadError(
                "the model's description is not on this machine",
                value=source,
                hint=f"Run `hf download {place} config.json`.",
            )
        network = described(folder)
        return network, _published(place.rpartition("/")[2], source, settings(network), revision="main")
    folder = Path(place if colon and scheme == "file" else source).expanduser().resolve()
    network = described(folder)
    return network, _published(folder.name, f"file:{folder}", settings(network))


def _listed(name: str, *, source: str | None = None) -> tuple[nn.Module, Published]:
    """A model of timm's list, and where timm publishes its weights."""
    network = named(name)
    repository = timm.get_pretrained_cfg(name, allow_unregistered=True)
    place = str(repository.hf_hub_id or "") if repository else ""
    if source is None and not place.startswith("timm/"):
        raise ExpertLoadError(
            "timm publishes no weights of this model on the hub",
            value=name,
            expected="a model whose weights are at `timm/` there",
            hint="Save it with timm.models.save_for_hf and name the folder.",
        )
    remark = f"Made from the list of timm {timm.__version__}, not from the weight file."
    published = _published(name, source or f"hf:{place}", settings(network), revision="main", remark=remark)
    return network, published


def _published(
    name: str,
    source: str,
    stated: Mapping[str, Any],
    *,
    revision: str | None = None,
    remark: str | None = None,
) -> Published:
    papers = stated.get("paper_ids")
    return Published(
        name=name,
        source=source,
        library="timm",
        revision=revision,
        licence=stated.get("license"),
        paper=", ".join([papers] if isinstance(papers, str) else papers) if papers else None,
        remark=remark,
    )
