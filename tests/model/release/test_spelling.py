"""Every profile spells a conversation as the released code would, whatever a tokenizer puts before a text."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mova_core.cards.stream import InputStream
from mova_core.errors import CheckpointError, RoutingError
from mova_core.model.config import MovaConfig
from mova_core.model.processing import MovaProcessor, Turn
from mova_core.model.release.profiles import profile_names, read_profile
from mova_core.model.release.spelling import spelled
from mova_core.model.settings import AdapterSettings, LanguageSettings, PromptSettings, TextSettings

IMAGE = -1
STREAM = InputStream(size=(8, 8), fit="stretch", mean=(0, 0, 0), std=(1, 1, 1))
SPECIAL = {
    "llama3-8b": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "vicuna-7b": ("<s>", "</s>"),
    "hermes-yi-34b": ("<|startoftext|>", "<|im_start|>", "<|im_end|>"),
}


def tokenizer(name: str, *, begins: bool) -> PreTrainedTokenizerFast:
    """One in the manner of the profile's language model, with a token for each letter."""
    if name == "vicuna-7b":
        letters = ["<unk>", "▁", "\n", *string.ascii_letters, *string.digits, *string.punctuation]
        made = Tokenizer(models.Unigram([(letter, -1.0) for letter in letters], 0, byte_fallback=False))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        made = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIAL[name]])
    first = SPECIAL[name][0]
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, made.token_to_id(first))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=first, eos_token=SPECIAL[name][-1])


def as_released(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Pieces between images, each read by itself; a beginning that the first has is taken off the others."""
    first, *others = (tokenizer(piece).input_ids for piece in text.split("<image>"))
    lost = int(first[:1] == [tokenizer.bos_token_id])
    return first + [id for ids in others for id in (IMAGE, *ids[lost:])]


def processor(prompt: PromptSettings, tokenizer: PreTrainedTokenizerFast) -> MovaProcessor:
    config = MovaConfig(
        adapter=AdapterSettings(width=64, heads=1, grid=(4, 4), routing_grid=(1, 1)),
        text_encoder=TextSettings(source="inside:text", width=8),
        language_model=LanguageSettings(source="inside:language", width=8),
        prompt=prompt,
        image_token_id=len(tokenizer),
    )
    return MovaProcessor(config, tokenizer=tokenizer, text_tokenizer=tokenizer, stream=STREAM)


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("name", profile_names())
def test_a_conversation_is_spelled_as_released(name: str, begins: bool, tmp_path: Path) -> None:
    own = tokenizer(name, begins=begins)
    own.save_pretrained(tmp_path)
    profile = read_profile(name).prompt
    ours = processor(spelled(profile, tmp_path), own)
    image = Image.new("RGB", (4, 4))
    turns = [Turn("What is it?", (image,), "a cup"), Turn("And this?", (image,))]
    ids = ours.tokens([ours.write(turns)])["input_ids"][0].tolist()
    text = profile.begin
    for turn in turns:
        text += profile.user.replace("{images}", "<image>\n").replace("{question}", turn.question)
        text += profile.assistant.replace("{answer}", turn.answer) if turn.answer else ""
    recorded = as_released(own, text)
    spread = [
        t for id in recorded for t in ([ours.image_token_id] * ours.image_tokens if id == IMAGE else [id])
    ]
    assert ids == spread


def test_llama_3_without_a_beginning_of_its_own_loses_the_newline(tmp_path: Path) -> None:
    profile = read_profile("llama3-8b").prompt
    for begins, end in ((True, "\n"), (False, "")):
        tokenizer("llama3-8b", begins=begins).save_pretrained(tmp_path)
        assert spelled(profile, tmp_path).image_end == end


def test_a_tokenizer_that_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer cannot be read"):
        spelled(read_profile("llama3-8b").prompt, tmp_path)
    tokenizer("vicuna-7b", begins=True).save_pretrained(tmp_path)
    with pytest.raises(RoutingError, match="end of an answer"):
        spelled(read_profile("llama3-8b").prompt, tmp_path)
