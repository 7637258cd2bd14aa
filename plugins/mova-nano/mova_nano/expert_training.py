"""Trains one expert of mova-nano to name what it sees on every cell of its grid.

Notation for tensor shapes:
    b: images, n: 256 cells, c: feature channels, w: concepts (words) of the expert
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from mova_core.training.memory import keep_freed_memory
from mova_nano.data.assets import Assets
from mova_nano.data.concepts import LESSONS, Lesson, targets
from mova_nano.data.dataset import default_assets, scene
from mova_nano.encoders import DenseEncoder


class ConceptModel(nn.Module):
    """An encoder with the linear head that teaches it; the head is not part of the expert."""

    def __init__(self, encoder: DenseEncoder, concepts: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.norm.normalized_shape[0], concepts)
        nn.init.constant_(self.head.bias, -3.0)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Focal-like binary loss: rare positive cells weigh as much as the many empty ones."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        logits = self.head(self.encoder(pixels)).float()  # [b, n, w]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        sure = torch.exp(-loss.detach())
        loss = (loss * (1 - sure) ** 1.5).sum() / labels.sum().clamp(min=1.0)
        return {"loss": loss, "logits": logits}


@dataclass
class Pictures(Dataset[dict[str, Tensor]]):
    """Scenes of a lesson as training pairs; picture `index` is the same in every epoch and process."""

    lesson: Lesson
    split: str
    size: int
    assets: Assets
    seed: int = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.seed}/{self.split}/{index}")
        kind = rng.choices(list(self.lesson.kinds), list(self.lesson.kinds.values()))[0]
        drawn = scene(kind, self.split, index, self.assets, self.seed)
        image = spoil(drawn.image, rng) if self.split == "train" else drawn.image
        labels = torch.from_numpy(targets(drawn.marks, self.lesson.concepts))
        return {"pixels": square_pixels(image, self.lesson.size), "labels": labels}


def spoil(image: Image.Image, rng: random.Random) -> Image.Image:
    """What cameras and the web do to pictures: light, contrast, blur, JPEG, each now and then."""
    if rng.random() < 0.4:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.75, 1.2))
    if rng.random() < 0.4:
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.7, 1.3))
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.2)))
    if rng.random() < 0.3:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=rng.randint(30, 90))
        image = Image.open(packed).convert("RGB")
    return image


def square_pixels(image: Image.Image, size: int) -> Tensor:
    """The experts' input stream, for one image: gray padding to a square, bicubic, values in [-1, 1]."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = np.asarray(square.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).div(127.5).sub(1.0)


def load_backbone(encoder: DenseEncoder, file: Path) -> None:
    """Starts the encoder's first stages from ImageNet weights (safetensors in timm's layout)."""
    state = load_file(file)
    own = encoder.stages.state_dict()
    encoder.stages.load_state_dict({key: state[key] for key in own}, strict=True)


def f1(logits: Tensor, labels: Tensor) -> Tensor:
    """F1 of every concept over all cells: [w]; NaN where a concept never occurs."""
    said, true = logits.flatten(0, 1) > 0, labels.flatten(0, 1) > 0.5
    hit = (said & true).sum(0).float()
    return 2 * hit / (said.sum(0) + true.sum(0)) + torch.where(true.any(0), 0.0, torch.nan)


def train(
    expert: str,
    *,
    backbone: Path,
    output: Path,
    samples: int = 12_000,
    batch: int = 32,
    lr: float = 2e-3,
    eval_samples: int = 300,
    seed: int = 0,
    resume: bool = False,
    workers: int = 0,
    init: Path | None = None,
) -> dict[str, Any]:
    """Trains an expert and writes its encoder as bfloat16 safetensors.

    Args:
        expert: a key of `LESSONS`.
        backbone: ImageNet weights to start from.
        output: folder for checkpoints and `<expert>.safetensors`.
        samples: pictures seen, one epoch.
        batch: pictures a step.
        lr: highest learning rate.
        eval_samples: held-out pictures for the closing F1.
        seed: of pictures and weights.
        resume: continue from the last checkpoint in `output`.
        workers: processes that draw pictures.
        init: an encoder file to continue from instead of the ImageNet start.

    Returns:
        The closing figures: mean F1 on validation and test pictures, and the worst concepts.
    """
    torch.manual_seed(seed)
    lesson, assets = LESSONS[expert], default_assets()
    encoder = DenseEncoder(stride=lesson.size // 256)
    if init is not None:
        encoder.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in load_file(init).items()}
        )
    else:
        load_backbone(encoder, backbone)
    model = ConceptModel(encoder, len(lesson.concepts))
    keep_freed_memory()
    arguments = TrainingArguments(
        output_dir=str(output / expert),
        per_device_train_batch_size=batch,
        num_train_epochs=1,
        learning_rate=lr,
        lr_scheduler_type="cosine",
        warmup_steps=30,
        weight_decay=0.05,
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=True,
        logging_steps=20,
        save_steps=100,
        save_total_limit=1,
        report_to=[],
        dataloader_num_workers=workers,
        seed=seed,
        remove_unused_columns=False,
        disable_tqdm=False,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Pictures(lesson, "train", samples, assets, seed)
    )
    trainer.train(resume_from_checkpoint=resume)
    output.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            k: (v.to(torch.bfloat16) if v.is_floating_point() else v).contiguous()
            for k, v in encoder.state_dict().items()
        },
        output / f"{expert}.safetensors",
    )
    torch.save(model.head.state_dict(), output / f"{expert}-head.pt")
    return {
        split: _score(model, lesson, Pictures(lesson, split, eval_samples, assets, seed + 1))
        for split in ("validation", "test")
    }


@torch.no_grad()
def _score(model: ConceptModel, lesson: Lesson, pictures: Pictures) -> dict[str, Any]:
    model.eval()
    rows = [pictures[i] for i in range(len(pictures))]
    logits = [
        model.head(model.encoder(torch.stack([r["pixels"] for r in rows[i : i + 16]])))
        for i in range(0, len(rows), 16)
    ]
    scores = f1(torch.cat(logits), torch.stack([r["labels"] for r in rows]))
    seen = [(float(s), w) for s, w in zip(scores, lesson.concepts, strict=True) if not torch.isnan(s)]
    return {"mean_f1": sum(s for s, _ in seen) / len(seen), "worst": sorted(seen)[:12]}
