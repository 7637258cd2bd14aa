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

    The words are few because every description is followed by them; they are meant for a trained router.

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
    branch: str = "Expert: {description}\nDoes it help?"
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

    The list stands before the image or after it. Before it, the list is the same for every question about any
    image, and is read once (`RoutingLanguageModel.begin`); after it, the language model has seen the image
    when it reads the list, as in the paper's released model.

    Args:
        chat: turn marks of the language model.
        before_image: text between the opening of the turn and the image, with `{experts}` or without.
        after_image: text after the image, with `{question}`, and with `{experts}` if they do not stand before
            it.
        line: one entry of the list, with `{label}` and `{description}`.
        separator: what stands between two labels of an answer.
        none: the answer that chooses no expert.

    Raises:
        ConfigError: if a placeholder is missing, or `{experts}` stands in both places.
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
        _require("after_image", self.after_image, "{question}")
        _require("line", self.line, "{label}", "{description}")
        if "{experts}" not in self.before_image:
            _require("after_image", self.after_image, "{experts}")
        elif "{experts}" in self.after_image:
            raise ConfigError(
                "the prompt lists the experts twice",
                value=f"{self.before_image!r} and {self.after_image!r}",
                expected="{experts} in `before_image` or in `after_image`",
            )
        if not self.separator or not self.none:
            raise ConfigError("a listwise prompt needs a separator and a word for none", expected="some text")

    def head(self, descriptions: Sequence[str]) -> str:
        """Everything before the image."""
        return self.chat.prefix + _fill(self.before_image, experts=self._listed(descriptions))

    def ask(self, question: str, descriptions: Sequence[str]) -> str:
        """Everything after the image, up to where the labels are answered."""
        listed = self._listed(descriptions)
        return _fill(self.after_image, experts=listed, question=question) + self.chat.suffix

    def _listed(self, descriptions: Sequence[str]) -> str:
        return "\n".join(
            _fill(self.line, label=label, description=description)
            for label, description in zip(labels(len(descriptions)), descriptions, strict=True)
        )


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


POOL_FIRST = ListwisePrompt(
    before_image="Experts:\n{experts}\n",
    after_image=(
        "\nQuestion: {question}\n"
        "Which experts help to answer the question? Answer with their letters, or none."
    ),
)
"""The default words with the experts before the image, so that a pool is read once for all questions."""
