"""The words around the image, the question and the descriptions.

A prompt is text with `{placeholders}`, cut where the image goes. What opens and closes a turn is the business
of the language model, so it comes as a `ChatFormat`; everything else is the same for all of them.
Placeholders are replaced, not formatted: braces in a question are just braces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mova_core.errors import ConfigError
from mova_core.routing.labels import labels


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What a language model expects around a user's turn, special tokens written out.

    Args:
        prefix: opens the user's turn, with the beginning-of-text token if the model has one.
        suffix: closes it and opens the answer.
        end: the single token that ends an answer.
    """

    prefix: str = "<|im_start|>user\n"
    suffix: str = "<|im_end|>\n<|im_start|>assistant\n"
    end: str = "<|im_end|>"


CHATML = ChatFormat()
"""ChatML, as SmolLM2 and Qwen speak it."""


@dataclass(frozen=True, slots=True)
class PointwisePrompt:
    """Asks of one description at a time whether it helps.

    Args:
        chat: turn marks of the language model.
        before_image: text between the opening of the turn and the image.
        after_image: text after the image, with `{question}`; image and question are shared by all branches.
        branch: what follows for one expert, with `{description}`.
        yes: the answer that speaks for an expert, a single token.
        no: the answer that speaks against it, a single token.
    """

    chat: ChatFormat = CHATML
    before_image: str = ""
    after_image: str = "\nQuestion: {question}\n"
    branch: str = "Expert: {description}\nDoes this expert help to answer the question? Answer yes or no."
    yes: str = "yes"
    no: str = "no"

    def __post_init__(self) -> None:
        _require("after_image", self.after_image, "{question}")
        _require("branch", self.branch, "{description}")

    @property
    def head(self) -> str:
        """Everything before the image."""
        return self.chat.prefix + self.before_image

    def ask(self, question: str) -> str:
        """Everything between the image and the branches."""
        return _fill(self.after_image, question=question)

    def about(self, description: str) -> str:
        """The whole branch of one description, up to where yes or no is answered."""
        return _fill(self.branch, description=description) + self.chat.suffix


@dataclass(frozen=True, slots=True)
class ListwisePrompt:
    """Lists all descriptions under labels and asks for the labels that help.

    Args:
        chat: turn marks of the language model.
        before_image: text between the opening of the turn and the image.
        after_image: text after the image, with `{experts}` and `{question}`.
        line: one entry of the list, with `{label}` and `{description}`.
        separator: what stands between two labels of an answer.
        none: the answer that chooses no expert.
    """

    chat: ChatFormat = CHATML
    before_image: str = ""
    after_image: str = (
        "\nExperts:\n{experts}\nQuestion: {question}\n"
        "Which experts help to answer the question? Answer with their letters, or none."
    )
    line: str = "{label}: {description}"
    separator: str = ", "
    none: str = "none"

    def __post_init__(self) -> None:
        _require("after_image", self.after_image, "{experts}", "{question}")
        _require("line", self.line, "{label}", "{description}")
        if not self.separator or not self.none:
            raise ConfigError("a listwise prompt needs a separator and a word for none", expected="some text")

    @property
    def head(self) -> str:
        """Everything before the image."""
        return self.chat.prefix + self.before_image

    def ask(self, question: str, descriptions: Sequence[str]) -> str:
        """Everything after the image, up to where the labels are answered."""
        listed = "\n".join(
            _fill(self.line, label=label, description=description)
            for label, description in zip(labels(len(descriptions)), descriptions, strict=True)
        )
        return _fill(self.after_image, experts=listed, question=question) + self.chat.suffix


def _fill(template: str, **values: str) -> str:
    """Put all values in at once, so that none of them is searched for placeholders."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def _require(field: str, template: str, *placeholders: str) -> None:
    for placeholder in placeholders:
        if placeholder not in template:
            raise ConfigError(
                f"the prompt's `{field}` has lost a placeholder",
                value=template,
                expected=f"{placeholder} in it",
            )
