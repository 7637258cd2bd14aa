"""transformers' Trainer for stages: only trained weights are saved, each group has its own learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments

from mova_core.errors import ConfigError
from mova_core.training.config import TrainConfig
from mova_core.training.stage import Stage

WEIGHTS = "trained.safetensors"


class StageTrainer(Trainer):
    """Trains a `Stage`.

    Args:
        stage: the module.
        learning_rates: by group of the stage.
        **kwargs: as for transformers' Trainer.
    """

    def __init__(self, stage: Stage, learning_rates: Mapping[str, float], **kwargs: Any) -> None:
        self.stage = stage
        self.learning_rates = dict(learning_rates)
        super().__init__(model=stage, **kwargs)

    def create_optimizer(self, *_: Any, **__: Any) -> torch.optim.Optimizer:
        """AdamW with one parameter group for each group of the stage that has weights.

        Raises:
            ConfigError: if a group has no learning rate, or there is nothing to train.
        """
        if self.optimizer is None:
            groups = [
                {"params": parameters, "lr": self._learning_rate(name)}
                for name, group in self.stage.groups()
                if (parameters := [p for p in group if p.requires_grad])
            ]
            if not groups:
                raise ConfigError(
                    "the run trains no weights",
                    value=" and ".join(name for name, _ in self.stage.groups()),
                    expected="a model that has them",
                    hint="Name the LoRA to add under `loras`.",
                )
            self.optimizer = torch.optim.AdamW(groups, weight_decay=self.args.weight_decay, betas=(0.9, 0.98))
        return self.optimizer

    def _learning_rate(self, group: str) -> float:
        if group not in self.learning_rates:
            raise ConfigError(
                "learning_rates: a group of weights has none",
                value=", ".join(self.learning_rates),
                expected=f"one for {group}",
            )
        return self.learning_rates[group]

    def run(self, *, resume: bool) -> None:
        """Trains from the start, or from the newest checkpoint of a run that was stopped."""
        last = last_checkpoint(Path(str(self.args.output_dir))) if resume else None
        self.train(resume_from_checkpoint=str(last) if last else None)

    def _get_train_sampler(self, *_: Any, **__: Any) -> Sampler[int]:
        """In order: sets draw theirs from a seed, and which samples share a batch matters to them."""
        data: Any = self.train_dataset
        return SequentialSampler(data)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The stage's own loss; how many items a batch has is known to the stage."""
        outputs: dict[str, Tensor] = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)  # type: ignore[arg-type]
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self.stage), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.stage, Path(resume_from_checkpoint))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; one that a kill cut short lacks its state, which is written last."""
    whole = (path.parent for path in folder.glob("checkpoint-*/trainer_state.json"))
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def trained_state(stage: nn.Module) -> dict[str, Tensor]:
    """The weights that get gradients, by name."""
    return {name: p.detach().cpu().contiguous() for name, p in stage.named_parameters() if p.requires_grad}


def load_trained(stage: nn.Module, folder: Path) -> None:
    """Puts back what `trained_state` gave."""
    stage.load_state_dict(load_file(folder / WEIGHTS), strict=False)


def arguments(config: TrainConfig) -> TrainingArguments:
    """Trainer arguments of a run."""
    cpu = not torch.cuda.is_available()
    half = not cpu or torch.cpu._is_avx512_bf16_supported()
    return TrainingArguments(
        output_dir=str(Path(config.output) / "checkpoints"),
        per_device_train_batch_size=config.batch,
        max_steps=config.steps,
        learning_rate=max(config.learning_rates.values()),
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=1.0,
        bf16=half,
        use_cpu=cpu,
        logging_steps=10,
        save_steps=config.save_every,
        save_total_limit=1,
        report_to=[],
        remove_unused_columns=False,
        seed=config.seed,
        dataloader_num_workers=0,
    )


def step_size(args: TrainingArguments) -> int:
    """Samples of one optimiser step, on all devices and processes together."""
    return int(args.train_batch_size * args.world_size * args.gradient_accumulation_steps)
