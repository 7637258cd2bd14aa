"""Language models with their weights in 8 or 4 bits, through bitsandbytes."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

import torch

from mova_core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Quantization = Literal["8bit", "4bit"]
QUANTIZATIONS: Final = ("8bit", "4bit")


def quantization_config(wanted: str | Any, dtype: torch.dtype) -> Any:
    """What transformers is told.

    Args:
        wanted: "8bit" (LLM.int8), "4bit" (NF4, computed in `dtype`), or a quantisation configuration of
            transformers, which is handed on as it is.
        dtype: of what is computed.

    Raises:
        ConfigError: for another word, or if bitsandbytes is not installed.
    """
    from transformers.utils.quantization_config import BitsAndBytesConfig, QuantizationConfigMixin

    if not isinstance(wanted, (str, QuantizationConfigMixin)) or (
        isinstance(wanted, str) and wanted not in QUANTIZATIONS
    ):
        raise ConfigError(
            "unknown quantisation",
            value=wanted,
            expected=f"{' or '.join(QUANTIZATIONS)}, or a quantisation configuration of transformers",
        )
    if isinstance(wanted, (str, BitsAndBytesConfig)) and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "quantisation needs the package bitsandbytes, which is not installed",
            hint="Run `pip install 'mova-core[quantization]'`.",
        )
    if not isinstance(wanted, str):
        return wanted
    # It says once a layer and pass that activations become float16, which is how LLM.int8 works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if wanted == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether a model's weights are not the numbers it was trained with."""
    return getattr(model, "hf_quantizer", None) is not None
