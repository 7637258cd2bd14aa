"""One description at a time: "does it help?", all of them in one forward pass.

Image and question are read once and shared by all descriptions. A score depends on its own description only,
so the order and the size of the pool do not matter, and an expert not met in training is judged by its words.

Notation for tensor shapes:
    b: samples, e: descriptions, d: width of the language model
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from mova_core.errors import RoutingError
from mova_core.routing.base import MAX_EXPERTS, Candidate, ImageInput, check_limit, check_pairs, choose
from mova_core.routing.calibration import Calibration
from mova_core.routing.labels import Path, single_token
from mova_core.routing.language import Piece, RoutingLanguageModel, Row
from mova_core.routing.offers import plain_offers
from mova_core.routing.prompt import PointwisePrompt
from mova_core.routing.route import Route


class PointwiseRouter:
    """Chooses up to k experts whose descriptions are judged helpful, without a decoding step.

    Args:
        language: the language model that judges.
        prompt: the words it is asked with.
        calibration: turns scores into probabilities and holds the threshold.
        k: the most experts a route may hold.
        branch_tokens: the most description tokens of one sample in one forward pass. Larger pools are read in
            several passes, each of at least one description.

    Raises:
        RoutingError: if the prompt's yes or no is not a single token.
    """

    name = "pointwise"

    def __init__(
        self,
        language: RoutingLanguageModel,
        *,
        prompt: PointwisePrompt | None = None,
        calibration: Calibration | None = None,
        k: int = MAX_EXPERTS,
        branch_tokens: int = 2048,
    ) -> None:
        self.language = language
        self.prompt = prompt or PointwisePrompt()
        self.calibration = calibration or Calibration()
        self.k = check_limit(k)
        self.branch_tokens = branch_tokens
        self._answers = tuple(
            single_token(language.tokenizer, word, "the answer of a pointwise prompt")
            for word in (self.prompt.yes, self.prompt.no)
        )

    @torch.no_grad()
    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """Choose experts for each pair of image and question; see `Router.route`.

        Raises:
            RoutingError: also if the language model gives scores that are not finite.
        """
        check_pairs(images, questions)
        offers = plain_offers(pool)  # by id: the pool's order cannot touch a single bit
        scores = self.scores(images, questions, [offer.description for offer in offers])  # [b, e]
        if not scores.isfinite().all():
            raise RoutingError(
                "the router's scores are not finite",
                value=scores.flatten().tolist(),
                expected="numbers",
                hint="Check the router's weights, or run it in float32.",
            )
        routes = []
        for row in self.calibration.probabilities(scores.double()).tolist():
            probabilities = {offer.id: p for offer, p in zip(offers, row, strict=True)}
            chosen = choose(probabilities, self.k, self.calibration.threshold)
            routes.append(Route(chosen, probabilities, self.name))
        return routes

    def scores(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[str],
        descriptions: Sequence[str] | Sequence[Sequence[str]],
    ) -> Tensor:
        """How much each description speaks for its expert: logit of yes less logit of no, in nats.

        Differentiable. The adapter is on during this pass only: a backward pass that computes activations
        again (gradient checkpointing) needs it on as well.

        Args:
            images: pictures or routing tokens.
            questions: one for each image.
            descriptions: one list for all samples, or one for each sample, all of one length.

        Returns:
            [b, e], float32.

        Raises:
            RoutingError: if the lengths do not fit each other.
        """
        check_pairs(images, questions)
        asked = _for_each(descriptions, len(questions))
        if not asked or not asked[0]:
            return torch.zeros(len(questions), 0)
        with self.language.adapter():
            pairs = list(zip(self.language.look(images), questions, strict=True))
            branches = [[self.language.encode(self.prompt.about(text)) for text in texts] for texts in asked]
            chunks = [self._score(pairs, chunk) for chunk in self._chunks(branches)]
        return torch.cat(chunks, dim=1)  # [b, e]

    def _score(self, pairs: Sequence[tuple[Tensor, str]], branches: Sequence[Sequence[Path]]) -> Tensor:
        """Scores [b, e] of some branches for all samples, in one forward pass."""
        head = self.language.opening(self.prompt.head)
        context = self.language.begin(head, len(pairs))  # afresh for each chunk: reading on changes it
        opening: list[Piece] = [] if context else [head]
        rows = [
            Row([*opening, image, self.language.encode(self.prompt.ask(question))], own)
            for (image, question), own in zip(pairs, branches, strict=True)
        ]
        reading = self.language.read(rows, context)
        ends = torch.tensor(
            [[span[-1] for span in spans[1:]] for spans in reading.spans], device=reading.hidden.device
        )  # [b, e]
        last = reading.hidden.gather(1, ends[..., None].expand(-1, -1, reading.hidden.shape[2]))  # [b, e, d]
        yes, no = self.language.logits(last, self._answers).unbind(-1)
        return yes - no

    def _chunks(self, branches: Sequence[Sequence[Path]]) -> Iterator[list[Sequence[Path]]]:
        """Cut all samples' branches at the same places, so that no sample goes over the budget."""
        begin, used = 0, 0
        widths = [max(map(len, column)) for column in zip(*branches, strict=True)]
        for place, width in enumerate(widths):
            if place > begin and used + width > self.branch_tokens:
                yield [row[begin:place] for row in branches]
                begin, used = place, 0
            used += width
        yield [row[begin:] for row in branches]


def _for_each(descriptions: Sequence[str] | Sequence[Sequence[str]], samples: int) -> list[list[str]]:
    """A list of descriptions for each sample, from one for all or one for each."""
    shared = [text for text in descriptions if isinstance(text, str)]
    if len(shared) == len(descriptions):
        return [shared] * samples
    own = [list(texts) for texts in descriptions]
    if len(own) != samples or len({len(texts) for texts in own}) != 1:
        raise RoutingError(
            "descriptions do not fit the samples",
            value=f"lists of {[len(texts) for texts in own]} for {samples} samples",
            expected="one list for each sample, all of one length",
        )
    return own
