"""The routing pass: constrained letters and judged descriptions, against sixteen free tokens.

All three read the same image tokens and the seven descriptions with one random language model of about the
size of SmolLM2-135M. The reference writes sixteen tokens greedily with a cache, as the release does when
nothing ends its answer.

Notation for tensor shapes:
    n_r: routing tokens of an image, d: width of the language model, s: tokens of a prompt
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_uppercase
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import race
from benchmarks.results import Result, Row
from benchmarks.sizes import Sizes
from mova_core.routing.language import RoutingLanguageModel
from mova_core.routing.listwise import ListwiseRouter
from mova_core.routing.pointwise import PointwiseRouter

FREE = 16
"""Tokens that the reference writes."""

MOST = 3
"""The most experts of a route."""


@dataclass(frozen=True, slots=True)
class Described:
    """An expert on offer."""

    id: str
    descriptions: tuple[str, ...]


OFFERED = (
    Described("biomedclip", ("Understands pictures from medicine and biology: scans, X-rays, microscopy.",)),
    Described("codetr", ("Finds and counts things in photographs, small and crowded ones, too.",)),
    Described("deplot", ("Reads charts and plots and tells the numbers in them as a table.",)),
    Described("dinov2", ("Sees what is where: scenes, parts of things, which is before which.",)),
    Described("pix2struct", ("Reads pages, forms, screens and drawings together with their layout.",)),
    Described("sam", ("Traces outlines: where one thing ends and the next begins.",)),
    Described("vary", ("Reads dense print: pages of books and papers, letter for letter.",)),
)
QUESTIONS = (
    "What does the sign at the left of the entrance say?",
    "Which of the two bars is higher, and by how much?",
    "Is there anything unusual in the upper part of this scan?",
    "How many people are sitting at the table near the window?",
)


def routing(sizes: Sizes) -> Iterator[Row]:
    """The listwise and the pointwise router."""
    language = build_language(sizes)
    image = torch.randn(sizes.routing_tokens, sizes.routing_width) * 0.02
    steps = StepCounter(language.model)
    listwise, pointwise = ListwiseRouter(language, k=MOST), PointwiseRouter(language, k=MOST)
    # The question whose answer has most letters: a random model may well say "none" at once.
    asked = max(QUESTIONS, key=lambda text: steps.of(lambda: listwise.route([image], [text], OFFERED)))
    timed = race(
        {
            "free": lambda: free_tokens(language, image, asked),
            "listwise": lambda: listwise.route([image], [asked], OFFERED),
            "pointwise": lambda: pointwise.route([image], [asked], OFFERED),
        },
        rounds=sizes.routing_rounds,
    )
    free = timed.median("free")
    for router in (listwise, pointwise):
        taken = steps.of(partial(router.route, [image], [asked], OFFERED)) - 1
        allowed = MOST + 1 if router is listwise else 0
        seconds = timed.median(router.name)
        yield Row(
            Result(f"routing, {router.name}", free / seconds, None, seconds, timed.peak(router.name)),
            (1.3, None),
            f"{taken} decoding steps after reading the prompt, {allowed} allowed; "
            f"the reference takes {FREE - 1} and {free:.3f} s",
        )


class StepCounter:
    """Counts the passes of a language model.

    Args:
        model: the language model.
    """

    def __init__(self, model: Any) -> None:
        self._passes = 0
        model.get_decoder().register_forward_hook(self._count)

    def of(self, run: Any) -> int:
        """The passes that something takes."""
        before = self._passes
        run()
        return self._passes - before

    def _count(self, *_: object) -> None:
        self._passes += 1


def free_tokens(language: RoutingLanguageModel, image: Tensor, asked: str) -> Tensor:
    """Sixteen tokens [1, 16], written greedily after a prompt that lists the experts under letters."""
    model: Any = language.model
    words = model.get_input_embeddings()
    head, tail = (
        words(torch.tensor(language.encode(text), dtype=torch.long))
        for text in ("<|im_start|>user\n", listed(asked, [expert.descriptions[0] for expert in OFFERED]))
    )
    embeds = torch.cat([head, image, tail])[None]  # [1, s, d]
    written: Tensor = model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=FREE,
        min_new_tokens=FREE,
        do_sample=False,
    )
    return written


def listed(asked: str, descriptions: Sequence[str]) -> str:
    """What follows the image in a listwise prompt."""
    lines = [f"{letter}: {text}" for letter, text in zip(ascii_uppercase, descriptions, strict=False)]
    return (
        "\nExperts:\n" + "\n".join(lines) + f"\nQuestion: {asked}\n"
        "Which experts help to answer the question? Answer with their letters, or none.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def build_language(sizes: Sizes) -> RoutingLanguageModel:
    """A Llama with random weights, and a tokenizer made of the prompts' own words."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer([text for expert in OFFERED for text in expert.descriptions])
    heads = max(1, sizes.routing_width // 64)
    config = LlamaConfig(
        hidden_size=sizes.routing_width,
        intermediate_size=sizes.routing_width * 8 // 3,
        num_hidden_layers=sizes.routing_layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 3),
        vocab_size=49152,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    return RoutingLanguageModel(model.eval(), tokenizer)


def build_tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE that knows the words of some texts and of the routing prompts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = [listed(question, texts) for question in QUESTIONS] * 5 + ["yes", "no", "none", "A, B, C, D"] * 20
    core.train_from_iterator(words, trainer)
    make: Any = PreTrainedTokenizerFast  # typed in no release of transformers
    return make(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
