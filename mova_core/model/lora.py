"""The two LoRAs of a language model, `answer` and `router`, of which at most one is on in a pass."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mova_core.errors import CheckpointError
from mova_core.routing.placed import execution_device

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

LoraName = Literal["answer", "router"]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Loras:
    """Switches the LoRAs of one language model.

    Args:
        model: any causal language model of transformers; its layers are replaced in place by peft.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._names: set[str] = set()
        self._on: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """LoRAs that are there, sorted."""
        return tuple(sorted(self._names))

    def add(self, name: LoraName, config: LoraConfig) -> None:
        """Adds a fresh, frozen LoRA, which changes nothing until it is trained."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two LoRAs are what we want
            self._model.add_adapter(config, adapter_name=name)
        _bring_home(self._model, name, config)
        self._names.add(name)
        self._model.disable_adapters()
        self._on = None

    def load(self, name: LoraName, folder: Path) -> None:
        """Reads a LoRA that `save` wrote.

        Raises:
            CheckpointError: if the folder's files cannot be read or do not fit the language model.
        """
        try:
            self._read(name, folder)
        except Exception as error:  # peft, safetensors and json each fail in ways of their own
            raise CheckpointError(
                f"the {name} LoRA cannot be read",
                value=str(folder),
                expected=f"files written by save_pretrained ({type(error).__name__}: {error})",
                hint="Fetch or train the checkpoint again.",
            ) from error

    def _read(self, name: LoraName, folder: Path) -> None:
        from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict

        # Read here, and not by transformers: it would make do with random weights in place of absent ones,
        # and report those of the other LoRA as absent.
        state = load_file(folder / WEIGHTS)
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(f"no {CONFIG}")  # peft would ask the hub for it
        self.add(name, PeftConfig.from_pretrained(str(folder)))
        own = get_peft_model_state_dict(self._model, adapter_name=name)
        wrong = {(k, v.shape) for k, v in own.items()} ^ {(k, v.shape) for k, v in state.items()}
        if wrong:
            raise ValueError(f"{min(wrong)[0]} does not fit the language model")
        set_peft_model_state_dict(self._model, state, adapter_name=name)

    def save(self, name: LoraName, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Writes one LoRA in peft's layout, in that dtype or its own."""
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        config = copy.copy(self._model.peft_config[name])
        config.inference_mode = True
        config.base_model_name_or_path = None  # a path of this machine; config.json names the source
        config.save_pretrained(folder)
        state = get_peft_model_state_dict(self._model, adapter_name=name)
        save_file({k: v.detach().to("cpu", dtype).contiguous() for k, v in state.items()}, folder / WEIGHTS)

    @contextmanager
    def on(self, name: LoraName | None) -> Iterator[None]:
        """Runs the body with one LoRA on (none, if the model does not have it), then restores what was on."""
        before = self._on
        self._switch(name if name in self._names else None)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, name: str | None) -> None:
        if name == self._on or not self._names:
            return
        # peft freezes a LoRA that it switches off, and its weights then get no gradient from a backward pass
        # that follows; what is trained is for the trainer to say.
        weights = [p for key, p in self._model.named_parameters() if "lora_" in key]
        trained = [p.requires_grad for p in weights]
        if name is None:
            self._model.disable_adapters()
        else:
            if self._on is None:
                self._model.enable_adapters()
            self._model.set_adapter(name)
        for parameter, wanted in zip(weights, trained, strict=True):
            parameter.requires_grad_(wanted)
        self._on = name


def _bring_home(model: nn.Module, name: str, config: LoraConfig) -> None:
    """Gives a LoRA real weights where its layers compute.

    Layers that accelerate keeps in memory or on disk until they are needed have no weights to go by, and peft
    leaves their LoRAs without any, too.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for module in layers:
        home = execution_device(module.get_base_layer())
        parts = [getattr(module, kind) for kind in module.adapter_layer_names]
        absent = [each for each in parts if name in each and _is_absent(each[name])]
        for each in absent:
            each[name] = _made_real(each[name], home)
        if absent:
            module.reset_lora_parameters(name, config.init_lora_weights)


def _is_absent(part: nn.Module | nn.Parameter) -> bool:
    return part.is_meta if isinstance(part, nn.Parameter) else any(w.is_meta for w in part.parameters())


def _made_real(part: nn.Module | nn.Parameter, home: torch.device) -> nn.Module | nn.Parameter:
    if isinstance(part, nn.Parameter):
        return nn.Parameter(torch.empty_like(part, device=home))
    return part.to_empty(device=home)
