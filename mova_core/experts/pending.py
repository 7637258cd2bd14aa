"""Experts that start as soon as they are chosen, while the router still decides about others.

Notation for tensor shapes:
    m: pictures that chose an expert, n: tokens of its grid, c: its channels
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias

import torch
from PIL import Image

from mova_core.errors import ExpertLoadError, ExpertRunError, PoolError
from mova_core.experts.batch import ImageBatch
from mova_core.experts.encoded import Encoded, ExpertRun
from mova_core.experts.features import ExpertFeatures, RoutedFeatures
from mova_core.experts.run import join_features

if TYPE_CHECKING:
    from mova_core.routing.route import Route


class Computed(NamedTuple):
    """Features of single pictures by digest, and how many of them were not in the cache."""

    features: Mapping[str, ExpertFeatures]
    fresh: int


Compute: TypeAlias = Callable[[str, ImageBatch, Sequence[str]], Computed]
"""Runs the expert of an id for the pictures of those digests, each once."""


class PendingEncoding:
    """The experts of one batch, in the making; used in a `with` block, at whose end nothing of it runs on.

    What is started runs in one thread of its own, expert after expert in the order they were started; what a
    route holds and was not started runs in `finish`. An expert that is started in several steps meets the
    pictures of each step as a batch of their own, so its features may differ from those of a single batch as
    those of any two batches do, and in nothing else.

    Args:
        images: the pictures.
        compute: runs an expert.
        check: raises for an id that cannot be routed to.
        device: where experts run, for reports.
        on_expert_error: as for `ExpertPool`.
    """

    def __init__(
        self,
        images: Sequence[Image.Image] | ImageBatch,
        *,
        compute: Compute,
        check: Callable[[str], object],
        device: torch.device,
        on_expert_error: Literal["error", "skip"],
    ) -> None:
        self._images = images
        self._count = len(images.digests) if isinstance(images, ImageBatch) else len(images)
        self._compute = compute
        self._check = check
        self._device = str(device)
        self._on_expert_error = on_expert_error
        self._batch: ImageBatch | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._started: dict[str, list[tuple[tuple[int, ...], Future[None]]]] = {}
        self._found: dict[str, dict[str, ExpertFeatures]] = {}
        self._runs: list[ExpertRun] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def start(self, chosen: Mapping[int, str]) -> None:
        """Starts experts in the background, each once for all pictures given.

        Args:
            chosen: ids by picture, by its place in the batch; they must stand in the routes of `finish`.

        Raises:
            UnknownExpertError, PoolError: as for `ExpertPool.encode`, for an id that cannot be routed to.
        """
        rows: dict[str, list[int]] = {}
        for row, id in sorted(chosen.items()):
            self._check(id)
            rows.setdefault(id, []).append(row)
        for id, own in sorted(rows.items()):
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="mova-experts")
            future = self._thread.submit(self._run, id, tuple(own))
            self._started.setdefault(id, []).append((tuple(own), future))

    def finish(self, routes: Sequence[Route]) -> Encoded:
        """Waits for what was started, runs the rest, and gives what `ExpertPool.encode` gives.

        Raises:
            UnknownExpertError, PoolError, ExpertLoadError, ExpertRunError, InputError: as `encode` does;
                PoolError also if an expert was started that its picture's route does not hold.
        """
        rows = self._rows_by_expert(routes)
        self._check_started(rows)
        wait([future for started in self._started.values() for _, future in started])
        features: dict[str, RoutedFeatures] = {}
        skipped: dict[str, str] = {}
        for id, chosen in rows.items():
            try:
                found = self._collect(id, chosen)
            except (ExpertLoadError, ExpertRunError, PoolError) as error:
                if self._on_expert_error == "error":
                    raise
                skipped[id] = str(error)
            else:
                features[id] = RoutedFeatures(found, tuple(chosen))
        return Encoded(features, skipped, tuple(sorted(self._runs, key=lambda run: run.start)))

    def _collect(self, id: str, chosen: Sequence[int]) -> ExpertFeatures:
        """Features [m, n, c] of the pictures that chose an expert."""
        started = self._started.get(id, [])
        for _, future in started:
            future.result()
        done = {row for rows, _ in started for row in rows}
        left = tuple(row for row in chosen if row not in done)
        if left:
            self._run(id, left)
        digests = self._pictures().digests
        return join_features([self._found[id][digests[row]] for row in chosen], expert=id)

    @torch.no_grad()  # a thread of its own does not know that its caller wants no gradients
    def _run(self, id: str, rows: tuple[int, ...]) -> None:
        for _, earlier in self._started.get(id, []):
            if earlier.done():
                earlier.result()  # what failed for other pictures is not tried again
        batch = self._pictures()
        found = self._found.setdefault(id, {})
        start = time.perf_counter()
        wanted = dict.fromkeys(batch.digests[row] for row in rows)
        features, fresh = self._compute(id, batch, [digest for digest in wanted if digest not in found])
        found.update(features)
        self._runs.append(ExpertRun(id, start, time.perf_counter(), self._device, fresh))

    def _pictures(self) -> ImageBatch:
        """The pictures, read and named when an expert first needs them; by one thread at a time."""
        if self._batch is None:
            self._batch = self._images if isinstance(self._images, ImageBatch) else ImageBatch(self._images)
        return self._batch

    def _rows_by_expert(self, routes: Sequence[Route]) -> dict[str, list[int]]:
        """For each chosen expert, in id order, the rows that chose it, ascending."""
        if len(routes) != self._count:
            raise PoolError(
                "pictures and routes do not pair up", value=f"{len(routes)} routes", expected=f"{self._count}"
            )
        rows: dict[str, list[int]] = {}
        for row, route in enumerate(routes):
            for id in dict.fromkeys(route.experts):
                self._check(id)
                rows.setdefault(id, []).append(row)
        return dict(sorted(rows.items()))

    def _check_started(self, rows: Mapping[str, Sequence[int]]) -> None:
        for id, started in self._started.items():
            idle = {row for own, _ in started for row in own} - set(rows.get(id, ()))
            if idle:
                raise PoolError(
                    "a router told of an expert that its route does not hold",
                    value=f"{id} for picture {min(idle) + 1}",
                    expected="only experts that are chosen for good",
                )
