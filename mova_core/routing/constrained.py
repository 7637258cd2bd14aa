"""Decoding in which nothing but a legal list of labels can be said.

A legal answer is "none", or up to k distinct labels between separators. At every step the language model's
probabilities are renormalised over the tokens that may legally follow; all other tokens have none.

One step decides one label, however many tokens separator and label have. What may have to be read before the
next decision (the separator, the first letter of "AB") is read as branches beside the text so far, so all
decisions of a step come from one forward pass. Whether an answer goes on is decided by the separator's first
token against the end token; the rest of the separator is then forced.

Notation for tensor shapes:
    m: decisions, d: width of the language model, t: legal tokens
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from mova_core.errors import RoutingError
from mova_core.routing.asking import Asked
from mova_core.routing.labels import Path, SpelledLabels
from mova_core.routing.language import Reading, RoutingLanguageModel, Row
from mova_core.routing.trie import Trie

AfterStep: TypeAlias = Callable[[Mapping[int, int]], None]
"""Told of the labels, by row, that one step decided; of none if it ended every answer."""

STOP = -1
"""The option that chooses nothing more."""


@dataclass(frozen=True, slots=True)
class AnswerGrammar:
    """The legal answers over some labels, which are counted from 0.

    Args:
        labels: how the labels are spelled.
        none: tokens of the answer that chooses nothing.
        end: the token that ends an answer.
        k: the most labels of an answer.
    """

    labels: SpelledLabels
    none: Path
    end: int
    k: int

    def step(self, chosen: Sequence[int]) -> Trie | None:
        """What may come after some labels; nothing if the answer is complete."""
        left = [label for label in range(len(self.labels.first)) if label not in chosen]
        if not left or len(chosen) >= self.k:
            return None
        spelling = self.labels.following if chosen else self.labels.first
        stop = (self.end,) if chosen else self.none
        goes_on = len(left) > 1 and len(chosen) + 1 < self.k
        after = {self.end} | ({path[0] for path in self.labels.following} if goes_on else set())
        paths = [stop, *(spelling[label] for label in left)]
        beginnings = {path[:size] for path in paths for size in range(len(path))}
        said = [(stop, STOP)]
        for label, path in zip(left, paths[1:], strict=True):
            # "A" begins "AA" where both are spelled in letters: what follows tells which one it was.
            told = [(*path, token) for token in sorted(after)] if path in beginnings else [path]
            said += [(whole, label) for whole in told]
        return Trie.of(said)

    def tokens(self, label: int, place: int) -> Path:
        """A label's tokens as the place-th of an answer, with the separator before it."""
        return (self.labels.following if place else self.labels.first)[label]

    def answer(self, chosen: Sequence[int]) -> Path:
        """The whole answer for some labels with its end token, as the language model should say it.

        Raises:
            RoutingError: if there are more than k labels, or one twice.
        """
        if len(chosen) > self.k or len(set(chosen)) < len(chosen):
            raise RoutingError(
                "no legal answer chooses these labels",
                value=list(chosen),
                expected=f"up to {self.k} distinct ones",
            )
        spelled = [token for place, label in enumerate(chosen) for token in self.tokens(label, place)]
        return (*(spelled if chosen else self.none), self.end)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded answer.

    Args:
        chosen: labels in the order they were said.
        first: for each label on offer its probability at the first step; the rest to 1 is that of "none".
    """

    chosen: tuple[int, ...]
    first: tuple[float, ...]


def decode(
    language: RoutingLanguageModel, asked: Asked, grammar: AnswerGrammar, after_step: AfterStep
) -> list[Decoded]:
    """Answer prompts greedily under a grammar, in at most k forward passes for the whole batch.

    Args:
        language: the language model that answers.
        asked: the prompts.
        grammar: their legal answers.
        after_step: told after every forward pass which label it decided for which row, each of which is part
            of that row's answer.

    Raises:
        RoutingError: if the language model gives logits that are not finite.
    """
    trunks = list(asked.trunks)
    chosen: list[tuple[int, ...]] = [()] * len(trunks)
    first: list[tuple[float, ...]] = [()] * len(trunks)
    tries = [grammar.step(())] * len(trunks)
    context = asked.context
    while any(tries):
        decided: dict[int, int] = {}
        rows = [Row(trunk, _branches(trie)) for trunk, trie in zip(trunks, tries, strict=True)]
        reading = language.read(rows, context, keep=True)
        context = reading.context
        for row, shares in enumerate(_shares(language, reading, tries)):
            trie, trunks[row] = tries[row], ()
            if trie is None:
                continue
            if not chosen[row]:
                said = trie.probabilities(shares)
                first[row] = tuple(said[label] for label in range(len(grammar.labels.first)))
            label = trie.greedy(shares)
            if label == STOP:
                tries[row] = None
                continue
            trunks[row] = (grammar.tokens(label, len(chosen[row])),)
            chosen[row] += (label,)
            decided[row] = label
            tries[row] = grammar.step(chosen[row])
        after_step(decided)
    return [Decoded(labels, offered) for labels, offered in zip(chosen, first, strict=True)]


def _branches(trie: Trie | None) -> list[Path]:
    """Paths to read beside the trunk; the decision at its end needs none."""
    return [path for path in trie.decisions if path] if trie else []


def _shares(
    language: RoutingLanguageModel, reading: Reading, tries: Sequence[Trie | None]
) -> list[dict[Path, dict[int, float]]]:
    """For each row, at each of its decisions, the probabilities of the legal tokens."""
    shares: list[dict[Path, dict[int, float]]] = [{} for _ in tries]
    places: list[tuple[int, int, Path, tuple[int, ...]]] = []
    for row, trie in enumerate(tries):
        if trie is None:
            continue
        ends = dict(zip([(), *_branches(trie)], reading.spans[row], strict=True))
        places += [(row, ends[path][-1], path, trie.children[path]) for path in trie.decisions]
    tokens = sorted({token for *_, legal in places for token in legal})
    column = {token: place for place, token in enumerate(tokens)}
    hidden = reading.hidden[[row for row, *_ in places], [end for _, end, *_ in places]]  # [m, d]
    logits = language.logits(hidden, tokens).double().cpu()  # [m, t]
    if not logits.isfinite().all():
        raise RoutingError(
            "the router's logits are not finite",
            value=logits.flatten().tolist(),
            expected="numbers",
            hint="Check the router's weights, or run it in float32.",
        )
    for (row, _, path, legal), line in zip(places, logits, strict=True):
        among = torch.softmax(line[[column[token] for token in legal]], dim=0).tolist()
        shares[row][path] = dict(zip(legal, among, strict=True))
    return shares
