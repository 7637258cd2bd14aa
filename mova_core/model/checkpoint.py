"""Reading and writing a checkpoint directory.

config.json             names, numbers, pool manifest, fingerprint
core.safetensors        the adapter without packs
packs/<id>.safetensors  one expert's adapter weights each, carrying the fingerprint of their core
answer/, router/        LoRAs of the language model, in peft's layout (optional)
language_model/, text_encoder/   where these are not taken from elsewhere (`inside:` sources)
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mova_core.errors import CheckpointError
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.pack_files import load_pack, pack_notes, save_pack
from mova_core.model.build import load_base, load_language_model, load_text_encoder, save_inside
from mova_core.model.config import MovaConfig
from mova_core.model.fingerprint import core_fingerprint, state_digest

if TYPE_CHECKING:
    from mova_core.model.modeling import MovaForConditionalGeneration

M = TypeVar("M", bound="MovaForConditionalGeneration")
LORAS = ("answer", "router")
CORE = "core.safetensors"
AGAIN = "Fetch or save the checkpoint again."


def load_model(
    cls: type[M],
    directory: Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    adapter_dtype: torch.dtype | None = None,
) -> M:
    """Builds a model from a checkpoint directory.

    Args:
        cls: the model class.
        directory: the checkpoint.
        dtype: of language model and base encoder; by default what the device computes fastest, see
            `preferred_dtype`.
        device: where everything goes.
        adapter_dtype: of adapter and text encoder; float32 on CPU by default, else `dtype`.

    Raises:
        CheckpointError: naming what is missing, corrupt or made for another core.
        PartsError: a part was not fetched; the message holds the command.
        ExpertLoadError: the base encoder is not installed or cannot be loaded.
    """
    config = read_config(directory)
    device = torch.device(device)
    dtype = dtype or preferred_dtype(device)
    adapter_dtype = adapter_dtype or (torch.float32 if device.type == "cpu" else dtype)
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
    ).to(adapter_dtype)
    adapter.load_core(read_tensors(directory / CORE))
    check_fingerprint(directory, config)
    for entry in config.manifest:
        adapter.add_pack(
            entry.id, read_pack(directory / "packs" / f"{entry.id}.safetensors", config.fingerprint)
        )
    model = cls(
        config,
        base=load_base(config.base, dtype=dtype, device=device),
        text_encoder=load_text_encoder(config.text_settings, directory, dtype=adapter_dtype, device=device),
        adapter=adapter.to(device),
        language_model=load_language_model(config.language_settings, directory, dtype=dtype, device=device),
    )
    for name in LORAS:
        if (directory / name).is_dir():
            model.loras.load(name, directory / name)  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    return model


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
        folder = directory / language.partition(":")[2]
        language = state_digest(
            {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in read_tensors(f).items()}
        )
    return core_fingerprint(
        read_tensors(directory / CORE),
        read_tensors(answer) if answer.is_file() else {},
        config.base,
        language,
    )


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


def _stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        k: (v.to(dtype) if v.is_floating_point() else v).detach().cpu().contiguous() for k, v in state.items()
    }
