"""What a release must hold, by names and shapes, found out before anything is written.

Notation for tensor shapes:
    n: tokens of the base grid, c: width, t: width of the text feature, d: width of the language model,
    f: channels of an expert, h: hidden width of the feed-forward layers, v: vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mova_core.errors import CheckpointError
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.packs import ExpertPack
from mova_core.fusion.release_keys import HEAD_DIM
from mova_core.model.release.naming import ADAPTER, CORE, EXPERTS, TEXT_FILE, Place, ReleaseMap, pack_file
from mova_core.model.release.writing import TensorSpec
from mova_core.model.settings import AdapterSettings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Shape = tuple[int, ...]
_NOT_OF_THE_LANGUAGE_MODEL = (
    *("mm_", "image_", "expert_", "vision_", "ft_", "topk", "auto_map", "architectures", "model_type"),
    *("_attn", "attn_implementation", "_name_or_path", "quantization_config"),
)
"""What the names of entries begin with that say something of vision, or of how somebody once loaded it."""


def adapter_settings(
    shapes: Mapping[str, TensorSpec], *, depth: int, most: int, routing_tokens: int
) -> AdapterSettings:
    """Sizes of the adapter, read off its tensors.

    Args:
        shapes: all tensors of the release.
        depth: blocks.
        most: experts that count for one image.
        routing_tokens: image tokens in the routing pass.

    Raises:
        CheckpointError: a tensor that tells a size is missing.
    """
    _, n, c = _shape(shapes, "pos_embed", 3)
    hidden, _ = _shape(shapes, "blocks.0.mlp.w1.weight", 2)
    usual = 8 / 3
    side, routed = isqrt(n), isqrt(routing_tokens)
    if routed**2 != routing_tokens:
        raise CheckpointError(
            "config.json: num_routing_tokens", value=routing_tokens, expected="a square, such as 144"
        )
    return AdapterSettings(
        width=c,
        heads=max(1, c // HEAD_DIM),
        grid=(side, side),
        depth=depth,
        ffn_ratio=usual if int(c * usual) == hidden else (hidden + 0.5) / c,
        max_experts=most,
        routing_grid=(routed, routed),
    )


def text_width(shapes: Mapping[str, TensorSpec]) -> int:
    """Width t of the text feature: what the gate reads beside the image's mean."""
    c, both = _shape(shapes, "blocks.0.gate.0.weight", 2)
    return both - c


def out_width(shapes: Mapping[str, TensorSpec]) -> int:
    """Width d of the language model."""
    return _shape(shapes, "mlp.2.weight", 2)[0]


def channels(shapes: Mapping[str, TensorSpec]) -> dict[str, int]:
    """Channels f of each expert's features, as the adapter reads them."""
    return {
        id: _shape(shapes, f"blocks.0.cross_attn.{j}.k_proj.weight", 2)[1] for j, id in enumerate(EXPERTS)
    }


def wanted_places(
    settings: AdapterSettings,
    *,
    text_dim: int,
    out_dim: int,
    experts: Mapping[str, int],
    bert: Any,
    language: Any,
) -> dict[Place, Shape]:
    """Every place that a release must fill, towers left out: their plugins know what they need.

    Args:
        settings: sizes of the adapter.
        text_dim: width of the text feature.
        out_dim: width of the language model.
        experts: channels by expert.
        bert: configuration of the text encoder.
        language: configuration of the language model. Its places have no file.
    """
    from transformers import AutoModelForCausalLM, BertModel

    with torch.device("meta"):
        adapter = MovAdapter(
            width=settings.width,
            heads=settings.heads,
            grid=settings.grid,
            text_dim=text_dim,
            out_dim=out_dim,
            depth=settings.depth,
            ffn_ratio=settings.ffn_ratio,
            max_experts=settings.max_experts,
        )
        packs = {
            id: ExpertPack(width=settings.width, channels=f, heads=settings.heads, depth=settings.depth)
            for id, f in experts.items()
        }
        encoder = BertModel(bert, add_pooling_layer=False)
        model = AutoModelForCausalLM.from_config(language)  # type: ignore[no-untyped-call]
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if language.tie_word_embeddings else set()
    places = _places(CORE, adapter) | _places(TEXT_FILE, encoder)
    for id, pack in packs.items():
        places |= _places(pack_file(id), pack)
    return places | {place: s for place, s in _places("", model).items() if place.name not in tied}


def differences(
    wanted: Mapping[Place, Shape], found: Mapping[Place, tuple[str, Shape]], names: ReleaseMap
) -> list[str]:
    """What is missing or has another shape, in the release's names.

    Args:
        wanted: places and shapes.
        found: for each place filled the release's name and the shape of what goes there.
        names: of the release.
    """
    lacking = sorted({names.released(place) for place in wanted.keys() - found.keys()})
    shaped = sorted(
        f"misshapen: {key} {list(shape)}, expected {list(wanted[place])}"
        for place, (key, shape) in found.items()
        if place in wanted and wanted[place] != shape
    )
    surplus = sorted(f"unmapped: {key}" for place, (key, _) in found.items() if place not in wanted)
    return [*(f"missing: {key}" for key in lacking), *shaped, *surplus]


def refuse(problems: list[str], what: str) -> None:
    """Stop with the whole list, if there is one.

    Raises:
        CheckpointError: naming every problem.
    """
    if problems:
        raise CheckpointError(
            f"this is not {what}: {len(problems)} of its weights do not fit: " + "; ".join(problems),
            hint="Check that all files of the release are there and whole, and that --profile is its own.",
        )


def language_config(document: Mapping[str, Any], vocabulary: int) -> PreTrainedConfig:
    """The language model's configuration.

    Args:
        document: in transformers' terms; what it says of vision is left out.
        vocabulary: v, by the embedding's rows: a release may have added tokens.

    Raises:
        CheckpointError: transformers cannot make a configuration of it.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    own = {key: value for key, value in document.items() if not key.startswith(_NOT_OF_THE_LANGUAGE_MODEL)}
    for key in ("bos_token_id", "pad_token_id"):  # a token may have been added without a row for it
        if isinstance(own.get(key), int) and not 0 <= own[key] < vocabulary:
            own[key] = None
    try:
        config = LlamaConfig.from_dict({**own, "vocab_size": vocabulary})
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:  # transformers raises whatever a wrong value provokes
        raise CheckpointError(
            "the language model's configuration cannot be used", value=f"{type(error).__name__}: {error}"
        ) from error
    config.architectures = ["LlamaForCausalLM"]
    return config


def _places(file: str, module: nn.Module) -> dict[Place, Shape]:
    return {Place(file, name): tuple(t.shape) for name, t in module.state_dict().items()}


def _shape(shapes: Mapping[str, TensorSpec], name: str, dimensions: int) -> Shape:
    spec = shapes.get(ADAPTER + name)
    if spec is None or len(spec.shape) != dimensions:
        raise CheckpointError(
            "this is no release of MoVA: a weight that tells its sizes is missing",
            value=ADAPTER + name,
            expected="every weight of the released MoVA under its name",
            hint="Name the folder of the whole checkpoint.",
        )
    return spec.shape
