"""Token paths that may be said next, and the probabilities a language model gives them among themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from mova_core.errors import RoutingError
from mova_core.routing.labels import Path

Shares: TypeAlias = Mapping[Path, Mapping[int, float]]
"""For every decision its legal tokens' probabilities, which sum to one."""


@dataclass(frozen=True, slots=True)
class Trie:
    """A prefix tree of token paths; see `Trie.of`.

    Args:
        options: complete paths, each with the option it says. Several paths may say one option.
        children: for each beginning of a path the tokens that may follow it, ascending.
    """

    options: Mapping[Path, int]
    children: Mapping[Path, tuple[int, ...]]

    @classmethod
    def of(cls, said: Iterable[tuple[Path, int]]) -> Trie:
        """The tree of some complete paths and what they say.

        Raises:
            RoutingError: if two paths are equal or one begins another, so that it could not be told which is
            said.
        """
        options: dict[Path, int] = {}
        children: dict[Path, set[int]] = {}
        for path, option in said:
            if path in options:
                raise _ambiguous(path)
            options[path] = option
            for depth, token in enumerate(path):
                children.setdefault(path[:depth], set()).add(token)
        for path in options:
            if path in children:
                raise _ambiguous(path)
        return cls(options, {path: tuple(sorted(legal)) for path, legal in children.items()})

    @property
    def decisions(self) -> tuple[Path, ...]:
        """Where more than one token may follow: only there the language model is asked."""
        return tuple(path for path, legal in self.children.items() if len(legal) > 1)

    def probabilities(self, shares: Shares) -> dict[int, float]:
        """Probability of each option: the product along each of its paths, summed over them."""
        totals = dict.fromkeys(self.options.values(), 0.0)
        for path, option in self.options.items():
            probability = 1.0
            for depth, token in enumerate(path):
                probability *= shares[path[:depth]][token] if path[:depth] in shares else 1.0
            totals[option] += probability
        return totals

    def greedy(self, shares: Shares) -> int:
        """The option reached by the most probable token at every decision, as in greedy decoding."""
        path: Path = ()
        while path not in self.options:
            legal = self.children[path]
            path += (max(legal, key=shares[path].__getitem__) if path in shares else legal[0],)
        return self.options[path]


def _ambiguous(path: Path) -> RoutingError:
    return RoutingError(
        "this vocabulary cannot tell one legal answer from another, or from its beginning",
        value=f"tokens {list(path)}",
        expected="answers that differ before either ends",
        hint="Pass a prompt with another separator or word for none.",
    )
