"""What goes where, decided from sizes alone, before anything is loaded.

The base encoder, the adapter with its packs and the text encoder stay on the first device, where the language
model begins and the experts run. The language model's layers fill the other devices from the last one on, so
that as much as possible of the first is left to the experts. What no device has room for is computed on the
first one and kept in the machine's own memory until then (on its disk, if it computes there).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

CPU: Final = "cpu"
DISK: Final = "disk"


@dataclass(frozen=True, slots=True)
class Item:
    """Something that takes memory.

    Args:
        name: what it is, in words; for a piece of the language model its module's path.
        nbytes: how much.
        why: where the number comes from, if it is no plain size.
    """

    name: str
    nbytes: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each part of a model takes in one dtype.

    Args:
        dtype: name of the dtype.
        quantization: "8bit" or "4bit" for the language model's layers; None for all bits.
        language: pieces of the language model in the order in which they run: embedding, layers, head.
        layers: names of those pieces that are layers.
        tied: the piece that shares the embedding's weights and so stays with it; empty without one.
        resident: what else is in memory from the start, on the first device.
        experts: by id.
        most: experts in one route at most.
        cache_per_layer: keys and values that a layer keeps of a whole conversation.
        work: what a forward pass of the language model needs for a while.
        vision: the same of an encoder or the adapter.
        features: bound of the cache of features.
    """

    dtype: str
    quantization: str | None
    language: tuple[Item, ...]
    layers: frozenset[str]
    tied: str
    resident: tuple[Item, ...]
    experts: Mapping[str, int]
    most: int
    cache_per_layer: int
    work: Item
    vision: Item
    features: Item

    def cost(self, piece: Item) -> int:
        """Bytes of a piece of the language model with what it keeps of a conversation."""
        return piece.nbytes + (self.cache_per_layer if piece.name in self.layers else 0)

    @property
    def largest_expert(self) -> int:
        """Bytes of the largest expert; 0 for an empty pool."""
        return max(self.experts.values(), default=0)


@dataclass(frozen=True, slots=True)
class Device:
    """A place to compute.

    Args:
        name: as torch calls it.
        nbytes: its memory.
        own: what its runtime takes before any tensor is there.
    """

    name: str
    nbytes: int
    own: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """What one device holds from the start.

    Args:
        device: the device.
        pieces: of the language model.
        items: everything, the pieces summed up.
    """

    device: Device
    pieces: tuple[Item, ...]
    items: tuple[Item, ...]

    @property
    def free(self) -> int:
        """Bytes that are left; negative if there are too few."""
        return self.device.nbytes - sum(item.nbytes for item in self.items)


@dataclass(frozen=True)
class RouteSize:
    """The worst case of routes of one size: the largest experts.

    Args:
        experts: ids, the largest first.
        nbytes: of all of them.
        together: whether they are in memory at the same time; else they take turns, and each is loaded again
            for every question that is routed so.
        runs: whether each of them fits at all.
    """

    experts: tuple[str, ...]
    nbytes: int
    together: bool
    runs: bool


@dataclass(frozen=True)
class MemoryPlan:
    """What goes where.

    Args:
        model: the model's name or directory.
        sizes: what was to be placed.
        shares: by device, in order; the experts share what the first one has left.
        offloaded: pieces of the language model that stay `elsewhere` until they are needed.
    """

    model: str
    sizes: Sizes
    shares: tuple[Share, ...]
    offloaded: tuple[Item, ...] = ()

    @property
    def budget(self) -> int:
        """Bytes for experts: what the pool is held to."""
        return max(0, self.shares[0].free)

    @property
    def loads(self) -> bool:
        """Whether the model can be loaded like this, whatever becomes of its experts."""
        return all(share.free >= 0 for share in self.shares) and not (
            self.offloaded and self.sizes.quantization
        )

    @property
    def fits(self) -> bool:
        """Whether all of the language model is on the devices, and every expert can run."""
        return self.loads and not self.offloaded and not self.never

    @property
    def never(self) -> tuple[str, ...]:
        """Experts that have no room even alone."""
        return tuple(id for id, nbytes in sorted(self.sizes.experts.items()) if nbytes > self.budget)

    @cached_property
    def together(self) -> tuple[str, ...]:
        """As many experts as stay loaded side by side, the smallest first."""
        kept: list[str] = []
        used = 0
        for id, nbytes in sorted(self.sizes.experts.items(), key=lambda pair: (pair[1], pair[0])):
            used += nbytes
            if used <= self.budget:
                kept.append(id)
        return tuple(kept)

    @cached_property
    def routes(self) -> tuple[RouteSize, ...]:
        """The worst case for each size that a route can have, beginning with one expert."""
        ranked = sorted(self.sizes.experts.items(), key=lambda pair: (-pair[1], pair[0]))
        found = []
        for count in range(1, min(self.sizes.most, len(ranked)) + 1):
            ids = tuple(id for id, _ in ranked[:count])
            nbytes = sum(size for _, size in ranked[:count])
            found.append(RouteSize(ids, nbytes, nbytes <= self.budget, ranked[0][1] <= self.budget))
        return tuple(found)

    @property
    def needed(self) -> int:
        """Bytes of one device like the first that would hold everything, with room for any one expert."""
        own = self.shares[0].device
        held = sum(item.nbytes for item in _overhead(self.sizes, own, here=True))
        return held + sum(map(self.sizes.cost, self.sizes.language)) + self.sizes.largest_expert

    @property
    def elsewhere(self) -> str:
        """Where pieces stay that no device has room for: in the machine's memory, or else on its disk."""
        return DISK if self.shares[0].device.name == CPU else CPU

    @property
    def device_map(self) -> dict[str, str] | None:
        """The language model's device map as transformers takes it; None where all is on one device."""
        if len({share.device.name for share in self.shares if share.pieces}) < 2 and not self.offloaded:
            return None
        placed = {piece.name: share.device.name for share in self.shares for piece in share.pieces}
        placed |= {piece.name: self.elsewhere for piece in self.offloaded}
        return {piece.name: placed[piece.name] for piece in self.sizes.language}

    @property
    def arguments(self) -> dict[str, Any]:
        """What `mova_core.load` is told."""
        mapped = self.device_map
        return {
            "device": None if mapped else self.shares[0].device.name,
            "dtype": self.sizes.dtype,
            "device_map": mapped,
            "quantization": self.sizes.quantization,
            "memory_budget": self.budget,
        }


