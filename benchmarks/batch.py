"""A batch whose samples chose different experts: experts and adapter, time for each sample and peak memory.

The reference runs every expert for every sample of a batch, as the release does. It takes minutes, so it
gets fewer samples at a time, and its time is taken per sample. Its peak memory is that of the whole batch, up
to its first attention, with all experts' features at hand: a lower bound.

Notation for tensor shapes:
    b: samples, n: tokens of the base grid, c: width, e: experts
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import matmul, peak_since, race, rate, start_of_peak
from benchmarks.models import Arithmetic, base_tokens, build_adapter, mask
from benchmarks.progress import PROGRESS
from benchmarks.reference import PlainAdapter, attend
from benchmarks.results import Result, Row
from benchmarks.sizes import ROUTES, Sizes
from benchmarks.towers import pictures, pool
from mova_core.experts.pool import ExpertPool
from mova_core.experts.protocol import VisionExpert
from mova_core.fusion.adapter import MovAdapter
from mova_core.routing.route import Route


def batch(sizes: Sizes) -> Iterator[Row]:
    """Time for each sample, and peak memory of the batch, experts included."""
    case = BatchCase(sizes)
    contenders = {"matmul": matmul(), "own": case.own, "reference": case.reference}
    timed = race(contenders, rounds=1, warm_up=False)
    speed = rate(timed.median("matmul"))
    own = timed.median("own") / sizes.batch
    plain = timed.median("reference") / sizes.reference_batch
    chosen = sum(map(len, case.routes)) / sizes.batch
    yield Row(
        Result(
            f"batch of {sizes.batch}, mixed routes, per sample",
            plain / own,
            own * sizes.batch / (case.arithmetic() / speed),
            own,
            timed.peak("own"),
        ),
        (4.0, None),
        f"{chosen:.2f} experts a sample on average; towers of one layer stand in for the experts; "
        f"the reference had {sizes.reference_batch} samples at a time; one round",
    )
    PROGRESS.say("peak memory of the reference")
    held, begin = start_of_peak(), time.perf_counter()
    case.first_attention()
    took = time.perf_counter() - begin
    peak = timed.peak("own")
    if held is not None and peak is not None:
        yield Row(
            Result(
                f"batch of {sizes.batch}, mixed routes, peak memory",
                peak_since(held) / peak,
                None,
                took,
                peak,
            ),
            (2.0, None),
            "of the reference no more than its first attention was run, in the seconds given: a lower bound",
        )


class BatchCase:
    """The inputs of a batch, and both ways of working on it.

    Args:
        sizes: of everything.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.routes = [tuple(id for id in route if id in sizes.experts) for route in ROUTES[: sizes.batch]]
        self.pool: ExpertPool = pool(sizes)
        self.adapter: MovAdapter = build_adapter(sizes)
        self.plain = PlainAdapter(self.adapter, tuple(sizes.experts))
        self.images: list[Image.Image] = pictures(sizes.batch)
        self.base = base_tokens(sizes, sizes.batch)
        self.text = torch.randn(sizes.batch, sizes.width)
        self.towers: dict[str, VisionExpert] = {id: self.pool.expert(id) for id in sizes.experts}
        self.streams = {id: tower.preprocess(self.images) for id, tower in self.towers.items()}

    def own(self) -> Tensor:
        """Each sample's own experts, for all samples."""
        routes = [Route(route, {}, "fixed") for route in self.routes]
        encoded = self.pool.encode(self.images, routes)
        tokens: Tensor = self.adapter(self.base, encoded.features, self.text).tokens
        return tokens

    def reference(self) -> Tensor:
        """All experts, for the first samples."""
        count = self.sizes.reference_batch
        given = [self._features(id, count) for id in self.sizes.experts]
        return self.plain(self.base[:count], given, mask(self.sizes, self.routes[:count]), self.text[:count])

    def first_attention(self) -> Tensor:
        """What the reference does with all experts' features up to its first attention, for all samples."""
        found = [
            (torch.randn(self.sizes.batch, h * w, channels), (h, w))
            for channels, (h, w) in self.sizes.experts.values()
        ]
        maps = [self.plain.resized(*given) for given in found]
        first = self.plain.weights.packs[self.plain.order[0]].layers[0].extractor
        x = self.base + self.plain.weights.position
        return attend(first.attention, first.query_norm(x), first.feature_norm(maps[0]), self.plain.tables)

    def arithmetic(self) -> int:
        """Operations that the batch needs: of the adapter, and of the chosen experts' towers."""
        counted = Arithmetic(self.sizes)
        adapter = sum(counted.adapter(route) for route in self.routes)
        return adapter + sum(
            tower_operations(*self.sizes.experts[id]) for route in self.routes for id in route
        )

    def _features(self, id: str, count: int) -> tuple[Tensor, tuple[int, int]]:
        given = self.towers[id](self.streams[id][:count])
        return given.tokens, given.grid


def tower_operations(channels: int, grid: tuple[int, int]) -> int:
    """Operations of the matrix products in a tower's layer, for one picture."""
    tokens = grid[0] * grid[1]
    return 2 * tokens * 12 * channels**2 + 4 * tokens**2 * channels
