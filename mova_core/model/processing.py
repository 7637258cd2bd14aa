"""`MovaProcessor`: pictures and conversations to the tensors of the model.

Notation for tensor shapes:
    b: conversations, i: images of all of them in order, s: text tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from mova_core.errors import InputError
from mova_core.experts.streams import stream_tensor
from mova_core.fusion.text import QuestionTokenizer
from mova_core.model.build import load_tokenizer
from mova_core.model.config import MovaConfig
from mova_core.model.given import check_question
from mova_core.model.own_cards import own_record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mova_core.cards.stream import InputStream


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation.

    Args:
        question: what the user asks.
        images: pictures that come with the question.
        answer: what was answered; None for the turn that is to be answered now.
    """

    question: str
    images: tuple[Image.Image, ...] = ()
    answer: str | None = None


class MovaProcessor:
    """Prepares inputs of `MovaForConditionalGeneration`.

    Args:
        config: names and numbers of the model.
        tokenizer: the language model's.
        text_tokenizer: the text encoder's.
        stream: the base encoder's input stream.
    """

    def __init__(
        self,
        config: MovaConfig,
        *,
        tokenizer: PreTrainedTokenizerBase,
        text_tokenizer: PreTrainedTokenizerBase,
        stream: InputStream,
    ) -> None:
        self.prompt = config.prompt_settings
        self.image_tokens = config.image_tokens
        self.image_token_id = int(config.image_token_id)
        self.tokenizer = tokenizer
        self.stream = stream
        self.question_tokens = QuestionTokenizer(text_tokenizer)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> MovaProcessor:
        """The processor of a checkpoint directory.

        Raises:
            CheckpointError, PartsError, UnknownExpertError: if a tokenizer or the base encoder's card is not
                here.
        """
        from mova_core.cards.resolve import usable_expert
        from mova_core.model.checkpoint import read_config

        folder = Path(directory)
        config = read_config(folder)
        card = own_record(usable_expert(config.base), config, folder).card
        return cls(
            config,
            tokenizer=load_tokenizer(config.language_settings.source, folder),
            text_tokenizer=load_tokenizer(config.text_settings.source, folder),
            stream=card.input,  # type: ignore[union-attr]
        )

    @property
    def stop_id(self) -> int:
        """Id of the token that ends an answer."""
        return int(self.tokenizer.convert_tokens_to_ids(self.prompt.stop))  # type: ignore[arg-type]

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """The base encoder's stream, [i, 3, h, w]."""
        return stream_tensor(images, self.stream)

    def write(self, turns: Sequence[Turn]) -> str:
        """A conversation as the language model reads it, image tokens included."""
        text = self.prompt.begin
        for turn in turns:
            text += self.asked(self._question(turn), images=len(turn.images))
            if turn.answer is not None:
                text += self.answered(turn.answer)
        return text

    def asked(self, question: str, *, images: int) -> str:
        """One user turn, with the places of its images."""
        places = (self.prompt.image_token * self.image_tokens + self.prompt.image_end) * images
        return self.prompt.user.replace("{images}", places).replace("{question}", question)

    def answered(self, answer: str) -> str:
        """One turn of the assistant, with the mark that ends it."""
        return self.prompt.assistant.replace("{answer}", answer)

    def _question(self, turn: Turn) -> str:
        for mark in (self.prompt.image_token, *self.tokenizer.all_special_tokens):
            if mark in turn.question:
                raise InputError(
                    "the question holds a mark that the language model reads as a picture or a turn",
                    value=mark,
                    expected="a question in words",
                    hint="Leave the mark out.",
                )
        return check_question(turn.question)

    def tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` [b, s] of written conversations, padded on the left."""
        rows = [self.begin_ids() + self.text_ids(text) for text in texts]
        batch = self.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def begin_ids(self) -> list[int]:
        """What the tokenizer itself puts before a text, where the prompt asks for that."""
        if not self.prompt.tokenizer_begins:
            return []
        first = self.tokenizer.encode("")
        return [first[0]] if first and first[0] == self.tokenizer.bos_token_id else []

    def text_ids(self, text: str) -> list[int]:
        """Token ids of a piece of a conversation, the image token's own id in its places."""
        ids: list[int] = []
        pieces = text.split(self.prompt.image_token)
        for number, piece in enumerate(pieces):
            if piece:
                ids += self.tokenizer.encode(piece, add_special_tokens=False)
            if number + 1 < len(pieces):
                ids.append(self.image_token_id)
        return ids

    def __call__(self, conversations: Sequence[Sequence[Turn]]) -> BatchFeature:
        """Everything one pass needs.

        Args:
            conversations: b conversations; each holds its images in its turns.

        Returns:
            `input_ids`, `attention_mask` [b, s]; with images also `pixel_values` [i, 3, h, w],
            `text_input_ids` and `text_attention_mask` [i, s]: each image with the questions of its
            conversation so far.

        Raises:
            InputError: for an empty or endless question, one with a special token, or an empty conversation.
        """
        if not conversations or not all(conversations):
            raise InputError("nothing was asked", expected="conversations of at least one turn")
        data = self.tokens([self.write(turns) for turns in conversations])
        images = [image for turns in conversations for turn in turns for image in turn.images]
        if images:
            asked = [
                [t.question for t in turns] for turns in conversations for turn in turns for _ in turn.images
            ]
            text = self.question_tokens(asked)
            data |= {"text_input_ids": text["input_ids"], "text_attention_mask": text["attention_mask"]}
            data["pixel_values"] = self.pixels(images)
        return BatchFeature(data)

    def read(self, written: Tensor) -> list[str]:
        """Answers from new tokens [b, s], without the stop mark."""
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [text.split(self.prompt.stop)[0].strip() for text in texts]
