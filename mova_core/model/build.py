"""Building the pretrained parts that a checkpoint stands on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mova_core.errors import CheckpointError, ExpertLoadError
from mova_core.experts.protocol import VisionExpert
from mova_core.fusion.text import TextEncoder
from mova_core.model.language import LanguageOptions, set_attention
from mova_core.model.quantization import is_quantized
from mova_core.model.settings import LanguageSettings, TextSettings
from mova_core.model.sources import find_source, find_weights
from mova_core.routing.placed import execution_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mova_core.cards.records import ExpertRecord


def load_base(base: str | ExpertRecord, *, dtype: torch.dtype, device: torch.device) -> VisionExpert:
    """A base encoder, frozen.

    Args:
        base: its id, or its record where a checkpoint changes its card.
        dtype: of its parameters and features.
        device: where it goes.

    Raises:
        ExpertLoadError: if it is not installed, is no base encoder, or cannot be loaded.
    """
    from mova_core.cards.resolve import usable_expert
    from mova_core.experts.loading import load_expert

    record = usable_expert(base) if isinstance(base, str) else base
    if record.card is None or record.card.role != "base":
        raise ExpertLoadError(
            "this expert is no base encoder", value=record.id, expected='a card with role = "base"'
        )
    if record.card.isolation == "process":
        raise ExpertLoadError(
            "a model's base encoder runs in the model's own process",
            value="isolation 'process'",
            expected="isolation 'none'",
            hint=f"Change the card of {record.id}.",
        )
    beside = record.source.parent if record.source else None
    expert = load_expert(record.card, device=device, dtype=dtype, beside=beside, find=find_weights)
    return expert.eval().requires_grad_(False)


def load_text_encoder(
    settings: TextSettings, directory: Path, *, dtype: torch.dtype, device: torch.device
) -> TextEncoder:
    """The adapter's text encoder, frozen.

    Raises:
        CheckpointError: if its folder holds no model that transformers knows.
    """
    from transformers import AutoModel

    bert = _pretrained(AutoModel, "text encoder", settings.source, directory, dtype=dtype)
    return TextEncoder(bert.to(device), pooling=settings.pooling).eval().requires_grad_(False)


def load_language_model(
    settings: LanguageSettings,
    directory: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    options: LanguageOptions | None = None,
) -> PreTrainedModel:
    """The language model, frozen; its LoRAs come later.

    Args:
        settings: where it lies.
        directory: the checkpoint.
        dtype: of its weights, or of what is computed with quantised ones.
        device: where it goes, unless the options share it out.
        options: devices, bits and attention.

    Raises:
        CheckpointError: if its folder holds no causal language model that transformers knows.
        ConfigError: if an option needs what is not installed, or does not suit the model.
    """
    from transformers import AutoModelForCausalLM

    options = options or LanguageOptions()
    arguments = options.arguments(dtype, device)
    model = _pretrained(AutoModelForCausalLM, "language model", settings.source, directory, **arguments)
    placed: PreTrainedModel = model if "device_map" in arguments else model.to(device)
    home = execution_device(placed.get_input_embeddings())
    set_attention(placed, options.attn_implementation, device=home, dtype=dtype)
    return placed.requires_grad_(False)


def _pretrained(loader: Any, what: str, source: str, directory: Path, **options: Any) -> Any:
    """A transformers model read from this machine, without bars, and with every weight it needs."""
    folder = find_source(source, directory)
    try:
        with _quietly():
            model, report = loader.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **options
            )
    except Exception as error:  # each reader of these files fails in ways of its own
        raise CheckpointError(
            f"the {what} cannot be loaded",
            value=source,
            expected=str(error),
            hint="Run `mova models verify MODEL`.",
        ) from error
    absent = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if absent:  # transformers would go on with random weights in their place
        raise CheckpointError(
            f"the {what} lacks weights",
            value=", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else ""),
            expected="every weight to be present",
            hint="Run `mova models verify MODEL`.",
        )
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps transformers' bars, and its reports of what we check ourselves, off stderr."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def save_inside(model: PreTrainedModel, source: str, directory: Path) -> None:
    """Writes a part and its tokenizer into a checkpoint, if `source` says that it lies inside.

    LoRAs are left out: the checkpoint has folders of their own for them.
    """
    scheme, _, place = source.partition(":")
    if scheme != "inside":
        return
    if is_quantized(model) or any(weight.is_meta for weight in model.parameters()):
        raise CheckpointError(
            "a language model that is quantised or offloaded cannot be saved",
            expected="all of its bits in memory",
            hint="Load the checkpoint without quantization and device_map.",
        )
    own = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in own.items()}
    carries = getattr(model, "_hf_peft_config_loaded", False)
    model._hf_peft_config_loaded = False  # else transformers would write the LoRAs and nothing else
    try:
        model.save_pretrained(directory / place, state_dict=state)
    finally:
        model._hf_peft_config_loaded = carries
    load_tokenizer(f"file:{model.name_or_path}", directory).save_pretrained(directory / place)


def load_tokenizer(source: str, directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer beside a language model or text encoder.

    Raises:
        CheckpointError: if there is none.
    """
    from transformers import AutoTokenizer

    folder = find_source(source, directory)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each reader of these files fails in ways of its own
        raise CheckpointError("the tokenizer cannot be loaded", value=source, expected=str(error)) from error
    return tokenizer
