"""Training the pointwise router: the LoRA `router` learns which descriptions fit an image and a question.

Notation for tensor shapes:
    b: samples, e: descriptions offered to a sample, n_r: routing tokens, d: width of the language model
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mova_core.errors import ConfigError
from mova_core.experts.pool import ExpertPool
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.processing import MovaProcessor
from mova_core.model.routers import pointwise_router
from mova_core.routing.calibration import Calibration
from mova_core.training.choices import Choice, Choices, read_domains
from mova_core.training.config import TrainConfig
from mova_core.training.features import write_features
from mova_core.training.samples import SampleSet
from mova_core.training.stage import Stage
from mova_core.training.trainer import StageTrainer, arguments


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
