"""One training run from its configuration to a checkpoint directory."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mova_core.errors import ConfigError
from mova_core.experts.pool import ExpertPool
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.packs import ExpertPack
from mova_core.model.build import load_base, load_language_model, load_text_encoder, load_tokenizer
from mova_core.model.checkpoint import save_model
from mova_core.model.config import MovaConfig
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.processing import MovaProcessor
from mova_core.model.settings import PoolEntry
from mova_core.model.sources import find_weights
from mova_core.training.batches import Collator, DrawnSamples
from mova_core.training.config import LoraSettings, TrainConfig
from mova_core.training.features import FeatureStore, write_features
from mova_core.training.memory import keep_freed_memory
from mova_core.training.router import train_router
from mova_core.training.samples import Told, build_samples
from mova_core.training.stage import AlignStage, SftStage, Stage
from mova_core.training.trainer import StageTrainer, arguments, step_size

CPU = torch.device("cpu")


def run(config: TrainConfig, *, resume: bool = False, tell: Callable[[str], None] = print) -> Path:
    """Trains and writes the checkpoint.

    Args:
        config: the run.
        resume: continue from the last checkpoint of a run that was stopped.
        tell: hears what is going on.

    Returns:
        The checkpoint directory, `<output>/model`.

    Raises:
        ConfigError, CheckpointError, PartsError: naming what is missing or wrong.
    """
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    keep_freed_memory()
    model = starting_model(config)
    output = Path(config.output) / "model"
    processor = _processor(model, config)
    samples = build_samples(config.data.factory, **config.data.arguments)
    tell(f"{config.stage}: {len(samples)} samples, {config.steps} steps of {config.batch}")
    pool = ExpertPool.from_ids(
        [entry.id for entry in model.config.manifest],
        dtype=next(model.base.parameters()).dtype,
        find=find_weights,
    )
    if config.stage == "router":
        train_router(model, processor, samples, pool, config, resume=resume, tell=tell)
    else:
        store = write_features(
            samples,
            Path(config.data.features),
            base=model.base,
            pool=pool,
            extra=config.data.extra_experts,
            seed=config.seed,
            tell=tell,
        )
        _train(
            model,
            processor,
            DrawnSamples(
                Told(samples),
                store,
                config.steps * step_size(arguments(config)),
                config.turns,
                config.routes,
                config.seed,
                config.batch,
            ),
            store,
            pool,
            config,
            resume,
        )
    model.eval()  # type: ignore[no-untyped-call]
    save_model(model, output)
    tell(f"wrote {output}")
    return output


def _train(
    model: MovaForConditionalGeneration,
    processor: MovaProcessor,
    data: DrawnSamples,
    store: FeatureStore,
    pool: ExpertPool,
    config: TrainConfig,
    resume: bool,
) -> None:
    grids = {card.id: _grid(card.features.grid) for card in pool}
    stage: Stage
    words: Sequence[str] = ()
    if config.stage == "align":
        words = tuple(config.options["words"]) if "words" in config.options else _all_words(data)
        if not words:
            raise ConfigError(
                "stage align has nothing to learn",
                value=config.data.factory,
                expected="samples that name words",
            )
        stage = AlignStage(model, grids, word_embeddings(model, processor, words))
    else:
        stage = SftStage(model, grids)
    stage.unfreeze()
    stage.train()
    trainer = StageTrainer(
        stage,
        config.learning_rates,
        args=arguments(config),
        train_dataset=data,
        data_collator=Collator(store, processor, model.text_encoder.eval(), words),
    )
    trainer.run(resume=resume)


def starting_model(config: TrainConfig) -> MovaForConditionalGeneration:
    """The model a run starts from: a checkpoint, or a new one, with the LoRAs the run asks for.

    Raises:
        ConfigError: if the configuration names neither or both.
    """
    if (config.start is None) == (config.model is None):
        raise ConfigError(
            "a run needs one of `start` and `model`",
            value=config.start or "neither",
            expected="a checkpoint directory, or a model to build",
        )
    if config.start is not None:
        model = MovaForConditionalGeneration.from_pretrained(config.start)
    else:
        model = new_model(config)
    for name, settings in config.loras.items():
        if name not in model.loras.names:
            model.loras.add(name, _lora(settings))
    cpu = not torch.cuda.is_available()
    for parameter_name, parameter in model.language_model.named_parameters():
        if "lora_" in parameter_name:
            parameter.data = parameter.data.float()  # small updates would round away in bfloat16
        if "lora_B" in parameter_name and cpu:
            # So narrow a matrix is multiplied faster on CPU, above all in backward, where it lies transposed.
            parameter.data = parameter.data.T.contiguous().T
    return model


def new_model(config: TrainConfig) -> MovaForConditionalGeneration:
    """A model of pretrained parts with a fresh adapter and a fresh pack for each expert of its pool."""
    spec = config.model
    if spec is None:
        raise ConfigError("the configuration holds no model", expected="a `model` section")
    sizes, pool = spec.adapter, ExpertPool.from_ids(spec.pool)
    adapter = MovAdapter(
        width=sizes.width,
        heads=sizes.heads,
        grid=sizes.grid,
        text_dim=spec.text_encoder.width,
        out_dim=spec.language_model.width,
        depth=sizes.depth,
        ffn_ratio=sizes.ffn_ratio,
        max_experts=sizes.max_experts,
    )
    for card in pool:
        adapter.add_pack(
            card.id,
            ExpertPack(
                width=sizes.width, channels=card.features.channels, heads=sizes.heads, depth=sizes.depth
            ),
        )
    tokenizer = load_tokenizer(spec.language_model.source, Path())
    entries = [
        PoolEntry(
            id=card.id,
            card_hash=card.hash,
            channels=card.features.channels,
            revision=card.weights.revision or "",
        )
        for card in pool
    ]
    made = MovaConfig(
        base=spec.base,
        adapter=sizes,
        text_encoder=spec.text_encoder,
        language_model=spec.language_model,
        router=spec.router,
        pool=entries,
        image_token_id=len(tokenizer),
    )
    half = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    return MovaForConditionalGeneration(
        made,
        base=load_base(spec.base, dtype=half, device=CPU),
        text_encoder=load_text_encoder(spec.text_encoder, Path(), dtype=torch.float32, device=CPU),
        adapter=adapter,
        language_model=load_language_model(spec.language_model, Path(), dtype=half, device=CPU),
    )


def word_embeddings(
    model: MovaForConditionalGeneration, processor: MovaProcessor, words: Sequence[str]
) -> Tensor:
    """The language model's embedding of each word as it stands after a space: [w, d], mean over tokens."""
    table: Any = model.get_input_embeddings()
    rows = [table.weight[processor.text_ids(" " + word)].float().mean(0) for word in words]
    return torch.stack(rows).detach()


def _all_words(data: DrawnSamples) -> tuple[str, ...]:
    return tuple(sorted({word for i in range(len(data.samples)) for word in data.samples[i].words}))


def _processor(model: MovaForConditionalGeneration, config: TrainConfig) -> MovaProcessor:
    if config.start is not None:
        return MovaProcessor.from_pretrained(config.start)
    made = model.config
    return MovaProcessor(
        made,
        tokenizer=load_tokenizer(made.language_settings.source, Path()),
        text_tokenizer=load_tokenizer(made.text_settings.source, Path()),
        stream=model.base.stream,
    )


def _lora(settings: LoraSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )


def _grid(grid: tuple[int, int] | str) -> tuple[int, int]:
    if isinstance(grid, str):
        raise ConfigError("an expert of the training pool has no fixed grid", value=grid, expected="(h, w)")
    return grid
