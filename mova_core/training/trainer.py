"""transformers' Trainer for stages: only trained weights are saved, each group has its own learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

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
        """AdamW with one parameter group for each group of the stage."""
        if self.optimizer is None:
            groups = [
                {"params": [p for p in parameters if p.requires_grad], "lr": self.learning_rates[name]}
                for name, parameters in self.stage.groups()
            ]
            self.optimizer = torch.optim.AdamW(groups, weight_decay=self.args.weight_decay, betas=(0.9, 0.98))
        return self.optimizer

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
