"""The text feature."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from mova_core.errors import ConfigError
from mova_core.fusion.text import QuestionTokenizer, TextEncoder, question_text

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "question", "0", "1", ":", "red", "car", "where", "?"]


@pytest.fixture(scope="module")
def bert() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=len(WORDS), **sizes), add_pooling_layer=False).eval()


@pytest.fixture
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})


def test_questions_are_lower_cased_and_numbered():
    assert question_text(["Where?", "RED car"]) == "question 0: where?\n\nquestion 1: red car\n\n"
    assert question_text([]) == ""


def test_long_questions_are_cut_at_the_right_whatever_the_tokenizer_prefers(tokenizer):
    tokenizer.truncation_side = "left"
    tokens = QuestionTokenizer(tokenizer, max_length=6)([["red car where car car"], ["red"]])
    assert tokens["input_ids"].tolist() == [[2, 5, 6, 8, 9, 3]] * 2
    assert tokenizer.truncation_side == "left"


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_show(bert, tokenizer, pooling):
    encode, tokenize = TextEncoder(bert, pooling=pooling), QuestionTokenizer(tokenizer)
    together = encode(**tokenize([["red"], ["where is the red car?", "red"]]))
    assert together.shape == (2, encode.width)
    torch.testing.assert_close(together[:1], encode(**tokenize([["red"]])), atol=1e-6, rtol=0)


def test_pooling_reads_the_token_states(bert, tokenizer):
    tokens = QuestionTokenizer(tokenizer)([["red car"]])
    states = bert(**tokens).last_hidden_state
    torch.testing.assert_close(TextEncoder(bert, pooling="cls")(**tokens), states[:, 0])
    torch.testing.assert_close(TextEncoder(bert, pooling="mean")(**tokens), states.mean(dim=1))


def test_an_unknown_pooling_is_refused(bert):
    with pytest.raises(ConfigError, match="got max; expected cls or mean"):
        TextEncoder(bert, pooling="max")
