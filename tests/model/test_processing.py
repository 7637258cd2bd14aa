"""Conversations as tokens: padding, the places of images, and questions that cannot be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.errors import InputError
from mova_core.model.given import MAX_QUESTION_CHARACTERS, check_question
from mova_core.model.processing import MovaProcessor, Turn


@pytest.fixture
def processor(tiny: Path) -> MovaProcessor:
    return MovaProcessor.from_pretrained(tiny)


def test_each_image_takes_its_places(processor: MovaProcessor, picture: Any) -> None:
    turns = [Turn("One?", (picture(1), picture(2)), "yes"), Turn("Two?", (picture(3),))]
    data = processor([turns])
    assert (data["input_ids"] == processor.image_token_id).sum() == 3 * 4
    assert data["pixel_values"].shape == (3, 3, 16, 16)
    assert len(data["text_input_ids"]) == len(data["text_attention_mask"]) == 3


def test_the_image_token_is_no_word_of_the_language_model(processor: MovaProcessor) -> None:
    assert processor.image_token_id >= len(processor.tokenizer)


def test_a_batch_is_padded_on_the_left(processor: MovaProcessor, picture: Any) -> None:
    short, long = [Turn("Why?")], [Turn("What is it, and where?", (picture(1),))]
    data = processor([short, long])
    alone = processor([short])["input_ids"][0]
    padding = data["input_ids"].shape[1] - len(alone)
    assert padding > 0
    assert torch.equal(data["input_ids"][0, padding:], alone)
    assert data["attention_mask"][0].tolist() == [0] * padding + [1] * len(alone)
    assert data["attention_mask"][1].all()


def test_a_conversation_is_written_turn_by_turn(processor: MovaProcessor, picture: Any) -> None:
    turns = [Turn("One?", (picture(1),), "yes"), Turn("Two?")]
    assert processor.write(turns) == (
        "<|im_start|>user\n<image><image><image><image>\nOne?<|im_end|>\n"
        "<|im_start|>assistant\n yes<|im_end|>\n"
        "<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_text_encoder_reads_all_questions_so_far_for_each_image(
    processor: MovaProcessor, picture: Any
) -> None:
    turns = [Turn("One?", (picture(1), picture(2)), "yes"), Turn("Two?")]
    data = processor([turns])
    expected = processor.question_tokens([["One?", "Two?"]])["input_ids"][0]
    assert all(torch.equal(row, expected) for row in data["text_input_ids"])


def test_answers_end_at_the_stop_mark(processor: MovaProcessor) -> None:
    ids = processor.tokenizer.encode(" red<|im_end|> blue", add_special_tokens=False)
    assert processor.stop_id in ids
    cut = ids[: ids.index(processor.stop_id) + 1]
    padded = torch.tensor([cut + [processor.tokenizer.pad_token_id] * 3])
    assert processor.read(padded) == ["red"]


def test_a_tokenizer_without_padding_pads_with_its_end(processor: MovaProcessor, tiny: Path) -> None:
    from mova_core.model.checkpoint import read_config

    tokenizer = processor.tokenizer
    tokenizer.pad_token = None
    made = MovaProcessor(
        read_config(tiny),
        tokenizer=tokenizer,
        text_tokenizer=processor.question_tokens.tokenizer,
        stream=processor.stream,
    )
    assert made.tokenizer.pad_token == tokenizer.eos_token
    assert made.tokens(["a", "a b"])["attention_mask"].tolist()[0][0] == 0


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("", "the question is empty"),
        (" \n\t", "the question is empty"),
        ("a" * 50_000, "the question is too long; got 50,000 characters; expected at most 8,000"),
        ("Is <image> red?", "the question holds a mark that the language model reads .*; got <image>"),
        ("Red?<|im_end|>", r"the question holds a mark that the language model reads .*; got <\|im_end\|>"),
    ],
)
def test_what_cannot_be_asked_is_refused(processor: MovaProcessor, question: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        processor([[Turn(question)]])


@pytest.mark.parametrize("conversations", [[], [[]], [[Turn("Why?")], []]])
def test_nothing_cannot_be_asked(processor: MovaProcessor, conversations: list[list[Turn]]) -> None:
    with pytest.raises(InputError, match="nothing was asked"):
        processor(conversations)


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, 2))
def test_length_alone_decides_on_words(text: str, excess: int) -> None:
    question = "?" + text + "a" * (MAX_QUESTION_CHARACTERS - len(text) - 2 + excess)
    if excess == 2:
        with pytest.raises(InputError):
            check_question(question)
    else:
        assert check_question(question) == question


def test_braces_in_a_question_are_just_braces(processor: MovaProcessor, picture: Any) -> None:
    written = processor.write([Turn("What is {images} or {question}?", (picture(1),))])
    assert written.count("<image>") == 4
    assert "What is {images} or {question}?" in written
