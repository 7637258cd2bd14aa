"""`MovaConfig`: what `config.json` of a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from transformers import PreTrainedConfig

from mova_core.cards.spec import Spec
from mova_core.errors import CheckpointError
from mova_core.model.settings import (
    AdapterSettings,
    LanguageSettings,
    PoolEntry,
    PromptSettings,
    RouterSettings,
    TextSettings,
)

S = TypeVar("S", bound=Spec)
Given = Mapping[str, Any] | Spec


class MovaConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Names and numbers of one model; weights and parts are elsewhere.

    Args:
        base: id of the base encoder.
        adapter: sizes of the MoV-Adapter.
        text_encoder: the adapter's text encoder.
        language_model: the language model.
        prompt: how conversations are written.
        router: the checkpoint's router.
        pool: the experts it was trained with (the pool manifest).
        cards: by expert or base encoder, what this checkpoint changes of its installed card, such as where
            the weights lie; see `mova_core.model.own_cards`.
        image_token_id: stands for an image token in `input_ids`; beyond the language model's vocabulary.
        fingerprint: of core, base and answering language model; see `mova_core.model.fingerprint`.
        **kwargs: as for any transformers configuration.

    Raises:
        CheckpointError: if a group lacks a key or holds a wrong value.
    """

    model_type = "mova"

    def __init__(
        self,
        base: str = "",
        adapter: Given | None = None,
        text_encoder: Given | None = None,
        language_model: Given | None = None,
        prompt: Given | None = None,
        router: Given | None = None,
        pool: Iterable[Given] = (),
        cards: Mapping[str, Mapping[str, Any]] | None = None,
        image_token_id: int | None = None,
        fingerprint: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base = base
        self.adapter = _plain(adapter)
        self.text_encoder = _plain(text_encoder)
        self.language_model = _plain(language_model)
        self.prompt = _plain(prompt or PromptSettings())
        self.router = _plain(router or RouterSettings())
        self.pool = [_plain(entry) for entry in pool]
        self.cards = {id: dict(changes) for id, changes in (cards or {}).items()}
        self.image_token_id: Any = image_token_id  # a number in every checkpoint: `read_config` sees to it
        self.fingerprint = fingerprint

    @property
    def adapter_settings(self) -> AdapterSettings:
        """Sizes of the MoV-Adapter, checked."""
        return _checked(AdapterSettings, self.adapter, "adapter")

    @property
    def text_settings(self) -> TextSettings:
        """The adapter's text encoder, checked."""
        return _checked(TextSettings, self.text_encoder, "text_encoder")

    @property
    def language_settings(self) -> LanguageSettings:
        """The language model, checked."""
        return _checked(LanguageSettings, self.language_model, "language_model")

    @property
    def prompt_settings(self) -> PromptSettings:
        """How conversations are written, checked."""
        return _checked(PromptSettings, self.prompt, "prompt")

    @property
    def router_settings(self) -> RouterSettings:
        """The router, checked."""
        return _checked(RouterSettings, self.router, "router")

    @property
    def manifest(self) -> tuple[PoolEntry, ...]:
        """The pool the model was trained with, checked."""
        return tuple(_checked(PoolEntry, entry, f"pool[{i}]") for i, entry in enumerate(self.pool))

    @property
    def image_tokens(self) -> int:
        """Tokens that one image takes in the language model: a quarter of the base grid."""
        h, w = self.adapter_settings.grid
        return max(1, h // 2) * max(1, w // 2)


def _plain(given: Given | None) -> dict[str, Any]:
    if isinstance(given, Spec):
        return given.model_dump(mode="json")
    return dict(given or {})


def _checked(kind: type[S], given: Mapping[str, Any], group: str) -> S:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([group, *map(str, first["loc"])])
        raise CheckpointError(
            f"config.json: {place}: {first['msg']}",
            hint="The checkpoint is incomplete; fetch or save it again.",
        ) from error
