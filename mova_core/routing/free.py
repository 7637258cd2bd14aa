"""The released MoVA's way of routing: the language model writes freely, and letters are read out of that.

It is here to reproduce that model. Any prose may choose an expert ("All of them" chooses A), so a router of
one's own is better off with `ListwiseRouter`.

Source: the behaviour of the code released with MoVA (arXiv 2404.13046).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase

import torch
from torch import Tensor

from mova_core.errors import RoutingError
from mova_core.routing.asking import Asked, ask
from mova_core.routing.base import Candidate, ImageInput, check_limit, check_pairs
from mova_core.routing.labels import labels, single_token
from mova_core.routing.language import Reading, RoutingLanguageModel, Row
from mova_core.routing.offers import Offer, Order, check_descriptions, check_order, plain_offers
from mova_core.routing.prompt import ListwisePrompt
from mova_core.routing.route import Route

MAX_TOKENS = 16
"""The longest answer, in tokens."""

PARTS = 3
"""How many parts of an answer between commas are read."""


def read_labels(text: str, count: int) -> tuple[int, ...]:
    """The labels, counted from 0, that an answer names.

    That is, every one of the first `count` capital letters that occurs anywhere in the first three parts
    between commas, in the order of the alphabet.

    Args:
        text: the answer.
        count: how many labels were on offer.

    Raises:
        RoutingError: if there are more labels than letters.
    """
    if count > len(ascii_uppercase):
        raise RoutingError(
            "labels of several letters cannot be told apart in free text",
            value=f"{count} experts",
            expected=f"at most {len(ascii_uppercase)}",
            hint="Offer fewer experts (a shortlist), or route with another router.",
        )
    said = ",".join(text.split(",")[:PARTS])
    return tuple(place for place, letter in enumerate(labels(count)) if letter in said)


class FreeRouter:
    """Lets the language model write freely, then reads the experts' letters out of it.

    A route holds its experts in the order of their labels, and there may be any number of them. Its
    probabilities are those of an answer's first token among the labels and "none"; there are none where the
    vocabulary begins two of these with one token.

    Args:
        language: the language model that writes.
        prompt: the words it is asked with.
        order: who gets the first label, as for `ListwiseRouter`.
        descriptions: by id, what the prompt says of an expert instead of its own first wording.
        max_tokens: the longest answer, in tokens.

    Raises:
        RoutingError: if the prompt's end of an answer is not a single token, or an argument is unfit.
    """

    name = "free"

    def __init__(
        self,
        language: RoutingLanguageModel,
        *,
        prompt: ListwisePrompt | None = None,
        order: Order = "id",
        descriptions: Mapping[str, str] | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.language = language
        self.prompt = prompt or ListwisePrompt()
        self.order = check_order(order)
        self.descriptions = check_descriptions(descriptions)
        self.max_tokens = check_limit(max_tokens)
        self._end = single_token(language.tokenizer, self.prompt.chat.end, "the end of an answer")

    @torch.no_grad()
    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Choose experts for each pair of image and question; see `Router.route`.

        Raises:
            RoutingError: also for a pool of more than 26 experts.
        """
        check_pairs(images, questions)
        offers = plain_offers(pool, self.order, self.descriptions)
        read_labels("", len(offers))  # too large a pool is refused before any work
        if not offers or not questions:
            return [Route((), {}, self.name) for _ in questions]
        with self.language.adapter():
            asked = ask(self.language, self.prompt, images, questions, [offers] * len(questions))
            written, first = self._write(asked, self._openings(len(offers)))
        texts = self.language.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [self._route(text, row, offers) for text, row in zip(texts, first, strict=True)]

    def _write(self, asked: Asked, openings: Sequence[int]) -> tuple[list[list[int]], list[list[float]]]:
        """Greedy answers, and for each the shares of the openings among themselves at its first token."""
        written: list[list[int]] = [[] for _ in asked.trunks]
        first: list[list[float]] = [[] for _ in asked.trunks]
        trunks, context = list(asked.trunks), asked.context
        writing = list(range(len(trunks)))
        for step in range(self.max_tokens):
            reading = self.language.read([Row(trunk) for trunk in trunks], context, keep=True)
            context, trunks = reading.context, [()] * len(trunks)
            logits = self._next(reading, writing)
            if not step:
                first = logits[:, list(openings)].double().softmax(dim=1).tolist()
            going = []
            for row, token in zip(writing, logits.argmax(dim=1).tolist(), strict=True):
                if token != self._end:
                    written[row].append(token)
                    trunks[row] = ((token,),)
                    going.append(row)
            writing = going
            if not writing:
                break
        return written, first

    def _next(self, reading: Reading, rows: Sequence[int]) -> Tensor:
        """Logits [rows, vocabulary] of the token after what some rows have read."""
        ends = [reading.spans[row][0][-1] for row in rows]
        logits = self.language.logits(reading.hidden[list(rows), ends])
        if not logits.isfinite().all():
            raise RoutingError(
                "the router's logits are not finite",
                expected="numbers",
                hint="Check the router's weights, or run it in float32.",
            )
        return logits

    def _openings(self, count: int) -> list[int]:
        """First tokens of all labels and of "none", if they differ; otherwise nothing."""
        words = [*labels(count), self.prompt.none]
        tokens = [self.language.encode(word)[0] for word in words]
        return tokens if len(set(tokens)) == len(tokens) else []

    def _route(self, text: str, first: Sequence[float], offers: Sequence[Offer]) -> Route:
        probabilities = {offer.id: p for offer, p in zip(offers, first, strict=False)}  # "none" comes last
        chosen = read_labels(text, len(offers))
        return Route(tuple(offers[label].id for label in chosen), probabilities, self.name)
