"""Routing choices to learn from: a question, and descriptions of which some help.

Two sources are mixed: pictures with the model's own pool, and questions about pictures that are only
described, with the descriptions of many other domains. The second is what makes experts that were never seen
routable by their words.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch.utils.data import Dataset

from mova_core.errors import ConfigError
from mova_core.training.samples import SampleSet


@dataclass(frozen=True, slots=True)
class Choice:
    """One question with descriptions, some of which help.

    Args:
        index: picture of the sample set, or None for a question without a picture.
        question: the question.
        descriptions: as many as every other choice of the run has.
        useful: which of them help.
    """

    index: int | None
    question: str
    descriptions: tuple[str, ...]
    useful: tuple[bool, ...]


@dataclass
class Choices(Dataset[Choice]):
    """Seeded choices: the pool is shuffled, cut and reworded for every sample (paper, appendix).

    Args:
        samples: pictures with their useful experts.
        wordings: descriptions of the pool's experts by id.
        domains: described domains, each with `descriptions` and `questions`.
        general: questions that need no expert.
        length: how many.
        offered: descriptions a sample.
        worded: share of samples without a picture.
        seed: of all draws.
    """

    samples: SampleSet
    wordings: Mapping[str, Sequence[str]]
    domains: Sequence[Mapping[str, Any]]
    general: Sequence[str]
    length: int
    offered: int
    worded: float
    seed: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> Choice:
        rng = random.Random(f"{self.seed}/router/{place}")
        return self._worded(rng) if self.domains and rng.random() < self.worded else self._pictured(rng)

    def _pictured(self, rng: random.Random) -> Choice:
        index = rng.randrange(len(self.samples))
        sample = self.samples[index]
        question = rng.choice(sample.turns)[0]
        others = [id for id in self.wordings if id not in sample.experts]
        rng.shuffle(others)
        useful = [
            id for id in sample.experts if rng.random() < 0.93
        ]  # now and then the right one is not on offer
        offered = [(rng.choice(self.wordings[id]), True) for id in useful]
        offered += [(rng.choice(self.wordings[id]), False) for id in others]
        offered = offered[: self.offered]
        while len(offered) < self.offered and self.domains:  # foreign experts fill the pool, and do not help
            offered.append((rng.choice(rng.choice(self.domains)["descriptions"]), False))
        return _choice(rng, index, question, offered)

    def _worded(self, rng: random.Random) -> Choice:
        if self.general and rng.random() < 0.1:
            others = rng.sample(list(self.domains), self.offered)
            return _choice(
                rng, None, rng.choice(self.general), [(rng.choice(d["descriptions"]), False) for d in others]
            )
        right, *others = rng.sample(list(self.domains), self.offered + 1)
        offered = [(rng.choice(d["descriptions"]), False) for d in others[: self.offered - 1]]
        if rng.random() < 0.9:
            offered.append((rng.choice(right["descriptions"]), True))
        else:
            offered.append((rng.choice(others[-1]["descriptions"]), False))
        return _choice(rng, None, rng.choice(right["questions"]), offered)


def _choice(rng: random.Random, index: int | None, question: str, offered: list[tuple[str, bool]]) -> Choice:
    rng.shuffle(offered)
    return Choice(index, question, tuple(d for d, _ in offered), tuple(u for _, u in offered))


def read_domains(path: Path, *, held_out: bool = False) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Described domains and general questions of a YAML file.

    Args:
        path: the file.
        held_out: the domains kept for tests instead of those for training.

    Raises:
        ConfigError: if the file is not there or lacks a field.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        domains = [d for d in data["domains"] if bool(d.get("held_out", False)) == held_out]
        return domains, list(data["general_questions"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            "the routing domains cannot be read",
            value=str(path),
            expected=f"YAML with `domains` and `general_questions` ({error})",
        ) from error
