"""Turning a fetched file into the folder that models load: safetensors weights and a config, made once.

A conversion reads the folder `source`, which holds what was taken from the archive, and fills the empty
folder `target`. Names are those of a part's `convert` field: "none", "gguf-llama", "timm:ARCHITECTURE".
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mova_core.errors import PartsError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Conversion:
    """One way to turn an extracted member into a part's folder.

    Args:
        run: called as `run(source, target)`.
        growth: bytes it writes per byte of the archive, an upper bound, for the disk-space check.
        notice: what to tell the user while it runs; empty when it takes no time.
    """

    run: Callable[[Path, Path], None]
    growth: float
    notice: str = ""


def conversion(name: str) -> Conversion:
    """The conversion of that name.

    Raises:
        PartsError: there is none.
    """
    if name == "none":
        return Conversion(_move, growth=0.0)
    if name == "gguf-llama":
        return Conversion(
            _gguf_llama,
            growth=4.0,
            notice="converting to bfloat16 safetensors, once, half a minute",
        )
    if name.startswith("timm:"):
        return Conversion(
            partial(_state_dict_to_timm, architecture=name.removeprefix("timm:")),
            growth=1.5,
            notice="converting to safetensors",
        )
    raise PartsError(
        "unknown conversion of a model part",
        value=name,
        expected='"none", "gguf-llama" or "timm:ARCHITECTURE"',
        hint="Correct `convert` in the model's card, or update mova-core.",
    )


def _move(source: Path, target: Path) -> None:
    for entry in source.iterdir():
        shutil.move(entry, target / entry.name)


def _single_file(source: Path) -> Path:
    files = [path for path in source.iterdir() if path.is_file()]
    if len(files) != 1:
        raise PartsError(
            "this conversion reads one file",
            value=", ".join(sorted(path.name for path in files)) or "none",
            expected="`member` in the model's card to name a file",
        )
    return files[0]


def _gguf_llama(source: Path, target: Path) -> None:
    """Dequantize a GGUF file of the Llama family to bfloat16.

    Transformers keeps a model that was read from GGUF marked as quantized and will not save it. So its
    weights move, strictly by name, into a plain model of that configuration; in float32, to be rounded once.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    gguf_file = _single_file(source).name
    with redirect_stderr(StringIO()):  # transformers draws bars of its own
        loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
        settings = loaded.config.to_dict()
        for leftover in ("quantization_config", "_name_or_path", "_model_name_or_path"):
            settings.pop(leftover, None)
        model: Any = type(loaded)(type(loaded.config).from_dict(settings))
        model.load_state_dict(loaded.state_dict(), strict=True)
        ends = {key: settings.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig.from_dict({"do_sample": False, **ends})
        model.to(torch.bfloat16).save_pretrained(target)

    _restore_digit_splitting(tokenizer, source / gguf_file)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(target)


def _restore_digit_splitting(tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    """Split every digit before byte-level BPE, as SmolLM was trained: reading GGUF drops that step."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    scheme = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if scheme is not None and scheme.contents() == "smollm":
        backend: Any = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


def _state_dict_to_timm(source: Path, target: Path, *, architecture: str) -> None:
    """Give a torch state dict the names of a timm architecture, matching entries by their order.

    The folder loads with `timm.create_model("local-dir:FOLDER", pretrained=True)`.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    file = _single_file(source)
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model(architecture, pretrained=False)
    renamed = _by_order(weights, model.state_dict())
    model.load_state_dict(renamed, strict=True)
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(_timm_config(model, architecture), indent=2) + "\n")


def _by_order(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `weights` to the names of `wanted`; count, kind (last word of the name) and shape must agree."""
    if len(weights) != len(wanted):
        raise PartsError(
            "the weights are of another model", value=f"{len(weights)} tensors", expected=f"{len(wanted)}"
        )
    for (name, tensor), (target_name, like) in zip(weights.items(), wanted.items(), strict=True):
        kinds = name.rpartition(".")[2], target_name.rpartition(".")[2]
        if kinds[0] != kinds[1] or tensor.shape != like.shape:
            raise PartsError(
                "the weights are of another model",
                value=f"{name} {tuple(tensor.shape)}",
                expected=f"{target_name} {tuple(like.shape)}",
            )
    return {name: tensor.contiguous() for name, tensor in zip(wanted, weights.values(), strict=True)}


def _timm_config(model: nn.Module, architecture: str) -> dict[str, Any]:
    settings: dict[str, Any] = dict(getattr(model, "pretrained_cfg", {}))
    preprocessing = ("input_size", "interpolation", "crop_pct", "mean", "std")
    structure = ("num_classes", "pool_size", "first_conv", "classifier")
    return {
        "architecture": architecture,
        "num_classes": settings["num_classes"],
        "pretrained_cfg": {key: settings[key] for key in preprocessing + structure},
    }
