"""The two LoRAs of a language model, `answer` and `router`, of which at most one is on in a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mova_core.errors import CheckpointError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

LoraName = Literal["answer", "router"]


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
        """Adds a fresh LoRA, which changes nothing until it is trained."""
        self._model.add_adapter(config, adapter_name=name)
        self._added(name)

    def load(self, name: LoraName, folder: Path) -> None:
        """Reads a LoRA that `save` wrote.

        Raises:
            CheckpointError: if the folder's files cannot be read or do not fit the language model.
        """
        try:
            self._model.load_adapter(str(folder), adapter_name=name)
        except Exception as error:  # peft, safetensors and json each fail in ways of their own
            raise CheckpointError(
                f"the {name} LoRA cannot be read",
                value=str(folder),
                expected=f"files written by save_pretrained ({type(error).__name__}: {error})",
                hint="Fetch or train the checkpoint again.",
            ) from error
        self._added(name)

    def save(self, name: LoraName, folder: Path) -> None:
        """Writes one LoRA in peft's layout."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = self._model.peft_config[name]
        inference = config.inference_mode
        config.inference_mode = True
        config.save_pretrained(folder)
        config.inference_mode = inference
        state = get_peft_model_state_dict(self._model, adapter_name=name)
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / "adapter_model.safetensors"
        )

    @contextmanager
    def on(self, name: LoraName | None) -> Iterator[None]:
        """Runs the body with one LoRA on (none, if the model does not have it), then restores what was on."""
        before = self._on
        self._switch(name if name in self._names else None)
        try:
            yield
        finally:
            self._switch(before)

    def _added(self, name: str) -> None:
        self._names.add(name)
        self._model.disable_adapters()
        self._on = None

    def _switch(self, name: str | None) -> None:
        if name == self._on or not self._names:
            return
        if name is None:
            self._model.disable_adapters()
        else:
            if self._on is None:
                self._model.enable_adapters()
            self._model.set_adapter(name)
        self._on = name
