"""The YAML file of a training run, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from mova_core.cards.spec import Spec, Text
from mova_core.errors import ConfigError
from mova_core.model.settings import AdapterSettings, LanguageSettings, RouterSettings, TextSettings

StageName = Literal["align", "sft", "router"]


class LoraSettings(Spec):
    """A LoRA of the language model.

    Args:
        rank, alpha, dropout: as in peft.
        targets: names of the linear layers that get one.
    """

    rank: Annotated[int, Field(gt=0)] = 8
    alpha: Annotated[int, Field(gt=0)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class NewModel(Spec):
    """A model to be built where no checkpoint is started from."""

    base: Text
    pool: tuple[str, ...]
    adapter: AdapterSettings
    text_encoder: TextSettings
    language_model: LanguageSettings
    router: RouterSettings = RouterSettings()


class DataSettings(Spec):
    """Where samples come from.

    Args:
        factory: `module:function` that gives a sample set.
        arguments: for it.
        features: folder for the features of frozen encoders, shared by runs on the same data.
        extra_experts: other experts run for each sample, at random.
    """

    factory: Text
    arguments: dict[str, Any] = {}
    features: Text
    extra_experts: Annotated[int, Field(ge=0)] = 1


class RouteSettings(Spec):
    """Which routes a stage sees for a sample; what is left of 1 is the sample's own route.

    Args:
        none: share with no expert, so that the base alone stays in distribution.
        added: share with one more expert than helps.
        other: share with an expert that does not help.
    """

    none: Annotated[float, Field(ge=0, le=1)] = 0.1
    added: Annotated[float, Field(ge=0, le=1)] = 0.1
    other: Annotated[float, Field(ge=0, le=1)] = 0.05


class TrainConfig(Spec):
    """One training run.

    Args:
        stage: what is trained.
        output: folder of the run; the trained checkpoint is its sub-folder `model`.
        start: checkpoint directory to start from; without it `model` is built.
        model: a model to build.
        data: training samples.
        routes: routes seen by `align` and `sft`.
        loras: LoRAs to add where the starting model lacks them, by name.
        learning_rates: by group of weights (`adapter`, `answer`, `router`).
        steps: optimiser steps.
        batch: samples a step.
        turns: the most questions of one picture in one sample.
        seed: of everything drawn.
        weight_decay: of all groups.
        warmup: steps of rising learning rate.
        save_every: steps between checkpoints that a killed run resumes from.
        options: further fields of the stage.
    """

    stage: StageName
    output: Text
    start: str | None = None
    model: NewModel | None = None
    data: DataSettings
    routes: RouteSettings = RouteSettings()
    loras: dict[Literal["answer", "router"], LoraSettings] = {}
    learning_rates: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    steps: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=0)] = 16
    turns: Annotated[int, Field(gt=0)] = 3
    seed: int = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 20
    save_every: Annotated[int, Field(gt=0)] = 100
    options: dict[str, Any] = {}


def read_train_config(path: Path, **changes: Any) -> TrainConfig:
    """Reads and checks a YAML file.

    Args:
        path: the file.
        changes: top-level fields to replace.

    Raises:
        ConfigError: naming the file, the field and what was expected.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the training configuration cannot be read",
            value=str(path),
            expected=f"a YAML file ({str(error).splitlines()[0]})",
        ) from error
    if not isinstance(given, dict):
        raise ConfigError(
            "the training configuration is empty", value=str(path), expected="a mapping of fields"
        )
    try:
        return TrainConfig.model_validate({**given, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            expected="a field of a training configuration, see docs/training.md",
        ) from error
