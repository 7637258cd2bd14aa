"""A profile's prompt in the tokens of the tokenizer that a release brings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mova_core.errors import CheckpointError
from mova_core.model.settings import PromptSettings
from mova_core.routing.labels import single_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def spelled(prompt: PromptSettings, folder: Path) -> PromptSettings:
    """The prompt as the released code would spell it with a tokenizer.

    That code reads each piece of a text by itself and takes off its first token where the text began with the
    mark of a beginning. With a tokenizer that puts such a mark there itself, nothing else is lost; with one
    that does not, it is the newline after the image.

    Args:
        prompt: the profile's.
        folder: holds the tokenizer.

    Raises:
        CheckpointError: the tokenizer cannot be read, or melts the end of an image into what follows.
        RoutingError: the end of an answer is not one token of it.
    """
    tokenizer = _tokenizer(folder)
    single_token(tokenizer, prompt.stop, "the end of an answer")
    begins = tokenizer.encode("", add_special_tokens=True)[:1]
    written = tokenizer.encode(prompt.begin, add_special_tokens=False)[:1]
    if begins or not prompt.tokenizer_begins or written != [tokenizer.bos_token_id]:
        return prompt
    lost = tokenizer.decode(tokenizer.encode(prompt.image_end + "A", add_special_tokens=False)[:1])
    if lost != prompt.image_end:
        raise CheckpointError(
            "this tokenizer melts the end of an image into what follows",
            value=lost,
            expected=prompt.image_end,
        )
    return prompt.model_copy(update={"image_end": ""})


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each reader of these files fails in ways of its own
        said = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            "the language model's tokenizer cannot be read",
            value=f"{type(error).__name__}: {said}",
            expected="tokenizer files of transformers",
            hint="A tokenizer.model alone needs `pip install sentencepiece protobuf`.",
        ) from error
    return tokenizer
