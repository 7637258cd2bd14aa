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
from mova_core.model.settings import LanguageSettings, TextSettings
from mova_core.model.sources import find_source, find_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_base(id: str, *, dtype: torch.dtype, device: torch.device) -> VisionExpert:
    """The base encoder of that id, frozen.

    Raises:
        ExpertLoadError: if it is not installed, is no base encoder, or cannot be loaded.
    """
    from mova_core.cards.resolve import usable_expert
    from mova_core.experts.loading import load_expert

    record = usable_expert(id)
    if record.card is None or record.card.role != "base":
        raise ExpertLoadError(
            "this expert is no base encoder", value=id, expected='a card with role = "base"'
        )
    if record.card.isolation == "process":
        raise ExpertLoadError(
            "a model's base encoder runs in the model's own process",
            value="isolation 'process'",
            expected="isolation 'none'",
            hint=f"Change the card of {id}.",
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
    settings: LanguageSettings, directory: Path, *, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """The language model, frozen; its LoRAs come later.

    Raises:
        CheckpointError: if its folder holds no causal language model that transformers knows.
    """
    from transformers import AutoModelForCausalLM

    model = _pretrained(
        AutoModelForCausalLM,
        "language model",
        settings.source,
        directory,
        dtype=dtype,
        attn_implementation="sdpa",
    )
    placed: PreTrainedModel = model.to(device).requires_grad_(False)
    return placed


def _pretrained(loader: Any, what: str, source: str, directory: Path, **options: Any) -> Any:
    """A transformers model read from this machine, without bars, and with every weight it needs."""
    folder = find_source(source, directory)
    try:
        with _without_progress_bars():
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
def _without_progress_bars() -> Iterator[None]:
    """Keeps transformers' bars for the reading of local files, which takes a moment, off stderr."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def save_inside(model: PreTrainedModel, source: str, directory: Path) -> None:
    """Writes a part and its tokenizer into a checkpoint, if `source` says that it lies inside.

    LoRAs are left out: the checkpoint has folders of their own for them.
    """
    scheme, _, place = source.partition(":")
    if scheme != "inside":
        return
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
