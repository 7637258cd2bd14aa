from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mova_core.errors import RoutingError
from mova_core.routing.labels import encode, labels, single_token, spell


def test_labels_count_from_a():
    assert labels(4) == ["A", "B", "C", "D"]
    assert labels(28)[25:] == ["Z", "AA", "AB"]
    assert labels(703)[701:] == ["ZZ", "AAA"]


@given(st.integers(0, 1500))
def test_labels_are_distinct_and_a_larger_pool_only_adds_some(count):
    assert len(set(labels(count))) == count
    assert labels(count + 1)[:count] == labels(count)


@given(count=st.integers(2, 60), data=st.data())
def test_spelled_labels_are_the_tokens_of_the_written_answer(tokenizer, count, data):
    spelled = spell(tokenizer, count, ", ")
    left, right = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
    written = f"{labels(count)[left]}, {labels(count)[right]}"
    assert spelled.first[left] + spelled.following[right] == encode(tokenizer, written)


def test_a_letter_unknown_to_the_vocabulary_is_refused():
    core = Tokenizer(models.WordLevel({"<unk>": 0, "A": 1, ",": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    small = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(RoutingError, match="'B'"):
        spell(small, 2, ", ")


def test_a_vocabulary_without_two_letter_labels_is_refused():
    words = {word: place for place, word in enumerate(["<unk>", ",", *labels(26)])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    small = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert len(spell(small, 26, ", ").following) == 26
    with pytest.raises(RoutingError, match="AA.*27 experts"):
        spell(small, 27, ", ")


def test_a_separator_that_melts_into_a_label_is_refused():
    core = Tokenizer(models.WordLevel({"<unk>": 0, "A": 1, "B": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    small = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    with pytest.raises(RoutingError, match="another separator"):
        spell(small, 2, "+")


def test_single_token_refuses_a_word_of_several(tokenizer):
    assert encode(tokenizer, "yes") == (single_token(tokenizer, "yes", "an answer"),)
    with pytest.raises(RoutingError, match="an answer must be a single token.*perhaps"):
        single_token(tokenizer, "perhaps", "an answer")
