"""Training the pointwise router: the LoRA `router` learns which descriptions fit an image and a question.

Two sources are mixed: pictures with the model's own pool, and questions about pictures that are only
described, with the descriptions of many other domains. The second is what makes experts that were never seen
routable by their words.

Notation for tensor shapes:
    b: samples, e: descriptions offered to a sample, n_r: routing tokens, d: width of the language model
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.utils.data import Dataset

from mova_core.errors import ConfigError
from mova_core.experts.pool import ExpertPool
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.processing import MovaProcessor
from mova_core.model.routers import pointwise_router
from mova_core.routing.calibration import Calibration
from mova_core.training.config import TrainConfig
from mova_core.training.features import write_features
from mova_core.training.samples import SampleSet
from mova_core.training.stage import Stage
from mova_core.training.trainer import StageTrainer, arguments


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


class RouterStage(Stage):
    """Scores of descriptions: each by itself (is it useful?) and against each other (which is the best?)."""

    def __init__(self, model: MovaForConditionalGeneration, processor: MovaProcessor) -> None:
        super().__init__(model, {})
        self.router = pointwise_router(model, processor)
        self.width = model.config.language_settings.width

    def groups(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        yield "router", self.lora("router")

    def scores(self, tokens: Sequence[Tensor], choices: Sequence[Choice]) -> Tensor:
        """[b, e] scores, in nats."""
        return self.router.scores(tokens, [c.question for c in choices], [c.descriptions for c in choices])

    def forward(self, tokens: Sequence[Tensor], choices: Sequence[Choice], **_: Any) -> dict[str, Tensor]:
        """Binary loss of every description, plus the softmax loss of the useful one where there is one."""
        scores = self.scores(tokens, choices)  # [b, e]
        useful = torch.tensor([c.useful for c in choices], dtype=scores.dtype)
        loss = F.binary_cross_entropy_with_logits(scores, useful)
        chosen = useful.sum(1) > 0
        if chosen.any():
            share = useful[chosen] / useful[chosen].sum(1, keepdim=True)
            loss = loss + 0.5 * F.cross_entropy(scores[chosen], share)
        return {"loss": loss, "scores": scores}


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


def train_router(
    model: MovaForConditionalGeneration,
    processor: MovaProcessor,
    samples: SampleSet,
    pool: ExpertPool,
    config: TrainConfig,
    *,
    resume: bool,
    tell: Callable[[str], None],
) -> None:
    """Trains the LoRA, then calibrates the threshold on choices it has not seen."""
    stage = RouterStage(model, processor)
    stage.unfreeze()
    stage.train()
    offered = int(config.options.get("offered", 4))
    domains, general = _domains(config, offered)
    tokens = picture_tokens(model, processor, samples, config, tell)
    wordings = {card.id: card.descriptions for card in pool}
    data = Choices(
        samples,
        wordings,
        domains,
        general,
        config.steps * config.batch,
        offered,
        float(config.options.get("worded", 0.4)),
        config.seed,
    )
    trainer = StageTrainer(
        stage,
        config.learning_rates,
        args=arguments(config),
        train_dataset=data,
        data_collator=lambda batch: _collate(batch, tokens, stage.width),
    )
    trainer.run(resume=resume)
    calibrate(
        stage,
        Choices(
            samples,
            wordings,
            domains,
            general,
            int(config.options.get("calibration", 320)),
            offered,
            float(config.options.get("worded", 0.4)),
            config.seed + 1,
        ),
        tokens,
        tell,
    )


@torch.no_grad()
def calibrate(
    stage: RouterStage, data: Choices, tokens: Mapping[tuple[int, str], Tensor], tell: Callable[[str], None]
) -> None:
    """Fits bias and temperature of the model's router on `data`, by maximum likelihood."""
    stage.eval()
    scores, useful = [], []
    for start in range(0, len(data), 16):
        batch = _collate([data[i] for i in range(start, min(start + 16, len(data)))], tokens, stage.width)
        scores.append(stage.scores(batch["tokens"], batch["choices"]).flatten())
        useful += [u for choice in batch["choices"] for u in choice.useful]
    fitted = Calibration.fit(torch.cat(scores), torch.tensor(useful))
    right = (fitted.probabilities(torch.cat(scores)) > fitted.threshold) == torch.tensor(useful)
    stage.model.config.router |= {
        "bias": fitted.bias,
        "temperature": fitted.temperature,
        "threshold": fitted.threshold,
    }
    tell(
        f"calibrated: bias {fitted.bias:.2f}, temperature {fitted.temperature:.2f}, "
        f"{100 * right.float().mean():.1f} % of {len(useful)} descriptions judged rightly"
    )


@torch.no_grad()
def picture_tokens(
    model: MovaForConditionalGeneration,
    processor: MovaProcessor,
    samples: SampleSet,
    config: TrainConfig,
    tell: Callable[[str], None],
) -> Mapping[tuple[int, str], Tensor]:
    """What the router sees, [n_r, d], for each sample and question; computed once, as the core is frozen."""
    none = ExpertPool([])
    store = write_features(
        cast(SampleSet, _Routeless(samples)),
        Path(config.data.features),
        base=model.base,
        pool=none,
        extra=0,
        seed=config.seed,
        tell=tell,
    )
    found: dict[tuple[int, str], Tensor] = {}
    model.eval()  # type: ignore[no-untyped-call]
    for start in range(0, len(samples), 16):
        pairs = [(i, q) for i in range(start, min(start + 16, len(samples))) for q, _ in samples[i].turns]
        text = processor.question_tokens([[question] for _, question in pairs])
        base = torch.stack([store.base(i) for i, _ in pairs]).to(model.adapter.position)
        tokens = model.routing_tokens(base, model.encode_text(text["input_ids"], text["attention_mask"]))
        found |= {pair: tokens[row].to(torch.bfloat16) for row, pair in enumerate(pairs)}
        if start % 512 == 0:
            tell(f"routing tokens: {start} of {len(samples)} samples")
    return found


@dataclass(frozen=True)
class _Routeless:
    """Samples without their experts: only the base is run for them."""

    samples: SampleSet

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        from dataclasses import replace

        return replace(self.samples[index], experts=())


def _collate(batch: Sequence[Choice], tokens: Mapping[tuple[int, str], Tensor], width: int) -> dict[str, Any]:
    blind = torch.zeros(0, width)
    return {
        "tokens": [blind if c.index is None else tokens[c.index, c.question] for c in batch],
        "choices": list(batch),
    }


def _domains(config: TrainConfig, offered: int) -> tuple[list[Mapping[str, Any]], list[str]]:
    path = config.options.get("domains")
    if not path:
        return [], []
    domains, general = read_domains(Path(path))
    if len(domains) <= offered:
        raise ConfigError(
            "options.domains: too few domains to offer",
            value=f"{len(domains)} in {path}",
            expected=f"more than options.offered, which is {offered}",
        )
    return domains, general
