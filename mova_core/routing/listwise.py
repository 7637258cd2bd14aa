"""The paper's router: all descriptions in one prompt, under letters, and an answer like "A, D".

Source: MoVA (arXiv 2404.13046), "coarse-grained context-aware expert routing".

Notation for tensor shapes:
    n: tokens of all answers, m: tokens of one answer, d: width of the language model, v: its vocabulary
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mova_core.errors import RoutingError
from mova_core.routing.asking import ask
from mova_core.routing.base import MAX_EXPERTS, Candidate, ImageInput, check_limit, check_pairs
from mova_core.routing.constrained import AnswerGrammar, Decoded, decode
from mova_core.routing.eager import Decided, tell_nobody
from mova_core.routing.labels import Path, single_token, spell
from mova_core.routing.language import RoutingLanguageModel, Row
from mova_core.routing.offers import Offer, Order, check_descriptions, check_order, plain_offers
from mova_core.routing.prompt import ListwisePrompt
from mova_core.routing.route import Route


class ListwiseRouter:
    """Lets the language model write the labels of up to k experts, or "none".

    A route's probability of an expert is that of its label at the first step, among all labels and "none";
    with "none" they sum to one. A label of several tokens has the product of its tokens' probabilities, each
    among the legal ones at its place. So it says which expert the answer begins with, and a second choice may
    well be below one that was not chosen.

    Args:
        language: the language model that writes.
        prompt: the words it is asked with.
        k: the most experts a route may hold.
        order: who gets the first label: by id, in the order of the pool, or in an order of ids.
        descriptions: by id, what the prompt says of an expert instead of its own first wording.

    Raises:
        RoutingError: if the prompt's end of an answer is not a single token, an order names an expert twice,
            or a description says nothing.
    """

    name = "listwise"

    def __init__(
        self,
        language: RoutingLanguageModel,
        *,
        prompt: ListwisePrompt | None = None,
        k: int = MAX_EXPERTS,
        order: Order = "id",
        descriptions: Mapping[str, str] | None = None,
    ) -> None:
        self.language = language
        self.prompt = prompt or ListwisePrompt()
        self.k = check_limit(k)
        self.order = check_order(order)
        self.descriptions = check_descriptions(descriptions)
        self._end = single_token(language.tokenizer, self.prompt.chat.end, "the end of an answer")
        self._grammars: dict[int, AnswerGrammar] = {}

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Choose experts for each pair of image and question; see `Router.route`.

        Raises:
            RoutingError: also if the vocabulary cannot spell labels for a pool of this size.
        """
        return self.route_in_steps(images, questions, pool, tell_nobody)

    @torch.no_grad()
    def route_in_steps(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        pool: Iterable[Candidate],
        decided: Decided,
    ) -> list[Route]:
        """As `route`; a step is a forward pass, which decides one expert of every route that goes on."""
        check_pairs(images, questions)
        offers = plain_offers(pool, self.order, self.descriptions)
        if not offers or not questions:
            return [Route((), {}, self.name) for _ in questions]
        grammar = self._grammar(len(offers))

        def tell(labels: Mapping[int, int]) -> None:
            decided({row: offers[label].id for row, label in labels.items()})

        with self.language.adapter():
            asked = ask(self.language, self.prompt, images, questions, [offers] * len(questions))
            answers = decode(self.language, asked, grammar, tell)
        return [self._route(answer, offers) for answer in answers]

    def loss(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        offers: Sequence[Sequence[Offer]],
        useful: Sequence[Collection[str]],
    ) -> Tensor:
        """Cross-entropy of the right answers, teacher-forced, in nats per token.

        Differentiable; as for `PointwiseRouter.scores`, a backward pass that computes activations again needs
        the adapter on.

        Args:
            images: pictures or routing tokens.
            questions: one for each image.
            offers: for each sample the experts it is shown, in the order of their labels.
            useful: for each sample the ids of those that help. Ids that are not shown are left out.

        Returns:
            A scalar, the mean over all answer tokens of the batch.

        Raises:
            RoutingError: if the lengths do not fit, there are no samples, or more than k shown experts help.
        """
        check_pairs(images, questions)
        if not questions or not len(offers) == len(useful) == len(questions):
            given = f"{len(offers)} and {len(useful)} for {len(questions)} samples"
            raise RoutingError("offers and useful experts must fit some samples", value=given)
        answers = [self.target(shown, ids) for shown, ids in zip(offers, useful, strict=True)]
        with self.language.adapter():
            asked = ask(self.language, self.prompt, images, questions, offers)
            rows = [Row([*trunk, answer[:-1]]) for trunk, answer in zip(asked.trunks, answers, strict=True)]
            reading = self.language.read(rows, asked.context)
            said = [
                reading.hidden[row, list(spans[0])[-len(answer) :]]  # [m, d]
                for row, (spans, answer) in enumerate(zip(reading.spans, answers, strict=True))
            ]
            logits = self.language.logits(torch.cat(said))  # [n, v]
        wanted = torch.tensor([token for answer in answers for token in answer], device=logits.device)
        return nn.functional.cross_entropy(logits, wanted)

    def target(self, offers: Sequence[Offer], useful: Collection[str]) -> Path:
        """Tokens of the right answer, end token included: labels in the order of the list, or none.

        Raises:
            RoutingError: if more than k of the experts shown are useful.
        """
        helping = [label for label, offer in enumerate(offers) if offer.id in useful]
        return self._grammar(len(offers)).answer(helping)

    def _grammar(self, count: int) -> AnswerGrammar:
        if count not in self._grammars:
            labels = spell(self.language.tokenizer, count, self.prompt.separator)
            none = self.language.encode(self.prompt.none)
            self._grammars[count] = AnswerGrammar(labels, none, self._end, self.k)
        return self._grammars[count]

    def _route(self, decoded: Decoded, offers: Sequence[Offer]) -> Route:
        probabilities = {offer.id: p for offer, p in zip(offers, decoded.first, strict=True)}
        chosen = sorted(decoded.chosen, key=lambda label: -decoded.first[label])
        return Route(tuple(offers[label].id for label in chosen), probabilities, self.name)
