"""Drawn pictures as samples for the training stages and for evaluation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mova_core.training.samples import Sample
from mova_nano.data.assets import Assets
from mova_nano.data.dataset import KINDS, default_assets, scene
from mova_nano.data.scene import GRID, Mark, Question

Split = Literal["train", "validation", "test"]
SHARES = {"text": 0.24, "chart": 0.24, "objects": 0.18, "regions": 0.14, "medical": 0.12, "base": 0.08}
"""How often each kind of picture is drawn."""

FUSED = GRID // 2


@dataclass(frozen=True)
class TrainingSet:
    """Pictures of all kinds; each sample holds the questions of one route, chosen by its number.

    Args:
        size: how many.
        split: which looks and wordings.
        seed: of everything drawn.
        base_weight: how often a sample asks what needs no expert, where one question that does counts as one.
        assets: fonts and sprites.
    """

    size: int
    split: Split = "train"
    seed: int = 0
    base_weight: float = 0.5
    assets: Assets | None = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"{self.seed}/{self.split}/{index}/kind")
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        drawn = scene(kind, self.split, index, self.assets or default_assets(), self.seed)
        routes: dict[tuple[str, ...], list[Question]] = {}
        for question in drawn.questions:
            routes.setdefault(question.experts, []).append(question)
        # Questions that need no expert are asked about pictures that an expert could read, too.
        weights = [len(asked) if route else self.base_weight for route, asked in routes.items()]
        route = rng.choices(list(routes), weights)[0]
        asked = routes[route]
        rng.shuffle(asked)
        return Sample(
            image=drawn.image,
            turns=tuple((q.text, q.answer) for q in asked),
            experts=route,
            words=_shares(drawn.marks) if route else {},
            task=asked[0].task,
            plain=asked[0].plain,
        )


def training_set(size: int, split: Split = "train", seed: int = 0, base_weight: float = 0.5) -> TrainingSet:
    """The factory that recipes name."""
    return TrainingSet(size, split, seed, base_weight)


TASKS = ("text", "chart", "objects", "regions", "medical", "base")


def held_out(tasks: Sequence[str] = (), count: int = 300, seed: int = 1) -> list[Sample]:
    """The evaluation set: `count` questions a task on unseen looks, in unseen wordings.

    Args:
        tasks: some of `TASKS`; all by default.
        count: questions a task.
        seed: another one than training used.
    """
    return [sample for task in tasks or TASKS for sample in question_set(task, count, "test", seed)]


def question_set(task: str, count: int, split: Split = "test", seed: int = 1) -> list[Sample]:
    """`count` samples of one question each, all of one task, for evaluation.

    Args:
        task: "text", "chart", "objects", "regions", "medical" or "base".
        count: how many.
        split: which looks and wordings.
        seed: another one than training used.
    """
    found: list[Sample] = []
    assets, index = default_assets(), 0
    kinds = list(KINDS) if task == "base" else [task]
    while len(found) < count:
        kind = kinds[index % len(kinds)]
        drawn = scene(kind, split, index, assets, seed)
        own = [q for q in drawn.questions if q.task == task]
        if own:
            q = random.Random(f"{seed}/{task}/{index}").choice(own)
            found.append(Sample(drawn.image, ((q.text, q.answer),), q.experts, {}, task, q.plain))
        index += 1
    return found


def _shares(marks: tuple[Mark, ...]) -> Mapping[str, NDArray[np.float32]]:
    """For every word the share of each fused cell (2x2 cells of the grid) that it is true of."""
    grids: dict[str, NDArray[np.bool_]] = {}
    for mark in marks:
        for word in mark.words:
            grids[word] = grids[word] | mark.cells if word in grids else mark.cells
    return {w: g.reshape(FUSED, 2, FUSED, 2).mean((1, 3)).astype(np.float32) for w, g in grids.items()}
