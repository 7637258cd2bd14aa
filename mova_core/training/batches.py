"""From samples and stored features to the tensors of a batch.

Notation for tensor shapes:
    b: samples, n: base tokens, c: channels, m: fused tokens, w: words, s: text tokens, t: text width
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mova_core.errors import ConfigError
from mova_core.fusion.text import TextEncoder
from mova_core.model.processing import MovaProcessor
from mova_core.training.config import RouteSettings
from mova_core.training.features import FeatureStore
from mova_core.training.samples import Sample, SampleSet


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample as one epoch sees it: some of its questions, under one route."""

    index: int
    sample: Sample
    turns: tuple[tuple[str, str], ...]
    route: tuple[str, ...]


@lru_cache(maxsize=2)
def _order(seed: int, passes: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, passes]).permutation(count)


@dataclass
class DrawnSamples(Dataset[Drawn]):
    """Draws order, questions and routes anew for every pass over the samples, from a seed.

    Samples of a batch get equally many questions, where they have them, so that conversations are about
    equally long and little is padded.

    Args:
        samples: pictures with questions.
        store: their features.
        length: samples in all, over all passes.
        turns: the most questions of one picture.
        routes: shares of routes.
        seed: of the draws.
        batch: samples of one batch; batches take their samples in order.
    """

    samples: SampleSet
    store: FeatureStore
    length: int
    turns: int
    routes: RouteSettings
    seed: int
    batch: int = 1

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> Drawn:
        passes, row = divmod(place, len(self.samples))
        rng = random.Random(f"{self.seed}/{passes}/{row}")
        index = int(_order(self.seed, passes, len(self.samples))[row])
        sample = self.samples[index]
        wanted = random.Random(f"{self.seed}/turns/{place // self.batch}").randint(1, self.turns)
        asked = rng.sample(sample.turns, min(len(sample.turns), wanted))
        return Drawn(index, sample, tuple(asked), self._route(sample, index, rng))

    def _route(self, sample: Sample, index: int, rng: random.Random) -> tuple[str, ...]:
        others = sorted(self.store.experts(index).keys() - set(sample.experts))
        dice = rng.random()
        if dice < self.routes.none:
            return ()
        if others and dice < self.routes.none + self.routes.added:
            return (*sample.experts, rng.choice(others))
        if others and dice < self.routes.none + self.routes.added + self.routes.other:
            return (rng.choice(others),)
        return sample.experts


class Collator:
    """Builds the tensors of a batch.

    Args:
        store: features of the samples.
        processor: writes conversations.
        text_encoder: the adapter's; it is frozen, so its feature is computed here.
        words: names that aligned tokens learn, in order; empty for other stages.
    """

    def __init__(
        self,
        store: FeatureStore,
        processor: MovaProcessor,
        text_encoder: TextEncoder,
        words: Sequence[str] = (),
    ) -> None:
        self.store = store
        self.processor = processor
        self.text_encoder = text_encoder
        self.words = {word: i for i, word in enumerate(words)}

    def __call__(self, batch: Sequence[Drawn]) -> dict[str, Any]:
        text = self.processor.question_tokens([[q for q, _ in drawn.turns] for drawn in batch])
        with torch.no_grad():
            text_features = self.text_encoder(text["input_ids"], text["attention_mask"])
        data: dict[str, Any] = {
            "base_features": torch.stack([self.store.base(drawn.index) for drawn in batch]).float(),
            "text_features": text_features,
            "experts": self._experts(batch),
        }
        return data | (self._targets(batch) if self.words else self._conversations(batch))

    def _experts(self, batch: Sequence[Drawn]) -> dict[str, dict[str, Tensor]]:
        found: dict[str, tuple[list[int], list[Tensor]]] = {}
        for row, drawn in enumerate(batch):
            own = self.store.experts(drawn.index)
            for id in drawn.route:
                rows, tokens = found.setdefault(id, ([], []))
                if id not in own:
                    raise ConfigError(
                        "data.features: features of an expert are missing there",
                        value=f"{id} of sample {drawn.index}",
                        expected="what these samples and this pool need",
                        hint="Name another folder, or delete that one; it is filled anew.",
                    )
                rows.append(row)
                tokens.append(own[id])
        return {
            id: {"rows": torch.tensor(rows), "tokens": torch.stack(tokens).float()}
            for id, (rows, tokens) in sorted(found.items())
        }

    def _targets(self, batch: Sequence[Drawn]) -> dict[str, Tensor]:
        cells = self.processor.image_tokens
        targets = np.zeros((len(batch), cells, len(self.words)), dtype=np.float32)  # [b, m, w]
        for row, drawn in enumerate(batch):
            for word, share in drawn.sample.words.items():
                targets[row, :, self.words[word]] = share.reshape(-1)
        return {"targets": torch.from_numpy(targets)}

    def _conversations(self, batch: Sequence[Drawn]) -> dict[str, Tensor]:
        """Conversations padded on the right, labels on the answers and their stop marks only."""
        processor, write = self.processor, self.processor.text_ids
        rows: list[list[int]] = []
        labels: list[list[int]] = []
        for drawn in batch:
            ids = processor.begin_ids() + write(processor.prompt.begin)
            told = [-100] * len(ids)
            for number, (question, answer) in enumerate(drawn.turns):
                asked = write(processor.asked(question, images=int(number == 0)))
                answered = write(processor.answered(answer))
                ids += asked + answered
                told += [-100] * len(asked) + answered
            rows.append(ids)
            labels.append(told)
        longest = max(map(len, rows))
        pad = self.processor.tokenizer.pad_token_id
        return {
            "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids in rows]),  # [b, s]
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in rows]),
            "labels": torch.tensor([told + [-100] * (longest - len(told)) for told in labels]),
        }
