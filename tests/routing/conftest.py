"""A vocabulary, language models and pools that are small, random and the same in every run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from mova_core.routing import RoutingLanguageModel

WIDTH = 32


@dataclass(frozen=True)
class Expert:
    id: str
    descriptions: tuple[str, ...]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: letters and common words are single tokens, "AA" and "none" are several."""
    specials = ["<unk>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    corpus = ["yes no"] * 20 + ["A, B, C, D"] * 10 + ["yes", "no"] * 20
    core.train_from_iterator([*corpus, "what is read, outlined or counted in this picture?"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", additional_special_tokens=specials[1:]
    )


@cache
def _model(kind: str, seed: int, attention: str, context: int) -> PreTrainedModel:
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 340,
        "max_position_embeddings": context,
        "initializer_range": 0.4,  # wide enough for answers to differ
        "attn_implementation": attention,
    }
    torch.manual_seed(seed)
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind](**shape)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """Makes a random language model of one's own; equal arguments give equal weights."""

    def make(
        kind: str = "llama", seed: int = 0, attention: str = "sdpa", context: int = 4096
    ) -> PreTrainedModel:
        return copy.deepcopy(_model(kind, seed, attention, context))

    return make


@pytest.fixture(scope="session")
def tiny_language(
    tokenizer: PreTrainedTokenizerFast, tiny_model: Callable[..., PreTrainedModel]
) -> Callable[..., RoutingLanguageModel]:
    """Makes a random language model that routes."""

    @cache
    def make(
        kind: str = "llama", seed: int = 0, attention: str = "sdpa", context: int = 4096
    ) -> RoutingLanguageModel:
        return RoutingLanguageModel(tiny_model(kind, seed, attention, context), tokenizer)

    return make


@pytest.fixture(scope="session")
def tiny_pool() -> Callable[..., list[Expert]]:
    """Makes n experts with two wordings each."""

    def make(n: int) -> list[Expert]:
        skills = (
            "reads small print",
            "outlines regions",
            "counts objects in a crowd",
            "sees charts",
            "looks",
        )
        return [
            Expert(
                f"expert-{place:02d}",
                (f"{skills[place % 5]} number {place}", f"{place}: {skills[place % 5]}"),
            )
            for place in range(n)
        ]

    return make


@pytest.fixture(scope="session")
def tiny_images() -> Callable[..., list[Tensor]]:
    """Makes n images of different numbers of routing tokens."""

    def make(n: int, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(2 + place % 3, WIDTH, generator=generator) for place in range(n)]

    return make


@pytest.fixture(scope="session")
def encode_words() -> Callable[[Sequence[str]], Tensor]:
    """A sentence encoder that counts words: texts are alike as far as they share some."""

    places: dict[str, int] = {}

    def encode(texts: Sequence[str]) -> Tensor:
        features = torch.zeros(len(texts), 256)
        for row, text in enumerate(texts):
            for word in text.lower().replace("?", "").split():
                features[row, places.setdefault(word, len(places))] += 1
        return features

    return encode
