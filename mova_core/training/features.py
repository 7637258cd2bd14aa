"""Features of frozen encoders, computed once for all epochs and stages.

Notation for tensor shapes:
    n: tokens of a feature grid, c: channels
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mova_core.errors import ConfigError
from mova_core.experts.images import image_digest
from mova_core.experts.pool import ExpertPool
from mova_core.experts.protocol import VisionExpert
from mova_core.routing.route import Route
from mova_core.training.samples import SampleSet

SHARD = 256


class FeatureStore:
    """Base and expert features of numbered samples on disk, mapped into memory.

    Args:
        folder: where `write_features` put them.
    """

    def __init__(self, folder: Path) -> None:
        self._tensors: dict[int, dict[str, Tensor]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as shard:
                for key in shard.keys():  # noqa: SIM118 - not a mapping
                    index, _, name = key.partition("/")
                    self._tensors.setdefault(int(index), {})[name] = shard.get_tensor(key)

    def base(self, index: int) -> Tensor:
        """Base features [n, c] of a sample."""
        return self._tensors[index]["base"]

    def experts(self, index: int) -> dict[str, Tensor]:
        """Features [n, c] of the experts that were run for a sample, by id."""
        return {name: tensor for name, tensor in self._tensors[index].items() if name != "base"}


@torch.no_grad()
def write_features(
    samples: SampleSet,
    folder: Path,
    *,
    base: VisionExpert,
    pool: ExpertPool,
    extra: int = 1,
    batch: int = 16,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    tell: Callable[[str], None] = print,
) -> FeatureStore:
    """Runs the base and, for every sample, its own experts and `extra` others; shards that exist are kept.

    Args:
        samples: pictures with the experts that help.
        folder: where shards go, each written whole.
        base: the base encoder.
        pool: the experts.
        extra: other experts a sample, drawn at random, so that a stage can also train on routes that do not
            help.
        batch: pictures at once.
        seed: of the draw.
        dtype: features are stored in.
        tell: hears of progress.

    Raises:
        ConfigError: a shard that exists holds features of other pictures, of another version of an encoder,
            or in another dtype.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoders = {"base": base.card.hash} | {card.id: card.hash for card in pool}
    for start in range(0, len(samples), SHARD):
        file = folder / f"{start:07d}.safetensors"
        rows = range(start, min(start + SHARD, len(samples)))
        origin = encoders | {
            "picture": image_digest(samples[start].image),
            "dtype": str(dtype).removeprefix("torch."),
        }
        if file.exists() and _holds(file, rows[-1], origin):
            continue
        state: dict[str, Tensor] = {}
        for first in range(0, len(rows), batch):
            state |= _some(samples, rows[first : first + batch], base, pool, extra, seed, dtype)
        partial = file.with_suffix(".partial")
        save_file(state, partial, metadata=origin)
        partial.replace(file)
        tell(f"features: {rows[-1] + 1} of {len(samples)} samples")
    return FeatureStore(folder)


def _holds(file: Path, row: int, origin: Mapping[str, str]) -> bool:
    """Whether a shard is whole and goes that far: the last one of a smaller sample set does not."""
    try:
        with safe_open(file, framework="pt") as shard:
            known = shard.metadata() or {}
            whole = f"{row}/base" in shard.keys()  # noqa: SIM118 - not a mapping
    except SafetensorError:
        return False
    other = sorted(name for name in origin.keys() & known.keys() if origin[name] != known[name])
    if other:
        raise ConfigError(
            f"data.features: {file} was computed with another {other[0]}",
            value=known[other[0]],
            expected=origin[other[0]],
            hint="Name another folder, or delete that one; it is filled anew.",
        )
    return whole


def _some(
    samples: SampleSet,
    rows: Sequence[int],
    base: VisionExpert,
    pool: ExpertPool,
    extra: int,
    seed: int,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    drawn = [samples[row] for row in rows]
    images = [sample.image for sample in drawn]
    first = next(base.parameters())
    tokens = base(base.preprocess(images).to(first)).tokens
    state = {f"{row}/base": tokens[i].to(dtype).clone() for i, row in enumerate(rows)}
    routes = []
    for row, sample in zip(rows, drawn, strict=True):
        others = [id for id in pool.ids if id not in sample.experts]
        more = random.Random(f"{seed}/{row}").sample(others, min(extra, len(others)))
        routes.append(Route((*sample.experts, *more)))
    for id, routed in pool.encode(images, routes).items():
        for place, row in enumerate(routed.rows):
            state[f"{rows[row]}/{id}"] = routed.features.tokens[place].to(dtype).clone()
    return state
