"""The numbers and names that describe a model, as `config.json` holds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mova_core.cards.spec import Identifier, Spec, Text

PositiveInt = Annotated[int, Field(gt=0)]
Sides = tuple[PositiveInt, PositiveInt]


class AdapterSettings(Spec):
    """Sizes of the MoV-Adapter.

    Args:
        width: channels of the base tokens.
        heads: attention heads.
        grid: (h, w) of the base tokens.
        depth: blocks.
        ffn_ratio: hidden width of the feed-forward layers as a multiple of `width`.
        max_experts: the most experts that count for one image.
        routing_grid: (h, w) of the tokens the router sees, pooled from the fused ones.
    """

    width: PositiveInt
    heads: PositiveInt
    grid: Sides
    depth: PositiveInt = 3
    ffn_ratio: Annotated[float, Field(gt=0)] = 8 / 3
    max_experts: PositiveInt = 3
    routing_grid: Sides


class TextSettings(Spec):
    """The adapter's text encoder.

    Args:
        source: where its weights and tokenizer are (`part:MODEL/PART`, `hf:OWNER/NAME`, `file:PATH`,
            `inside:FOLDER`).
        pooling: "cls" as in the paper, or "mean" for sentence encoders.
        width: width of the text feature.
    """

    source: Text
    pooling: Literal["cls", "mean"] = "cls"
    width: PositiveInt


class LanguageSettings(Spec):
    """The language model.

    Args:
        source: where its weights and tokenizer are, as for `TextSettings`.
        width: its hidden size.
    """

    source: Text
    width: PositiveInt


class PromptSettings(Spec):
    """How a conversation is written down, for the answering pass and around a routing question.

    Args:
        begin: what stands before the first turn, such as a system turn.
        user: one user turn, with `{images}` and `{question}`.
        assistant: one answered turn, with `{answer}`.
        image_token: stands for one image token in the text.
        image_end: what follows the tokens of each image.
        stop: text that ends an answer.
        tokenizer_begins: whether the tokenizer's own beginning, where it has one, stands before `begin`.
    """

    begin: str = ""
    user: str = "<|im_start|>user\n{images}{question}<|im_end|>\n<|im_start|>assistant\n"
    assistant: str = " {answer}<|im_end|>\n"
    image_token: str = "<image>"
    image_end: str = "\n"
    stop: str = "<|im_end|>"
    tokenizer_begins: bool = False


class ListwiseSettings(Spec):
    """The words with which a listwise router asks, between the marks of a user turn.

    Args:
        before_image, after_image, line, separator, none: as for `mova_core.routing.prompt.ListwisePrompt`.
        order: ids in the order of their labels; experts not named follow by id.
        descriptions: by id, what stands in place of the first description of the expert's card.
    """

    before_image: str = ""
    after_image: str
    line: str = "{label}: {description}"
    separator: str = ", "
    none: str = "none"
    order: tuple[Identifier, ...] = ()
    descriptions: dict[Identifier, Text] = {}


class RouterSettings(Spec):
    """The checkpoint's own router.

    Args:
        kind: "pointwise"; "listwise"; or "free", which reads whatever the language model writes as the
            released MoVA does.
        max_experts: the most experts a route holds; "free" knows no such bound.
        bias, temperature, threshold: calibration of a pointwise router, see `mova_core.routing.calibration`.
        branch: what a pointwise router asks of one description, as it was trained to read it; our own words
            without it.
        listwise: the words of a listwise or free router; our own without them.
    """

    kind: Literal["pointwise", "listwise", "free"] = "pointwise"
    max_experts: PositiveInt = 3
    bias: float = 0.0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    branch: Annotated[str, Field(pattern=r"\{description\}")] | None = None
    listwise: ListwiseSettings | None = None


class PoolEntry(Spec):
    """One expert of the pool that the model was trained with.

    Args:
        id: the expert.
        card_hash: hash of its card then; another one now is worth a warning.
        channels: width of its features; another one now is an error.
        revision: revision of its weights.
    """

    id: Identifier
    card_hash: str = ""
    channels: PositiveInt
    revision: str = ""
