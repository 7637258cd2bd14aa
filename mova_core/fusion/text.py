"""The text feature that tells the gate what is asked (paper, section 3.3).

Notation for tensor shapes:
    b: samples, s: text tokens, t: text width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor, nn

from mova_core.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pooling = Literal["cls", "mean"]
"""How token states become one vector: the first one, as in the paper, or the mean of all but padding."""


def question_text(questions: Sequence[str]) -> str:
    """All questions of one sample as the text encoder reads them: lower-cased and numbered from 0."""
    return "".join(f"question {number}: {question.lower()}\n\n" for number, question in enumerate(questions))


class QuestionTokenizer:
    """From the questions of a batch to the text encoder's tokens.

    Args:
        tokenizer: the text encoder's own.
        max_length: tokens kept; what is beyond is cut off at the right.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 512) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __call__(self, samples: Sequence[Sequence[str]]) -> dict[str, Tensor]:
        """Tokenize the questions of each sample together.

        Args:
            samples: for each of the b samples its questions.

        Returns:
            `input_ids` and `attention_mask`, [b, s] each, as `TextEncoder` takes them.
        """
        side = self.tokenizer.truncation_side
        self.tokenizer.truncation_side = "right"
        try:
            tokens = self.tokenizer(
                [question_text(questions) for questions in samples],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
        finally:
            self.tokenizer.truncation_side = side
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


class TextEncoder(nn.Module):
    """A BERT whose token states are pooled into one vector for each sample.

    Args:
        bert: an encoder that gives a last hidden state, such as transformers' `BertModel`.
        pooling: "cls" or "mean".

    Raises:
        ConfigError: for another pooling.
    """

    def __init__(self, bert: PreTrainedModel, *, pooling: Pooling = "cls") -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ConfigError("unknown pooling of the text feature", value=pooling, expected="cls or mean")
        self.bert = bert
        self.pooling = pooling

    @property
    def width(self) -> int:
        """Width t of the text feature."""
        return int(self.bert.config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode.

        Args:
            input_ids: [b, s].
            attention_mask: [b, s], one for real tokens, zero for padding.

        Returns:
            [b, t].
        """
        device = self.bert.device
        attention_mask = attention_mask.to(device)
        states: Tensor = self.bert(
            input_ids=input_ids.to(device), attention_mask=attention_mask
        ).last_hidden_state  # [b, s, t]
        if self.pooling == "cls":
            return states[:, 0]
        real = attention_mask[:, :, None].to(states.dtype)  # [b, s, 1]
        return (states * real).sum(dim=1) / real.sum(dim=1)
