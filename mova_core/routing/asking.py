"""A listwise prompt in the tokens and images that a language model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mova_core.routing.base import ImageInput
from mova_core.routing.language import Context, Piece, RoutingLanguageModel
from mova_core.routing.offers import Offer
from mova_core.routing.prompt import ListwisePrompt


@dataclass(frozen=True, slots=True)
class Asked:
    """The prompts of a batch.

    Args:
        trunks: for each sample what is still to be read.
        context: what has been read before that, if anything has.
    """

    trunks: Sequence[Sequence[Piece]]
    context: Context | None = None


def ask(
    language: RoutingLanguageModel,
    prompt: ListwisePrompt,
    images: Sequence[ImageInput],
    questions: Sequence[str],
    offers: Sequence[Sequence[Offer]],
) -> Asked:
    """Write the prompts of a batch; to be called with the adapter on that reads them.

    Args:
        language: the language model that will read them.
        prompt: the words.
        images: pictures or routing tokens.
        questions: one for each image.
        offers: for each sample the experts it is shown, in the order of their labels.
    """
    shown = [[offer.description for offer in own] for own in offers]
    heads = [language.opening(prompt.head(descriptions)) for descriptions in shown]
    same = len(set(heads)) == 1
    context = language.begin(heads[0], len(heads)) if same else None
    trunks: list[list[Piece]] = []
    for head, image, question, told in zip(heads, language.look(images), questions, shown, strict=True):
        asked = language.encode(prompt.ask(question, told))
        trunks.append([image, asked] if context else [head, image, asked])
    return Asked(trunks, context)
