"""`MovaForConditionalGeneration`: base encoder, MoV-Adapter and language model as one transformers model.

Notation for tensor shapes:
    b: conversations, i: images of all of them in order, n: base tokens, c: base channels, m: fused tokens of
    an image, s: text tokens, v: vocabulary, d: width of the language model, t: width of the text feature,
    n_r: routing tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from mova_core.errors import InputError
from mova_core.experts.features import RoutedFeatures
from mova_core.experts.protocol import VisionExpert
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.grids import pool_tokens
from mova_core.fusion.output import FusionOutput
from mova_core.fusion.text import TextEncoder
from mova_core.model.config import MovaConfig
from mova_core.model.lora import Loras

if TYPE_CHECKING:
    from typing import Self


class MovaForConditionalGeneration(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A vision-language model whose image tokens are fused from the experts that were chosen for a question.

    The experts themselves are not part of the model: their features come in, by name, for just the images
    that chose them (`mova_core.experts.pool`). Routing is done by a `Router` (`mova_core.model.routers`).

    Args:
        config: names and numbers.
        base: the base encoder.
        text_encoder: encodes the questions for the adapter's gate.
        adapter: core and packs.
        language_model: any causal language model of transformers.

    Attributes:
        home: the checkpoint directory it was loaded from; None for a model that was built otherwise.
    """

    home: Path | None = None
    config: MovaConfig
    config_class = MovaConfig
    main_input_name = "input_ids"

    def __init__(
        self,
        config: MovaConfig,
        *,
        base: VisionExpert,
        text_encoder: TextEncoder,
        adapter: MovAdapter,
        language_model: PreTrainedModel,
    ) -> None:
        super().__init__(config)
        self.base = base
        self.text_encoder = text_encoder
        self.adapter = adapter
        self.language_model = language_model
        self.loras = Loras(language_model)

    @classmethod
    def from_pretrained(cls, directory: str | Path, **options: Any) -> Self:  # type: ignore[override]
        """Loads a checkpoint directory; see `mova_core.model.checkpoint.load_model`."""
        from mova_core.model.checkpoint import load_model

        return load_model(cls, Path(directory), **options)

    def save_pretrained(self, directory: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Writes a checkpoint directory; see `mova_core.model.checkpoint.save_model`."""
        from mova_core.model.checkpoint import save_model

        save_model(self, Path(directory))

    def get_input_embeddings(self) -> torch.nn.Module:
        """The language model's token embedding."""
        table: torch.nn.Module = self.language_model.get_input_embeddings()
        return table

    @torch.no_grad()
    def encode_base(self, pixel_values: Tensor) -> Tensor:
        """Base features [i, n, c] of prepared pictures [i, 3, h, w]."""
        first = next(self.base.parameters())
        tokens: Tensor = self.base(pixel_values.to(first)).tokens
        return tokens

    @torch.no_grad()
    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Text features [i, t] of tokenised questions [i, s]."""
        feature: Tensor = self.text_encoder(input_ids, attention_mask)
        return feature

    def fuse(
        self, base: Tensor, features: Mapping[str, RoutedFeatures], text: Tensor, *, explain: bool = False
    ) -> FusionOutput:
        """Image tokens [i, m, d] from base features [i, n, c], expert features and text features [i, t]."""
        output: FusionOutput = self.adapter(base, features, text, explain=explain)
        return output

    def routing_tokens(self, base: Tensor, text: Tensor) -> Tensor:
        """What the router sees: the fused tokens of no expert, pooled; [i, n_r, d]."""
        output = self.fuse(base, {}, text)
        return pool_tokens(output.tokens, output.grid, self.config.adapter_settings.routing_grid)

    def embed(self, input_ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Text embeddings with image tokens in the places of the image token.

        Args:
            input_ids: [b, s].
            image_tokens: [i, m, d], in the order of their places.

        Returns:
            [b, s, d].

        Raises:
            InputError: if the places do not number i * m.
        """
        places = input_ids == self.config.image_token_id  # [b, s]
        wanted = image_tokens.shape[0] * image_tokens.shape[1]
        if int(places.sum()) != wanted:
            raise InputError(
                "image tokens and their places do not match",
                value=f"{int(places.sum())} places",
                expected=f"{wanted} for {image_tokens.shape[0]} images",
                hint="Write input_ids with MovaProcessor.",
            )
        words: Tensor = self.get_input_embeddings()(input_ids.masked_fill(places, 0))  # [b, s, d]
        places = places.to(words.device)
        return words.masked_scatter(places[..., None], image_tokens.to(words))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        base_features: Tensor | None = None,
        text_input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        text_features: Tensor | None = None,
        expert_features: Mapping[str, RoutedFeatures] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One answering pass.

        Args:
            input_ids: [b, s], with the image token wherever an image token goes.
            attention_mask: [b, s].
            labels: [b, s], -100 where nothing is to be learned.
            pixel_values: [i, 3, h, w] in the base encoder's stream; or give `base_features`.
            base_features: [i, n, c], where they are known already.
            text_input_ids: [i, s] of the text encoder's tokenizer; or give `text_features`.
            text_attention_mask: [i, s].
            text_features: [i, t], where they are known already.
            expert_features: of the chosen experts, by id; rows count images.
            **kwargs: for the language model.

        Returns:
            Logits [b, s, v] of the language model. With labels: the mean loss over the p labelled tokens, and
            the logits [p, v] of just these, because a vocabulary's logits at every place cost more than the
            model.
        """
        tokens = self._image_tokens(
            pixel_values, base_features, text_input_ids, text_attention_mask, text_features, expert_features
        )
        embeds = self.embed(input_ids, tokens)
        with self.loras.on("answer"):
            if labels is None:
                output: CausalLMOutputWithPast = self.language_model(
                    inputs_embeds=embeds, attention_mask=attention_mask, **kwargs
                )
                return output
            decoder: Any = self.language_model.get_decoder()  # type: ignore[no-untyped-call]
            hidden = decoder(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs).last_hidden_state
        told = labels[:, 1:] != -100  # [b, s - 1]
        head: Any = self.language_model.get_output_embeddings()  # type: ignore[no-untyped-call]
        logits = head(hidden[:, :-1][told.to(hidden.device)]).float()  # [p, v]
        return CausalLMOutputWithPast(
            loss=torch.nn.functional.cross_entropy(logits, labels[:, 1:][told].to(logits.device)),
            logits=logits,
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        image_tokens: Tensor | None = None,
        pixel_values: Tensor | None = None,
        text_input_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        expert_features: Mapping[str, RoutedFeatures] | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Writes answers.

        Args:
            input_ids: [b, s], padded on the left.
            attention_mask: [b, s].
            image_tokens: [i, m, d], where the images are fused already; otherwise give the rest as in
                `forward`.
            pixel_values, text_input_ids, text_attention_mask, expert_features: as in `forward`.
            generation_config, **kwargs: as for any transformers model.

        Returns:
            The new tokens, [b, new].
        """
        if image_tokens is None:
            image_tokens = self._image_tokens(
                pixel_values, None, text_input_ids, text_attention_mask, None, expert_features
            )
        with self.loras.on("answer"):
            written: Tensor = self.language_model.generate(  # type: ignore[operator]
                inputs_embeds=self.embed(input_ids, image_tokens),
                attention_mask=attention_mask,
                generation_config=generation_config,
                **kwargs,
            )
        return written

    def _image_tokens(
        self,
        pixel_values: Tensor | None,
        base_features: Tensor | None,
        text_input_ids: Tensor | None,
        text_attention_mask: Tensor | None,
        text_features: Tensor | None,
        expert_features: Mapping[str, RoutedFeatures] | None,
    ) -> Tensor:
        if base_features is None:
            if pixel_values is None:
                width = self.config.language_settings.width
                return torch.zeros(0, self.config.image_tokens, width, device=self.adapter.position.device)
            base_features = self.encode_base(pixel_values)
        if text_features is None:
            if text_input_ids is None or text_attention_mask is None:
                raise InputError(
                    "images come without the questions that fusion depends on",
                    expected="text_input_ids and text_attention_mask, one row an image",
                    hint="Prepare inputs with MovaProcessor.",
                )
            text_features = self.encode_text(text_input_ids, text_attention_mask)
        return self.fuse(base_features, expert_features or {}, text_features).tokens

    def _init_weights(self, module: Sequence[Any] | torch.nn.Module) -> None:
        """Nothing: every part comes with its weights, or starts as its own constructor says."""
