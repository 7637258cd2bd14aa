"""`torch.compile` for the parts of a model that run again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mova_core.errors import ConfigError

if TYPE_CHECKING:
    from mova_core.model.modeling import MovaForConditionalGeneration

MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

Compile = bool | str | Mapping[str, Any]
"""Whether to compile; in which mode of `torch.compile`; or with which of its keyword arguments."""


def compile_arguments(how: Compile) -> dict[str, Any] | None:
    """Keyword arguments of `torch.compile`; None for not at all.

    Raises:
        ConfigError: for a mode that torch does not know.
    """
    if isinstance(how, bool):
        return {} if how else None
    if isinstance(how, str):
        if how not in MODES:
            raise ConfigError("unknown mode of torch.compile", value=how, expected=", ".join(MODES))
        return {"mode": how}
    return dict(how)


def compile_model(model: MovaForConditionalGeneration, how: Compile) -> None:
    """Compiles the adapter and the language model's layers in place; names of weights stay the same.

    Compiling happens in the first passes, and again for what is new to it: the other LoRA, a first cache, a
    picture without experts. Answers are the same, up to rounding.

    Raises:
        ConfigError: for an unknown mode, or if the language model is spread over devices or offloaded.
    """
    arguments = compile_arguments(how)
    if arguments is None:
        return
    if getattr(model.language_model, "hf_device_map", None):
        raise ConfigError(
            "a language model that is spread over devices cannot be compiled",
            expected="all of it on one device",
            hint="Leave out device_map, or compile.",
        )
    decoder: Any = model.language_model.get_decoder()  # type: ignore[no-untyped-call]
    decoder.compile(**arguments)
    model.adapter.compile(**arguments)
