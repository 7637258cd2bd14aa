"""What a folder of transformers states of the encoder whose weights lie in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mova_core.errors import ExpertLoadError

T = TypeVar("T")


def stated_config(
    source: str | Path, make: Callable[[dict[str, Any]], T], *, encoder: str, whole: str | None = None
) -> T | None:
    """The configuration of a vision encoder, by the `config.json` of its folder.

    Args:
        source: a weight file or a folder.
        make: from the encoder's own entries to its configuration.
        encoder: `model_type` of the encoder alone.
        whole: that of the model it is a part of, which states it under `vision_config`.

    Returns:
        What `make` gives; None for a single file, and for a folder without `config.json` or of another model.

    Raises:
        ExpertLoadError: the file cannot be read, or `make` refuses what it says.
    """
    file = Path(source) / "config.json"
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        kind = document.get("model_type")
        if kind is None or kind not in (encoder, whole):
            return None
        return make(document if kind == encoder else document["vision_config"])
    except Exception as error:  # transformers raises whatever a wrong value provokes
        raise ExpertLoadError(
            f"the configuration {str(file)!r} cannot be read",
            value=f"{type(error).__name__}: {error}",
            expected="the config.json of a transformers model",
            hint="Fetch it again.",
        ) from error
