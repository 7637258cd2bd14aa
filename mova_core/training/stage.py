"""Training stages as modules: what is trained, and what loss a batch has.

Notation for tensor shapes:
    b: samples, n: base tokens, c: channels, m: fused tokens, d: width of the language model, w: words, s:
    text tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mova_core.experts.features import ExpertFeatures, RoutedFeatures
from mova_core.model.modeling import MovaForConditionalGeneration

Routed = Mapping[str, Mapping[str, Tensor]]
"""By expert id: `rows` [k] and `tokens` [k, n, c]; plain tensors, so that a trainer can move them."""


def routed(features: Routed, grids: Mapping[str, tuple[int, int]]) -> dict[str, RoutedFeatures]:
    """The features as the adapter takes them."""
    return {
        id: RoutedFeatures(ExpertFeatures(each["tokens"], grids[id]), tuple(each["rows"].tolist()))
        for id, each in features.items()
    }


class Stage(nn.Module):
    """A model with the loss of one stage; subclasses say which groups of weights it trains.

    Args:
        model: the model; everything in it is frozen but the stage's groups.
        grids: grid of each expert's features.
    """

    def __init__(self, model: MovaForConditionalGeneration, grids: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.model = model
        self.grids = dict(grids)
        model.requires_grad_(False)

    def train(self, mode: bool = True) -> Stage:
        """Sets the mode of what is trained; frozen encoders stay in evaluation mode, without dropout."""
        super().train(mode)
        self.model.base.eval()
        self.model.text_encoder.eval()
        return self

    def groups(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        """Named groups of trained weights, each with a learning rate of its own."""
        yield "adapter", list(self.model.adapter.parameters())

    def unfreeze(self) -> None:
        """Turns gradients on for the groups."""
        for _, parameters in self.groups():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def lora(self, name: str) -> list[nn.Parameter]:
        """Weights of one LoRA."""
        return [
            p
            for key, p in self.model.language_model.named_parameters()
            if f".{name}." in key and "lora_" in key
        ]


class AlignStage(Stage):
    """Fused tokens learn to name what is on their cell, in the language model's own word embeddings.

    No pass of the language model is needed, so it is thousands of samples a minute. The idea is
    pre-alignment: train the way into a frozen language model before the language model learns to use it
    (Eagle, arXiv:2408.15998).

    Args:
        model: the model.
        grids: grid of each expert's features.
        words: [w, d] embeddings of the words, in the order of the targets.
    """

    directions: Tensor
    centre: Tensor
    length: Tensor

    def __init__(
        self, model: MovaForConditionalGeneration, grids: Mapping[str, tuple[int, int]], words: Tensor
    ) -> None:
        super().__init__(model, grids)
        words = words.float()
        directions = F.normalize(words - words.mean(0), dim=1)  # [w, d]
        self.register_buffer("directions", directions, persistent=False)
        self.register_buffer("centre", words.mean(0), persistent=False)
        self.register_buffer("length", words.norm(dim=1).mean(), persistent=False)
        self.scale = nn.Parameter(torch.tensor(16.0))
        self.bias = nn.Parameter(torch.tensor(-6.0))

    def groups(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        yield "adapter", [*self.model.adapter.parameters(), self.scale, self.bias]

    def forward(
        self, base_features: Tensor, text_features: Tensor, targets: Tensor, experts: Routed, **_: Any
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            base_features: [b, n, c].
            text_features: [b, t].
            targets: [b, m, w], share of each cell that a word is true of.
            experts: features of the chosen experts.
        """
        fused = self.model.fuse(base_features, routed(experts, self.grids), text_features)
        tokens = fused.tokens.float()  # [b, m, d]
        heading = F.normalize(tokens - self.centre, dim=2)  # [b, m, d]
        logits = self.scale * heading @ self.directions.T + self.bias  # [b, m, w]
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        unsure = (torch.sigmoid(logits.detach()) - targets).abs()
        named = (loss * unsure).sum() / targets.sum().clamp(min=1.0)
        length = (tokens.norm(dim=2) / self.length - 1).square().mean()
        return {"loss": named + 0.1 * length, "logits": logits}


class SftStage(Stage):
    """Answers are learned with the adapter and the answering LoRA (paper, section 3.4, fine-tuning)."""

    def groups(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        yield "adapter", list(self.model.adapter.parameters())
        yield "answer", self.lora("answer")

    def forward(
        self,
        base_features: Tensor,
        text_features: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        experts: Routed,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Loss of a batch: tensors as `MovaForConditionalGeneration.forward` takes them."""
        output = self.model(
            input_ids,
            attention_mask,
            labels,
            base_features=base_features,
            text_features=text_features,
            expert_features=routed(experts, self.grids),
        )
        return {"loss": output.loss}
