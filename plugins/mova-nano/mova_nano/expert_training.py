"""Trains one expert of mova-nano to name what it sees on every cell of its grid.

Notation for tensor shapes:
    b: images, n: 256 cells, c: feature channels, w: concepts (words) of the expert
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import yaml
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import Field, TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from mova_core.cards.spec import Spec
from mova_core.errors import ConfigError
from mova_core.experts.streams import stream_tensor
from mova_core.experts.weights import load_strict
from mova_core.model.checkpoint import preferred_dtype
from mova_core.training.memory import keep_freed_memory
from mova_nano.data.assets import Assets
from mova_nano.data.concepts import LESSONS, Lesson, targets
from mova_nano.data.dataset import default_assets, scene
from mova_nano.encoders import DenseEncoder
from mova_nano.streams import nano_stream


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
        return {"pixels": stream_tensor([image], nano_stream(self.lesson.size))[0], "labels": labels}


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


class Pass(Spec):
    """One pass over drawn pictures.

    Args:
        samples: pictures, each seen once.
        batch: pictures a step.
        lr: highest learning rate.
        seed: of pictures and weights; another pass takes another.
    """

    samples: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=0)] = 16
    lr: Annotated[float, Field(gt=0)] = 1.5e-3
    seed: int = 0


def read_passes(path: Path) -> dict[str, tuple[Pass, ...]]:
    """The passes of every expert in a recipe.

    Raises:
        ConfigError: naming what cannot be read.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = TypeAdapter(dict[str, tuple[Pass, ...]]).validate_python(given)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(
            "the recipe of experts cannot be read",
            value=str(path),
            expected=f"passes by expert id ({str(error).splitlines()[0]})",
        ) from error
    unknown = sorted(recipe.keys() - LESSONS.keys())
    if unknown:
        raise ConfigError("no such expert to train", value=", ".join(unknown), expected=", ".join(LESSONS))
    return recipe


def train_expert(
    expert: str, passes: Sequence[Pass], *, backbone: Path, output: Path, resume: bool = False
) -> Path:
    """Trains an expert and writes its encoder as bfloat16 safetensors.

    Args:
        expert: a key of `LESSONS`.
        passes: in order, each continuing from the one before.
        backbone: ImageNet weights to start from (safetensors in timm's layout).
        output: folder for checkpoints and `<expert>.safetensors`.
        resume: skip passes that are done, and continue the one that was stopped.

    Returns:
        The file written.
    """
    keep_freed_memory()
    lesson, assets = LESSONS[expert], default_assets()
    file = output / f"{expert}.safetensors"
    model: ConceptModel | None = None
    for number, each in enumerate(passes):
        folder = output / expert / f"pass-{number}"
        done = folder / "encoder.safetensors"
        if resume and done.is_file():
            continue
        torch.manual_seed(each.seed)
        encoder = DenseEncoder(stride=lesson.size // 256)
        before = output / expert / f"pass-{number - 1}" / "encoder.safetensors"
        if number:
            load_strict(encoder, {k: _wide(v) for k, v in load_file(before).items()}, source=str(before))
        else:
            load_backbone(encoder, backbone)
        model = ConceptModel(encoder, len(lesson.concepts))
        pictures = Pictures(lesson, "train", each.samples, assets, each.seed)
        trainer = Trainer(model=model, args=_arguments(each, folder), train_dataset=pictures)
        found = resume and folder.is_dir()
        last = get_last_checkpoint(str(folder)) if found else None  # type: ignore[no-untyped-call]
        trainer.train(resume_from_checkpoint=last)
        save_file({k: _narrow(v) for k, v in encoder.state_dict().items()}, done)
    shutil.copyfile(done, file)
    if model is not None:
        print(json.dumps({split: _score(model, lesson, assets, split) for split in ("validation", "test")}))
    return file


def _arguments(each: Pass, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=each.batch,
        num_train_epochs=1,
        learning_rate=each.lr,
        lr_scheduler_type="cosine",
        warmup_steps=30,
        weight_decay=0.05,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        bf16=preferred_dtype(torch.device("cpu")) == torch.bfloat16,
        logging_steps=20,
        save_steps=100,
        save_total_limit=1,
        report_to=[],
        seed=each.seed,
        remove_unused_columns=False,
    )


def _narrow(tensor: Tensor) -> Tensor:
    return (tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor).contiguous()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@torch.no_grad()
def _score(
    model: ConceptModel, lesson: Lesson, assets: Assets, split: str, count: int = 300
) -> dict[str, float]:
    """Mean F1 over concepts on `count` pictures, and the F1 of each concept."""
    model.eval()
    pictures = Pictures(lesson, split, count, assets, seed=1)
    rows = [pictures[i] for i in range(count)]
    logits = [
        model.head(model.encoder(torch.stack([r["pixels"] for r in rows[i : i + 16]])))
        for i in range(0, count, 16)
    ]
    scores = f1(torch.cat(logits), torch.stack([r["labels"] for r in rows]))
    seen = {w: round(float(s), 3) for s, w in zip(scores, lesson.concepts, strict=True) if not torch.isnan(s)}
    return {"mean": round(sum(seen.values()) / len(seen), 3), **seen}
