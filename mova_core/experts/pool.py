"""The pool: many experts by name, of which each picture meets only those its route chose.

Notation for tensor shapes:
    b: pictures of the batch, m: pictures that chose an expert, n: tokens of its grid, c: its channels
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from PIL import Image

from mova_core.cards.card import ExpertCard
from mova_core.cards.discovery import discover
from mova_core.cards.records import ExpertRecord
from mova_core.cards.resolve import usable_expert
from mova_core.errors import InputError, PoolError, UnknownExpertError
from mova_core.experts.batch import ImageBatch
from mova_core.experts.cache import FeatureCache, FeatureKey
from mova_core.experts.encoded import Encoded
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.loading import Finder, load_expert
from mova_core.experts.pending import Computed, PendingEncoding
from mova_core.experts.protocol import VisionExpert
from mova_core.experts.run import join_features, run_expert
from mova_core.experts.shelf import ExpertShelf, Progress, silent

if TYPE_CHECKING:
    from mova_core.routing.route import Route


class ExpertPool:
    """Experts and base encoders by id, loaded when first needed.

    Iterating gives the cards of the experts, not of base encoders, in id order: what a router is offered.
    Nothing depends on the order in which experts are given.

    Features are computed under `no_grad`, not in inference mode, so that a trainable adapter can save them
    for its backward pass, and without autocast, so that cached features do not depend on who asked first.

    Args:
        experts: cards, or usable records of discovery.
        device: where experts run.
        dtype: dtype of their parameters and features.
        memory_budget: bound of all loaded experts together in bytes, by their parameters and buffers; those
            used longest ago make room. None for no bound.
        held: encoders by id that someone else keeps in memory, on whatever device: handed out, neither
            counted nor evicted.
        cache: keeps features by picture; None keeps nothing between calls.
        on_expert_error: whether a routed expert that fails raises ("error") or is left out and named in
            `Encoded.skipped` ("skip").
        loader: builds the expert of a card; `load_expert` unless given.
        find: for the default loader: where `part:` and `https:` weights were put.
        progress: hears of loading and evicting.

    Raises:
        PoolError: two experts of one id, or a record that cannot be used.
        UnknownExpertError: an encoder is held whose card is not given.
    """

    def __init__(
        self,
        experts: Iterable[ExpertCard | ExpertRecord],
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_budget: int | None = None,
        cache: FeatureCache | None = None,
        held: Mapping[str, VisionExpert] | None = None,
        on_expert_error: Literal["error", "skip"] = "error",
        loader: Callable[[ExpertCard], VisionExpert] | None = None,
        find: Finder | None = None,
        progress: Progress = silent,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = dtype
        self.cache = cache
        self.on_expert_error = on_expert_error
        self._find = find
        self._cards: dict[str, ExpertCard] = {}
        self._folders: dict[str, Path] = {}
        for expert in experts:
            self._add(expert)
        self._cards = dict(sorted(self._cards.items()))
        self._elsewhere = {id: next(own.parameters()).device for id, own in (held or {}).items()}
        self._shelf = ExpertShelf(
            loader or self._load,
            device=self.device,
            dtype=dtype,
            budget=memory_budget,
            progress=progress,
            held={id: encoder.bind(self.card(id)) for id, encoder in (held or {}).items()},
        )

    @classmethod
    def from_ids(cls, ids: Iterable[str], **options: Any) -> Self:
        """A pool of installed experts.

        Args:
            ids: `id`, or `distribution/id` where two distributions bring one id.
            options: as for the constructor.

        Raises:
            UnknownExpertError: nothing of that name is installed.
            ExpertLoadError, CardError: it is installed and cannot be used, or two distributions bring it.
        """
        records = discover()
        return cls([usable_expert(id, records) for id in ids], **options)

    def __iter__(self) -> Iterator[ExpertCard]:
        return (card for card in self._cards.values() if card.role == "expert")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the experts, in order."""
        return tuple(card.id for card in self)

    @property
    def bases(self) -> tuple[ExpertCard, ...]:
        """Cards of the base encoders, in id order."""
        return tuple(card for card in self._cards.values() if card.role == "base")

    @property
    def loaded(self) -> tuple[str, ...]:
        """Ids of experts in memory, used longest ago first."""
        return self._shelf.loaded

    @property
    def loaded_bytes(self) -> int:
        """Bytes of parameters and buffers in memory."""
        return self._shelf.nbytes

    def card(self, id: str) -> ExpertCard:
        """The card of an expert or base encoder of the pool.

        Raises:
            UnknownExpertError: the pool has nothing of that id.
        """
        if id in self._cards:
            return self._cards[id]
        close = difflib.get_close_matches(id, self._cards, n=1)
        raise UnknownExpertError(
            "the pool has no such expert",
            value=id,
            expected=f"one of {', '.join(self._cards)}" if self._cards else "no id, since the pool is empty",
            hint=f"Did you mean {close[0]!r}?" if close else "Run `mova experts list`.",
        )

    def expert(self, id: str) -> VisionExpert:
        """The expert itself, loaded if need be.

        Raises:
            UnknownExpertError: the pool has nothing of that id.
            ExpertLoadError: it cannot be loaded.
            PoolError: it alone exceeds the memory budget.
        """
        return self._shelf.get(self.card(id))

    def unload(self, id: str) -> None:
        """Take an expert out of memory; its cached features stay."""
        self._shelf.drop(self.card(id).id)

    def encode(self, images: Sequence[Image.Image] | ImageBatch, routes: Sequence[Route]) -> Encoded:
        """Run for each picture the experts of its own route, each expert once for all pictures that chose it.

        Args:
            images: b pictures, or the batch they were put in for another call.
            routes: b routes.

        Returns:
            For each chosen expert, in id order, features [m, n, c] and the m rows, ascending.

        Raises:
            UnknownExpertError: a route names an expert that the pool does not have.
            PoolError: a route names a base encoder, or there is not one route a picture.
            ExpertLoadError, ExpertRunError, PoolError: under `on_expert_error="error"`, a chosen expert
                cannot be loaded, fails, or alone exceeds the memory budget.
            InputError: a picture cannot be decoded.
        """
        with self.begin(images) as pending:
            return pending.finish(routes)

    def begin(self, images: Sequence[Image.Image] | ImageBatch) -> PendingEncoding:
        """As `encode`, for routes that become known bit by bit: experts start as soon as they are decided."""
        return PendingEncoding(
            images,
            compute=self._compute,
            check=self._check_routable,
            device=self.device,
            on_expert_error=self.on_expert_error,
        )

    @torch.no_grad()
    def encode_all(self, images: Sequence[Image.Image] | ImageBatch, id: str) -> ExpertFeatures:
        """Run one encoder, such as the base, for every picture.

        Args:
            images: b pictures, at least one, or the batch they were put in for another call.
            id: an expert or base encoder of the pool.

        Returns:
            Features [b, n, c]. A failure always raises: this encoder was named.

        Raises:
            UnknownExpertError, ExpertLoadError, ExpertRunError, PoolError: as for `encode`.
            InputError: there is no picture, or one cannot be decoded.
        """
        self.card(id)
        batch = images if isinstance(images, ImageBatch) else ImageBatch(images)
        if not batch.digests:
            raise InputError(f"no image was given to {id!r}", expected="at least one")
        found = self._compute(id, batch, tuple(dict.fromkeys(batch.digests))).features
        return join_features([found[digest] for digest in batch.digests], expert=id)  # [b, n, c]

    def _add(self, expert: ExpertCard | ExpertRecord) -> None:
        card = _usable_card(expert) if isinstance(expert, ExpertRecord) else expert
        if card.id in self._cards:
            raise PoolError("two experts of the pool share an id", value=card.id, expected="each id once")
        self._cards[card.id] = card
        if isinstance(expert, ExpertRecord) and expert.source is not None:
            self._folders[card.id] = expert.source.parent

    def _load(self, card: ExpertCard) -> VisionExpert:
        beside = self._folders.get(card.id)
        return load_expert(card, device=self.device, dtype=self.dtype, beside=beside, find=self._find)

    def _check_routable(self, id: str) -> None:
        if self.card(id).role != "expert":
            raise PoolError("a route names a base encoder", value=id, expected="ids of experts")

    def _compute(self, id: str, batch: ImageBatch, digests: Sequence[str]) -> Computed:
        """Features [1, n, c] of each picture of those digests, from the cache or from the expert."""
        card = self._cards[id]
        revision = card.weights.revision or card.weights.sha256 or ""
        keys = {d: FeatureKey(d, card.input.hash, card.id, revision, self.dtype) for d in digests}
        found: dict[str, ExpertFeatures] = {}
        if self.cache is not None:
            cached = {digest: self.cache.get(key) for digest, key in keys.items()}
            found = {digest: features for digest, features in cached.items() if features is not None}
        missing = [digest for digest in keys if digest not in found]
        if missing:
            device = self._elsewhere.get(id, self.device)
            fresh = run_expert(self._shelf.get(card), batch, missing, device=device, dtype=self.dtype)
            for row, digest in enumerate(missing):
                found[digest] = ExpertFeatures(fresh.tokens[row : row + 1], fresh.grid)  # [1, n, c]
                if self.cache is not None:
                    self.cache.put(keys[digest], found[digest])
        return Computed(found, len(missing))


def _usable_card(record: ExpertRecord) -> ExpertCard:
    # A record in conflict may be given: whoever resolved `distribution/id` has decided the conflict.
    if record.card is None or record.status not in ("ok", "conflict"):
        raise PoolError(
            f"expert {record.id!r} cannot be used: {record.problem}",
            value=f"status {record.status}",
            expected="status ok",
            hint=record.hint or "Run `mova doctor`.",
        )
    return record.card
