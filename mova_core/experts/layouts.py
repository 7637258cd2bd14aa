"""The ways in which publishers name the tensors of one encoder, and filling a module from any of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from mova_core.errors import ExpertLoadError
from mova_core.experts.files import WeightFiles
from mova_core.experts.weights import load_strict, some

_LOG = logging.getLogger(__name__)

State = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one publisher names an encoder's tensors.

    Args:
        title: whose layout it is, for messages.
        mark: name of a tensor, after `prefix`, that this layout has and the encoder's other layouts lack.
        prefix: what the names of the encoder's tensors begin with; with a prefix, other tensors are not the
            encoder's and are left alone, without one every tensor must be accounted for.
        rename: regular expressions and replacements, applied to each name in order (`re.sub`).
        unused: regular expressions, matched from the start of a name before renaming, of tensors that are
            expected and not needed, such as a classifier's head.
        fused: projections that the publisher keeps as one: a stretch of a renamed name between dots, and the
            stretches that take its place, for the parts the tensor is cut into along its outputs, in order.
        convert: what else renaming cannot do, on all renamed tensors at once.
    """

    title: str
    mark: str
    prefix: str = ""
    rename: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    convert: Callable[[State], State] | None = None

    def fits(self, names: Iterable[str]) -> bool:
        """Whether tensors of these names are in this layout."""
        return self.prefix + self.mark in names

    def read(self, tensors: Mapping[str, Tensor]) -> tuple[State, tuple[str, ...]]:
        """The tensors by the encoder's own names, and the names of those that are not used.

        Raises:
            ExpertLoadError: two tensors would get one name.
        """
        own: State = {}
        unused: list[str] = []
        for name in tensors:
            if not name.startswith(self.prefix):
                continue
            short = name[len(self.prefix) :]
            if any(re.match(pattern, short) for pattern in self.unused):
                unused.append(name)
                continue
            renamed = short
            for pattern, replacement in self.rename:
                renamed = re.sub(pattern, replacement, renamed)
            for part, tensor in self._parts(renamed, tensors[name]):
                if part in own:
                    raise ExpertLoadError(
                        "two tensors mean the same weight", value=name, expected=f"one for {part}"
                    )
                own[part] = tensor
        return (self.convert(own) if self.convert else own), tuple(unused)

    def _parts(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The tensor itself, or what it is cut into, each with memory of its own."""
        fused = next((each for each in self.fused if f".{each}." in name), None)
        if fused is None:
            yield name, tensor
            return
        parts = self.fused[fused]
        for part, piece in zip(parts, tensor.chunk(len(parts)), strict=False):  # too short: found missing
            yield name.replace(f".{fused}.", f".{part}."), piece.clone()


@dataclass(frozen=True, slots=True)
class Filled:
    """What a module was filled from.

    Args:
        layout: in which the tensors were named.
        unused: names of tensors that were expected and not needed.
    """

    layout: Layout
    unused: tuple[str, ...]


class _On(Mapping[str, Tensor]):
    """Tensors on a device, moved when they are asked for: what is cut or joined is so where it will stay."""

    def __init__(self, device: torch.device | None, tensors: Mapping[str, Tensor]) -> None:
        self._device, self._tensors = device, tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].to(device=self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def fill(
    module: nn.Module,
    source: str | Path,
    layouts: Sequence[Layout],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Filled:
    """Fill a module with the weights of a publisher, in the first layout that fits.

    Every tensor of the module must be there and none may be left over. The module's own tensors are replaced,
    so it can stand on the meta device.

    Args:
        module: the module, by whose names the layouts speak.
        source: a weight file or a folder.
        layouts: to try, in order.
        dtype: of its floating-point tensors from now on; None keeps the file's.
        device: where they go; None leaves them on the CPU.

    Returns:
        The layout, and what was not needed.

    Raises:
        ExpertLoadError: the files cannot be read, are in none of the layouts, or lists what is missing,
            surplus or of another shape.
    """
    with WeightFiles(source) as files:
        layout = next((each for each in layouts if each.fits(files.keys())), None)
        if layout is None:
            raise ExpertLoadError(
                f"the weights of {source} are in no layout that {type(module).__name__} knows",
                value=", ".join(sorted(files)[:3]) + (" ..." if len(files) > 3 else ""),
                expected="; or ".join(f"{each.title}, with {each.prefix}{each.mark}" for each in layouts),
                hint="Check that the card's weights belong to its factory.",
            )
        state, unused = layout.read(_On(device, files))
        own: State = {}
        for name in list(state):  # each original is let go as soon as it is converted
            tensor = state.pop(name)
            own[name] = tensor.to(dtype=dtype if tensor.is_floating_point() else None)
        load_strict(module, own, source=f"{source} ({layout.title})", assign=True)
    return Filled(layout, unused)


def pretrained(
    make: Callable[[], Module],
    source: str | Path,
    layouts: Sequence[Layout],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Module:
    """Build an encoder straight from its weights: nothing is initialised at random first, nor held twice.

    Args:
        make: builds the encoder; its parameters stand on the meta device until they are filled.
        source: a weight file or a folder.
        layouts: to try, in order.
        dtype: of its floating-point parameters.
        device: where it goes.

    Returns:
        The encoder. Which tensors of the file were expected and not needed is logged (level INFO).

    Raises:
        ExpertLoadError: as `fill`.
    """
    with init_empty_weights(include_buffers=False):
        module = make()
    filled = fill(module, source, layouts, dtype=dtype, device=device)
    if filled.unused:
        _LOG.info("%s: %d tensors not needed (%s)", source, len(filled.unused), some(filled.unused))
    return module.to(device=device, dtype=dtype)
