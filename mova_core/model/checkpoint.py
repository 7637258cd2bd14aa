"""Reading and writing a checkpoint directory.

config.json             names, numbers, pool manifest, fingerprint
core.safetensors        the adapter without packs
packs/<id>.safetensors  one expert's adapter weights each, carrying the fingerprint of their core
answer/, router/        LoRAs of the language model, in peft's layout (optional)
experts/<id>/           weights of experts and base encoder, where the checkpoint brings them (optional)
release/                what `mova convert` needs to give a released layout back (optional)
language_model/, text_encoder/   where these are not taken from elsewhere (`inside:` sources)
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mova_core.cards.resolve import usable_expert
from mova_core.errors import CheckpointError
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.pack_files import load_pack, pack_notes, save_pack
from mova_core.model.build import load_base, load_language_model, load_text_encoder, save_inside
from mova_core.model.compiling import Compile, compile_arguments, compile_model
from mova_core.model.config import MovaConfig
from mova_core.model.devices import check_home, find_device, find_dtype
from mova_core.model.fingerprint import core_fingerprint, folder_digest
from mova_core.model.language import LanguageOptions
from mova_core.model.own_cards import card_changes, own_record
from mova_core.routing.placed import execution_device

if TYPE_CHECKING:
    from mova_core.model.modeling import MovaForConditionalGeneration

M = TypeVar("M", bound="MovaForConditionalGeneration")
LORAS = ("answer", "router")
BROUGHT_ALONG = ("experts", "release")
CORE = "core.safetensors"
AGAIN = "Fetch or save the checkpoint again."


def load_model(
    cls: type[M],
    directory: Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    adapter_dtype: torch.dtype | None = None,
    compile: Compile = False,
    **language: Any,
) -> M:
    """Builds a model from a checkpoint directory.

    Args:
        cls: the model class.
        directory: the checkpoint.
        dtype: of language model and base encoder; by default what the device computes fastest, see
            `preferred_dtype`.
        device: where everything goes; the CPU by default, and with a `device_map` where the language model
            begins.
        adapter_dtype: of adapter and text encoder; float32 on CPU by default, else `dtype`.
        compile: whether and how adapter and language model go through `torch.compile`, see
            `mova_core.model.compiling`.
        **language: devices, bits and attention of the language model, see
            `mova_core.model.language.LanguageOptions`.

    Raises:
        CheckpointError: naming what is missing, corrupt or made for another core.
        PartsError: a part was not fetched; the message holds the command.
        ExpertLoadError: the base encoder is not installed or cannot be loaded.
        ConfigError: an option is wrong, or needs what this machine does not have.
    """
    config = read_config(directory)
    options = LanguageOptions(**language)
    compile_arguments(compile)  # what is wrong with it is said before anything is read
    first = find_device(device or ("cpu" if options.device_map is None else "auto"))
    dtype = find_dtype(dtype) or preferred_dtype(first)
    adapter_dtype = adapter_dtype or (torch.float32 if first.type == "cpu" else dtype)
    adapter = _load_adapter(config, directory, adapter_dtype)
    spoken = load_language_model(
        config.language_settings, directory, dtype=dtype, device=first, options=options
    )
    home = execution_device(spoken.get_input_embeddings())
    if device is not None:
        check_home(home, first)
    model = cls(
        config,
        base=load_base(own_record(usable_expert(config.base), config, directory), dtype=dtype, device=home),
        text_encoder=load_text_encoder(config.text_settings, directory, dtype=adapter_dtype, device=home),
        adapter=adapter.to(home),
        language_model=spoken,
    )
    for name in LORAS:
        if (directory / name).is_dir():
            model.loras.load(name, directory / name)  # type: ignore[arg-type]
    model.home = directory
    model.eval()  # type: ignore[no-untyped-call]
    compile_model(model, compile)
    return model


def _load_adapter(config: MovaConfig, directory: Path, dtype: torch.dtype) -> MovAdapter:
    """The adapter with its packs, on the CPU."""
    settings = config.adapter_settings
    adapter = MovAdapter(
        width=settings.width,
        heads=settings.heads,
        grid=settings.grid,
        text_dim=config.text_settings.width,
        out_dim=config.language_settings.width,
        depth=settings.depth,
        ffn_ratio=settings.ffn_ratio,
        max_experts=settings.max_experts,
    ).to(dtype)
    adapter.load_core(read_tensors(directory / CORE))
    check_fingerprint(directory, config)
    for entry in config.manifest:
        adapter.add_pack(
            entry.id, read_pack(directory / "packs" / f"{entry.id}.safetensors", config.fingerprint)
        )
    return adapter


def preferred_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def read_config(directory: Path) -> MovaConfig:
    """The configuration of a checkpoint.

    Raises:
        CheckpointError: if there is none, or it is no configuration of ours.
    """
    file = directory / "config.json"
    if not file.is_file():
        raise CheckpointError(
            "no checkpoint here",
            value=str(directory),
            expected="a folder with config.json",
            hint="Give a model's name (see `mova models list`) or a checkpoint directory.",
        )
    try:
        config: MovaConfig = MovaConfig.from_json_file(str(file))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"config.json cannot be read ({error})", value=str(file), hint=AGAIN) from error
    if not isinstance(config.image_token_id, int):
        raise CheckpointError(
            "config.json: image_token_id: a number is needed", value=config.image_token_id, hint=AGAIN
        )
    return config


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file of a checkpoint.

    Raises:
        CheckpointError: if it is missing, truncated or corrupt.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "a weight file cannot be read",
            value=str(file),
            expected=f"a whole safetensors file ({error})",
            hint=AGAIN,
        ) from error


def read_pack(file: Path, fingerprint: str):  # type: ignore[no-untyped-def]
    """A pack, refused if it was trained against another core."""
    made_for = pack_notes(file).get("core", "")
    if fingerprint and made_for != fingerprint:
        raise CheckpointError(
            "a pack was trained against another core",
            value=f"{file.name} for core {made_for[:12]}",
            expected=f"core {fingerprint[:12]}",
            hint="Train the pack for this model.",
        )
    return load_pack(file)


def stored_fingerprint(directory: Path, config: MovaConfig) -> str:
    """The fingerprint of what lies in a checkpoint directory now."""
    answer = directory / "answer" / "adapter_model.safetensors"
    language = config.language_settings.source
    if language.startswith("inside:"):
        language = folder_digest(directory / language.partition(":")[2])
    return core_fingerprint(
        read_tensors(directory / CORE),
        read_tensors(answer) if answer.is_file() else {},
        config.base + _base_revision(config),
        language,
    )


def _base_revision(config: MovaConfig) -> str:
    """Tells a base encoder that the checkpoint brings along from the one of its card."""
    own = card_changes(config, config.base).weights
    return f"@{own.revision}" if own and own.revision else ""


def check_fingerprint(directory: Path, config: MovaConfig) -> None:
    """Refuses a checkpoint whose core files are not those its packs were trained with.

    Weights of a language model inside the checkpoint are not read for this: they are covered when it is
    saved.

    Raises:
        CheckpointError: if they differ.
    """
    if not config.fingerprint or config.language_settings.source.startswith("inside:"):
        return
    found = stored_fingerprint(directory, config)
    if found != config.fingerprint:
        raise CheckpointError(
            "the checkpoint's core is not the one its config names",
            value=found[:12],
            expected=config.fingerprint[:12],
            hint=AGAIN,
        )


def save_model(
    model: MovaForConditionalGeneration, directory: Path, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Writes a checkpoint directory; it appears whole, or the old one stays.

    Args:
        model: what to write.
        directory: where. An older checkpoint there is replaced.
        dtype: of core, packs and LoRAs on disk, whatever they are computed in: the fingerprint covers it.

    Raises:
        CheckpointError: if it cannot be written.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _write(model, made, dtype)
            if directory.exists():
                directory.rename(Path(scratch) / "old")
            made.rename(directory)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "the checkpoint cannot be written",
            value=str(directory),
            expected=f"a writable place with room ({error})",
        ) from error


def _write(model: MovaForConditionalGeneration, made: Path, dtype: torch.dtype) -> None:
    config = model.config
    save_file(_stored(model.adapter.core_state(), dtype), made / CORE)
    for name in model.loras.names:
        model.loras.save(name, made / name, dtype)  # type: ignore[arg-type]
    save_inside(model.language_model, config.language_settings.source, made)
    save_inside(model.text_encoder.bert, config.text_settings.source, made)
    config.fingerprint = stored_fingerprint(made, config)
    for entry in config.manifest:
        pack = copy.deepcopy(model.adapter.pack(entry.id)).to(dtype)
        save_pack(pack, made / "packs" / f"{entry.id}.safetensors", {"core": config.fingerprint})
    config.save_pretrained(made)
    if model.home is not None:
        _bring_along(model.home, made)


def _bring_along(home: Path, made: Path) -> None:
    """Folders of the checkpoint that a model came from and never changes: its experts, and the way back."""
    for name in BROUGHT_ALONG:
        if (home / name).is_dir():
            shutil.copytree(home / name, made / name, copy_function=_link)


def _link(source: str, target: str) -> None:
    """A second name for a large file where the disk allows that, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        k: (v.to(dtype) if v.is_floating_point() else v).detach().cpu().contiguous() for k, v in state.items()
    }
