"""How a language model is loaded: over which devices, in how many bits, and with which attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from mova_core.errors import ConfigError
from mova_core.model.devices import find_device
from mova_core.model.quantization import quantization_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLASH: Final = "flash_attention_2"
STRATEGIES: Final = ("auto", "balanced", "balanced_low_0", "sequential")
"""Words with which accelerate is asked to share a model out over the devices."""

DeviceMap = str | Mapping[str, int | str | torch.device]


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """How a language model is loaded.

    Args:
        device_map: how it is shared out: "auto" or another word of `STRATEGIES`, a device, or by module name
            a device, "cpu" or "disk", as for any transformers model; None for all of it on one device.
        max_memory: by device, how much of it "auto" may use, as for any transformers model.
        offload_folder: where weights go that are to lie on disk and do not lie in a safetensors file.
        quantization: see `quantization_config`; None for all bits.
        attn_implementation: a name of transformers; by default flash attention where it is installed and the
            model knows it on a GPU in 16 bits, else PyTorch's own. Routing reads branches side by side, for
            which flash attention has no mask; its passes use PyTorch's whatever is named here.

    Raises:
        ConfigError: an option that cannot be, or cannot be without another one.
    """

    device_map: DeviceMap | None = None
    max_memory: Mapping[int | str, int | str] | None = None
    offload_folder: str | Path | None = None
    quantization: str | Any | None = None
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.device_map, str) and self.device_map not in STRATEGIES:
            find_device(self.device_map)
        for name in ("max_memory", "offload_folder"):
            if getattr(self, name) is not None and self.device_map is None:
                raise ConfigError(
                    f"{name} says nothing without a device_map",
                    value=str(getattr(self, name)),
                    hint='Add device_map="auto".',
                )
        check_attention(self.attn_implementation)

    def arguments(self, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        """Arguments of transformers' `from_pretrained`."""
        known = self.attn_implementation in ("eager", "sdpa")
        found: dict[str, Any] = {
            "dtype": dtype,
            "attn_implementation": self.attn_implementation if known else "sdpa",
        }
        if self.quantization is not None:
            found["quantization_config"] = quantization_config(self.quantization, dtype)
        if self.device_map is not None:
            given = self.device_map if isinstance(self.device_map, str) else dict(self.device_map)
            found["device_map"] = given
            found["max_memory"] = None if self.max_memory is None else dict(self.max_memory)
            found["offload_folder"] = None if self.offload_folder is None else str(self.offload_folder)
        elif self.quantization is not None:  # what is quantised cannot be moved afterwards
            found["device_map"] = {"": device}
        return found


def check_attention(name: str | None) -> None:
    """Refuses attention that is not here; nothing is fetched to make up for it.

    Raises:
        ConfigError: flash attention is not installed, or a kernel of the hub is named.
    """
    if name is not None and "/" in name:
        raise ConfigError(
            "kernels are not fetched from the hub", value=name, expected="an attention that is installed"
        )
    if name == FLASH and not _flash_is_installed():
        raise ConfigError(
            "flash attention is not installed, or there is no GPU for it",
            value=name,
            hint='Use attn_implementation="sdpa", or on a GPU run `pip install flash-attn`.',
        )


def default_attention(device: torch.device, dtype: torch.dtype, *, known: bool) -> str:
    """The fastest attention that gives right answers.

    Args:
        device: where the language model runs.
        dtype: in which it computes.
        known: whether the model's code can use flash attention.
    """
    short = dtype in (torch.bfloat16, torch.float16)  # flash attention takes no other
    return FLASH if device.type == "cuda" and short and known and _flash_is_installed() else "sdpa"


def set_attention(
    model: PreTrainedModel, name: str | None, *, device: torch.device, dtype: torch.dtype
) -> None:
    """Gives a loaded language model its attention.

    Args:
        model: the language model.
        name: a name of transformers; None for `default_attention`.
        device: where it runs.
        dtype: in which it computes.

    Raises:
        ConfigError: the model cannot use it.
    """
    if name is None:
        name = default_attention(device, dtype, known=model._supports_flash_attn)
        if name != FLASH:
            return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            "the language model cannot use this attention", value=name, expected=str(error)
        ) from error


def _flash_is_installed() -> bool:
    from transformers.utils.import_utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())
