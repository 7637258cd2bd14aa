"""Labels that stand for experts in a prompt and an answer: A to Z, then AA, AB and so on.

Names of experts would let the language model guess instead of read, so it never sees them. A label is spelled
twice in tokens: as an answer begins with it, and as it follows a separator ("D" and " D" are two tokens in
most vocabularies).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TYPE_CHECKING, TypeAlias

from mova_core.errors import RoutingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Path: TypeAlias = tuple[int, ...]
"""Token ids, one after the other."""


def labels(count: int) -> list[str]:
    """The first `count` labels: A..Z, AA..ZZ, AAA.."""
    return [_label(place) for place in range(count)]


def _label(place: int) -> str:
    text = ""
    place += 1
    while place:
        place, letter = divmod(place - 1, len(ascii_uppercase))
        text = ascii_uppercase[letter] + text
    return text


@dataclass(frozen=True, slots=True)
class SpelledLabels:
    """How labels are written in the tokens of one vocabulary.

    Args:
        first: for each label its tokens at the beginning of an answer.
        following: for each label the tokens of separator and label, after another label.
    """

    first: tuple[Path, ...]
    following: tuple[Path, ...]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> Path:
    """Tokens of a text as it stands: none are added around it."""
    return tuple(int(token) for token in tokenizer.encode(text, add_special_tokens=False))


def single_token(tokenizer: PreTrainedTokenizerBase, text: str, purpose: str) -> int:
    """The one token that a text is.

    Raises:
        RoutingError: if the vocabulary spells it in several tokens, or not at all.
    """
    tokens = encode(tokenizer, text)
    if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
        raise RoutingError(
            f"{purpose} must be a single token of this language model",
            value=f"{text!r} as tokens {list(tokens)}",
            expected="one known token",
            hint="Pass a prompt with another wording.",
        )
    return tokens[0]


def spell(tokenizer: PreTrainedTokenizerBase, count: int, separator: str) -> SpelledLabels:
    """Spell the first `count` labels, and check that a language model can tell them apart.

    Args:
        tokenizer: of the language model.
        count: number of labels.
        separator: text between two labels.

    Raises:
        RoutingError: if a letter is not a single token, or a label is unknown or equal to another.
    """
    names = labels(count)
    for letter in names[: len(ascii_uppercase)]:
        single_token(tokenizer, letter, "a label")
    first = tuple(encode(tokenizer, name) for name in names)
    following = tuple(_after(tokenizer, separator, name) for name in names)
    for spelling in (first, following):
        _check_distinct(tokenizer, names, spelling)
    return SpelledLabels(first, following)


def _after(tokenizer: PreTrainedTokenizerBase, separator: str, name: str) -> Path:
    """Tokens that separator and name add to an answer that stands at a label, whichever that is."""
    begun, whole = encode(tokenizer, "A"), encode(tokenizer, f"A{separator}{name}")
    if whole[: len(begun)] != begun or len(whole) == len(begun):
        raise RoutingError(
            "this vocabulary melts a label into its separator",
            value=f"A{separator}{name}",
            expected="the label to keep its own token",
            hint="Pass a prompt with another separator.",
        )
    return whole[len(begun) :]


def _check_distinct(
    tokenizer: PreTrainedTokenizerBase, names: Sequence[str], spelling: Sequence[Path]
) -> None:
    seen: dict[Path, str] = {}
    for name, path in zip(names, spelling, strict=True):
        if tokenizer.unk_token_id in path or path in seen:
            raise RoutingError(
                "this vocabulary cannot tell the labels apart",
                value=f"{name} as tokens {list(path)}",
                expected=f"labels of their own for {len(names)} experts",
                hint="Offer fewer experts (a shortlist) or route pointwise.",
            )
        seen[path] = name
