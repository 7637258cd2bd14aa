"""Input streams of published models, from the settings of their image processors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedConfig

from mova_core.cards.stream import InputStream
from mova_core.errors import ExpertLoadError
from mova_expert_timm.streams import Fit, pixel_stream

_FILTERS: Final = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Names of PIL's filters, by the numbers that settings use."""

_NEEDED: Final = "a preprocessor_config.json with image_mean, image_std and resample"


def processor_settings(folder: Path) -> dict[str, Any]:
    """What a folder says of its pictures; empty where it says nothing.

    Raises:
        ExpertLoadError: the file is not JSON.
    """
    for name, part in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        path = folder / name
        if not path.is_file():
            continue
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
            settings = stated.get(part) if part else stated
        except (OSError, ValueError, AttributeError) as error:
            raise ExpertLoadError(
                "image settings cannot be read", value=str(path), expected="JSON"
            ) from error
        if isinstance(settings, dict):
            return settings
    return {}


def processor_stream(
    settings: Mapping[str, Any],
    config: PreTrainedConfig,
    *,
    size: tuple[int, int] | None = None,
    fit: Fit = "pad",
) -> InputStream:
    """The stream of a model.

    Args:
        settings: of its image processor.
        config: of its network, for a size where the settings have none.
        size: (h, w) in pixels; None is the publisher's.
        fit: "crop" is what most publishers evaluate with; see `mova_expert_timm.streams`.

    Raises:
        ExpertLoadError: the settings lack something, or ask for what a stream cannot do.
    """
    cut, resized = _size(settings.get("crop_size")), _size(settings.get("size"))
    if not settings.get("do_center_crop", bool(cut) and "crop_pct" not in settings):
        cut = None
    own = cut or resized or native_size(config)
    ratio = min(1.0, own[0] / resized[0]) if cut and resized else float(settings.get("crop_pct") or 1.0)
    try:
        normal = settings.get("do_normalize", True)
        return pixel_stream(
            size or own,
            settings["image_mean"] if normal else (0.0, 0.0, 0.0),
            settings["image_std"] if normal else (1.0, 1.0, 1.0),
            interpolation=_FILTERS.get(settings["resample"], f"number {settings['resample']}"),
            scale=settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0,
            fit=fit,
            crop_ratio=ratio,
        )
    except KeyError as error:
        raise ExpertLoadError(
            "the model's image settings are incomplete", value=f"no {error.args[0]}", expected=_NEEDED
        ) from error


def native_size(config: PreTrainedConfig) -> tuple[int, int]:
    """(h, w) in pixels that a network was trained at.

    Raises:
        ExpertLoadError: its configuration does not say.
    """
    stated = getattr(config, "image_size", None)
    if stated is None and getattr(config, "num_patches", None):
        stated = math.isqrt(config.num_patches) * config.patch_size
    size = _size(stated)
    if size is None:
        raise ExpertLoadError(
            "the size of the model's pictures is not known",
            value=f"model_type {config.model_type!r}, image_size {stated!r}",
            expected=_NEEDED + ", and with size",
        )
    return size


def _size(stated: Any) -> tuple[int, int] | None:
    """(h, w) of the ways in which settings write it; None where they leave it to the picture."""
    if isinstance(stated, int):
        return stated, stated
    if isinstance(stated, (list, tuple)) and len(stated) == 2:
        return int(stated[0]), int(stated[1])
    if isinstance(stated, Mapping):
        if stated.get("height") and stated.get("width"):
            return int(stated["height"]), int(stated["width"])
        if stated.get("shortest_edge"):
            return int(stated["shortest_edge"]), int(stated["shortest_edge"])
    return None
