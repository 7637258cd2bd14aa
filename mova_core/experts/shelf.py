"""Loaded experts within a memory budget: loaded when first asked for, dropped when used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from threading import RLock
from typing import Final, Protocol

import torch

from mova_core.cards.card import ExpertCard
from mova_core.cards.warning import warn
from mova_core.errors import ExpertLoadError, MovaError, PoolError
from mova_core.experts.protocol import VisionExpert

_MIB: Final = 2**20


class Progress(Protocol):
    """Whoever wants to tell a person what takes time."""

    def __call__(self, message: str) -> None:
        """Report one step, such as "loading sam (about 2,400 MiB)"."""


def silent(message: str) -> None:
    """The default `Progress`: prints nothing."""


def expected_memory(card: ExpertCard, dtype: torch.dtype) -> int:
    """Bytes an expert will take, by its card; by its parameter count where the dtype is not listed there."""
    listed = card.memory_mb.get(str(dtype).removeprefix("torch."))
    return round(listed * _MIB) if listed is not None else card.parameters * dtype.itemsize


class ExpertShelf:
    """The experts that are in memory, in eval mode, without gradients, on one device and in one dtype.

    Args:
        loader: builds the expert of a card.
        device: where experts are placed.
        dtype: dtype of their parameters.
        budget: bound of all loaded experts together in bytes; None for no bound.
        progress: hears of loading and evicting.
        held: encoders by id that someone else keeps in memory: handed out, neither counted nor evicted.
    """

    def __init__(
        self,
        loader: Callable[[ExpertCard], VisionExpert],
        *,
        device: torch.device,
        dtype: torch.dtype,
        budget: int | None,
        progress: Progress,
        held: Mapping[str, VisionExpert] | None = None,
    ) -> None:
        self._held = dict(held or {})
        self._loader = loader
        self._device = device
        self._dtype = dtype
        self._budget = budget
        self._progress = progress
        self._experts: OrderedDict[str, VisionExpert] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self._lock = RLock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids in memory, used longest ago first."""
        return tuple(self._experts)

    @property
    def nbytes(self) -> int:
        """Measured bytes of all loaded experts."""
        return sum(self._bytes.values())

    def get(self, card: ExpertCard) -> VisionExpert:
        """The expert of a card, loaded if it is not in memory.

        Raises:
            ExpertLoadError: it cannot be built, or its weights cannot be read.
            PoolError: it alone exceeds the budget.
        """
        if card.id in self._held:
            return self._held[card.id]
        with self._lock:
            expert = self._experts.get(card.id)
            if expert is None:
                expert = self._load(card)
            self._experts.move_to_end(card.id)
            return expert

    def drop(self, id: str) -> None:
        """Forget a loaded expert; nothing happens if it is not loaded."""
        with self._lock:
            self._experts.pop(id, None)
            self._bytes.pop(id, None)

    def _load(self, card: ExpertCard) -> VisionExpert:
        expected = expected_memory(card, self._dtype)
        self._make_room(card, expected)
        self._progress(f"loading {card.id} (about {expected / _MIB:,.0f} MiB)")
        try:
            expert = self._loader(card).bind(card)
            expert.to(device=self._device, dtype=self._dtype).eval().requires_grad_(False)
        except Exception as error:  # a plugin's code may raise anything; the expert's name belongs to it
            raise _load_error(card, error) from error
        actual = expert.nbytes
        self._make_room(card, actual)
        self._experts[card.id] = expert
        self._bytes[card.id] = actual
        self._progress(f"loaded {card.id} ({actual / _MIB:,.0f} MiB)")
        if card.weights.notice:
            warn(f"the weights of {card.id} ({card.weights.licence}): {card.weights.notice}")
        return expert

    def _make_room(self, card: ExpertCard, needed: int) -> None:
        if self._budget is None:
            return
        if needed > self._budget:
            raise PoolError(
                f"expert {card.id!r} alone exceeds the pool's memory budget",
                value=f"{needed / _MIB:,.1f} MiB",
                expected=f"at most {self._budget / _MIB:,.1f} MiB",
                hint="Raise the budget, use a smaller dtype, or leave this expert out.",
            )
        while self._experts and self.nbytes + needed > self._budget:
            oldest = next(iter(self._experts))
            self._progress(f"evicting {oldest} to make room for {card.id}")
            self.drop(oldest)


def _load_error(card: ExpertCard, error: Exception) -> ExpertLoadError:
    failure = f"expert {card.id!r} could not be loaded"
    if isinstance(error, MovaError):
        return ExpertLoadError(
            f"{failure}: {error.message}", value=error.value, expected=error.expected, hint=error.hint
        )
    return ExpertLoadError(
        failure,
        value=f"{type(error).__name__}: {error}",
        expected=f"{card.factory} to build it",
        hint="Run `mova doctor`.",
    )
