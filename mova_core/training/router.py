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
from mova_core.training.features import FeatureStore, write_features
from mova_core.training.samples import SampleSet, Told
from mova_core.training.stage import Stage
from mova_core.training.trainer import StageTrainer, arguments, step_size


class RouterStage(Stage):
    """Scores of descriptions: each by itself (is it useful?) and against each other (which is the best?)."""

    def __init__(self, model: MovaForConditionalGeneration, processor: MovaProcessor) -> None:
        super().__init__(model, {})
        self.router = pointwise_router(model, processor)

    def groups(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        yield "router", self.lora("router")

    def scores(self, tokens: Sequence[Tensor], choices: Sequence[Choice]) -> Tensor:
        """[b, e] scores, in nats."""
        return self.router.scores(tokens, [c.question for c in choices], [c.descriptions for c in choices])

    def forward(self, tokens: Sequence[Tensor], choices: Sequence[Choice], **_: Any) -> dict[str, Tensor]:
        """Binary loss of every description, plus the softmax loss of the useful one where there is one."""
        scores = self.scores(tokens, choices)  # [b, e]
        useful = torch.tensor([c.useful for c in choices], dtype=scores.dtype, device=scores.device)
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
    store = write_features(
        cast(SampleSet, _Routeless(samples)),
        Path(config.data.features),
        base=model.base,
        pool=ExpertPool([]),
        extra=0,
        seed=config.seed,
        tell=tell,
    )
    seen, samples = Seen(model, processor, store), Told(samples)
    wordings = {card.id: card.descriptions for card in pool}
    data = Choices(
        samples,
        wordings,
        domains,
        general,
        config.steps * step_size(arguments(config)),
        offered,
        float(config.options.get("worded", 0.4)),
        config.seed,
    )
    trainer = StageTrainer(
        stage,
        config.learning_rates,
        args=arguments(config),
        train_dataset=data,
        data_collator=lambda batch: _collate(batch, seen),
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
        seen,
        tell,
    )


@torch.no_grad()
def calibrate(stage: RouterStage, data: Choices, seen: Seen, tell: Callable[[str], None]) -> None:
    """Fits bias and temperature of the model's router on `data`, by maximum likelihood."""
    stage.eval()
    scores, useful = [], []
    for start in range(0, len(data), 16):
        batch = _collate([data[i] for i in range(start, min(start + 16, len(data)))], seen)
        scores.append(stage.scores(batch["tokens"], batch["choices"]).flatten().float().cpu())
        useful += [u for choice in batch["choices"] for u in choice.useful]
    fitted = Calibration.fit(torch.cat(scores), torch.tensor(useful))
    right = (fitted.probabilities(torch.cat(scores)) > fitted.threshold) == torch.tensor(useful)
    stage.model.config.router |= {
        "bias": fitted.bias,
        "temperature": fitted.temperature,
        "threshold": fitted.threshold,
        "branch": stage.router.prompt.branch,
    }
    tell(
        f"calibrated: bias {fitted.bias:.2f}, temperature {fitted.temperature:.2f}, "
        f"{100 * right.float().mean():.1f} % of {len(useful)} descriptions judged rightly"
    )


@dataclass(frozen=True)
class Seen:
    """What the router sees of pictures: computed when they are drawn, as most never are.

    Args:
        model: the model; its core is frozen in this stage.
        processor: its processor.
        store: base features of the samples.
    """

    model: MovaForConditionalGeneration
    processor: MovaProcessor
    store: FeatureStore

    @torch.no_grad()
    def __call__(self, choices: Sequence[Choice]) -> list[Tensor]:
        """Routing tokens [n_r, d] of each choice; [0, d] for one without a picture."""
        place = self.model.adapter.position
        tokens = place.new_zeros(0, self.model.config.language_settings.width)
        pairs = [(c.index, c.question) for c in choices if c.index is not None]
        if not pairs:
            return [tokens for _ in choices]
        text = self.processor.question_tokens([[question] for _, question in pairs])
        feature = self.model.encode_text(text["input_ids"], text["attention_mask"])
        base = torch.stack([self.store.base(index) for index, _ in pairs]).to(place)  # [b, n, c]
        shown = iter(self.model.routing_tokens(base, feature))
        return [tokens if c.index is None else next(shown) for c in choices]


@dataclass(frozen=True)
class _Routeless:
    """Samples without their experts: only the base is run for them."""

    samples: SampleSet

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return replace(self.samples[index], experts=())


def _collate(batch: Sequence[Choice], seen: Seen) -> dict[str, Any]:
    return {"tokens": seen(batch), "choices": list(batch)}


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
