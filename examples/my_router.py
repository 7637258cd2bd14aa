"""A router of one's own, beside the one that mova-nano brings.

Anything with a method `route` is a router. This one knows nothing but words: it chooses the experts whose
descriptions share the most words with the question. It cannot see the picture, and it shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import mova_core
from mova_core.routing import Candidate, ImageInput, Route

IMAGES = Path(__file__).parent / "images"
ASKED = (
    ("brain.png", "Which plane is this slice?"),
    ("brain.png", "What kind of picture is this?"),
    ("coffee.jpg", "Is there a spoon in the picture?"),
    ("astronaut.jpg", "What is written on the suit?"),
)


class KeywordRouter:
    """Chooses experts by the share of the question's words that occur in their descriptions.

    Args:
        k: the most experts it chooses.
        threshold: the share above which an expert is chosen.
    """

    def __init__(self, k: int = 1, threshold: float = 0.2) -> None:
        self.k = k
        self.threshold = threshold

    def route(
        self, images: Sequence[ImageInput], questions: Sequence[str], pool: Iterable[Candidate]
    ) -> list[Route]:
        """One route for each pair of image and question; see `mova_core.routing.Router`."""
        known = {expert.id: words(" ".join(expert.descriptions)) for expert in pool}
        return [self._route(words(question), known) for question in questions]

    def _route(self, asked: set[str], known: dict[str, set[str]]) -> Route:
        shares = {id: len(asked & told) / max(1, len(asked)) for id, told in sorted(known.items())}
        best = sorted(shares, key=lambda id: -shares[id])[: self.k]
        return Route(tuple(id for id in best if shares[id] > self.threshold), shares, "keywords")


def words(text: str) -> set[str]:
    """The words of a text that carry meaning, roughly: those of more than three letters."""
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def main() -> None:
    """Route some questions in both ways, then answer one of them by the keywords' route."""
    mova = mova_core.load("mova-nano")
    mine = KeywordRouter()
    for name, question in ASKED:
        learned = mova.route(IMAGES / name, question)
        keywords = mova.route(IMAGES / name, question, router=mine)
        print(f"{name:<14} {question:<34} learned: {learned!s:<14} keywords: {keywords}")

    name, question = ASKED[0]
    answer = mova.ask(IMAGES / name, question, router=mine)
    print(f"{question} Routed by {answer.route.router} to {answer.route}: {answer}")


if __name__ == "__main__":
    main()
