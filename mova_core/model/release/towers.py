"""Holding the towers of a release against the plugins that will read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mova_core.cards.card import ExpertCard
from mova_core.errors import CheckpointError, ExpertLoadError
from mova_core.experts.files import WeightFiles
from mova_core.experts.loading import load_expert
from mova_core.model.release.naming import tower_file


def check_towers(made: Path, cards: Mapping[str, ExpertCard]) -> None:
    """Let every plugin take its weights by name and shape; only rotary tables are looked at.

    Args:
        made: the checkpoint, its files laid out.
        cards: by expert and base encoder, as the checkpoint has them.

    Raises:
        CheckpointError: with everything that is missing, surplus or misshapen.
    """
    problems = []
    for id, card in cards.items():
        with WeightFiles(made / tower_file(id)) as file:
            tables = any(name.endswith(".freqs_cos") for name in file)
        # Values that are compared with tables have to be there; nothing else is worth its memory.
        device, dtype = ("cpu", torch.bfloat16) if tables else ("meta", torch.float32)
        try:
            load_expert(card, device=torch.device(device), dtype=dtype)
        except ExpertLoadError as error:
            problems.append(f"{id}: {error}")
    if problems:
        raise CheckpointError(
            f"the weights of {len(problems)} towers do not fit their plugins: " + "; ".join(problems)
        )