def place(model: str, sizes: Sizes, devices: tuple[Device, ...]) -> MemoryPlan:
    """Decide what goes where.

    Args:
        model: the model's name, for whoever reads the plan.
        sizes: of its parts.
        devices: in torch's order, at least one.

    Returns:
        The plan; whether it fits is for the reader to see.
    """
    plan = _placed(model, sizes, devices, spare=0)
    if plan.fits or sizes.quantization:  # quantised layers cannot be brought in one by one
        return plan
    layer = max(piece.nbytes for piece in sizes.language)
    brought = -1
    while len(plan.offloaded) > brought:  # slow answers are better than experts that cannot run
        brought = len(plan.offloaded)
        caches = sum(sizes.cache_per_layer for piece in plan.offloaded if piece.name in sizes.layers)
        room = layer + caches
        plan = _placed(model, sizes, devices, spare=room + sizes.largest_expert, brought=room)
    return plan


def _placed(
    model: str, sizes: Sizes, devices: tuple[Device, ...], *, spare: int, brought: int = 0
) -> MemoryPlan:
    """A plan that leaves `spare` bytes of the first device, of which it sets `brought` aside for layers."""
    first, *_ = sizes.language
    stay = [piece for piece in sizes.language if piece.name in (first.name, sizes.tied)]
    pieces: dict[str, list[Item]] = {device.name: [] for device in devices}
    pieces[devices[0].name] = stay
    free = {d.name: Share(d, (), _overhead(sizes, d, here=d is devices[0])).free for d in devices}
    free[devices[0].name] -= sum(map(sizes.cost, stay)) + spare
    left = [piece for piece in sizes.language if piece not in stay]
    for device in reversed(devices):
        while left and sizes.cost(left[-1]) <= free[device.name]:
            free[device.name] -= sizes.cost(left[-1])
            pieces[device.name].append(left.pop())
    shares = []
    for device in devices:
        own = tuple(piece for piece in sizes.language if piece in pieces[device.name])
        items = _items(sizes, device, own, here=device is devices[0])
        if brought and device is devices[0]:
            items += (Item("layers while they compute", brought, "one at a time, and their keys and values"),)
        shares.append(Share(device, own, items))
    return MemoryPlan(model, sizes, tuple(shares), tuple(left))


def _overhead(sizes: Sizes, device: Device, *, here: bool) -> tuple[Item, ...]:
    """What a device holds besides the language model; `here` is where the encoders run."""
    runtime = [Item("runtime", device.own, "CUDA's own context and kernels")] if device.own else []
    if not here:
        return (*runtime, sizes.work)
    work = max(sizes.work, sizes.vision, key=lambda item: item.nbytes)  # never both at a time
    return (*runtime, *sizes.resident, sizes.features, work)


def _items(sizes: Sizes, device: Device, own: tuple[Item, ...], *, here: bool) -> tuple[Item, ...]:
    layers = [piece for piece in own if piece.name in sizes.layers]
    part = "all of it" if len(own) == len(sizes.language) else f"{len(layers)} of {len(sizes.layers)} layers"
    found = []
    if own:
        found.append(Item(f"language model, {part}", sum(piece.nbytes for piece in own)))
    if layers:
        cache = len(layers) * sizes.cache_per_layer
        found.append(Item("keys and values", cache, "of a whole conversation"))
    return (*found, *_overhead(sizes, device, here=here))
