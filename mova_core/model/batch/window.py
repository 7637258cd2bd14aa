"""Requests in windows: enough to be sorted, and not more pictures in memory than a bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mova_core.errors import MovaError
from mova_core.experts.images import load_image
from mova_core.model.batch.request import Request, Result
from mova_core.model.processing import MovaProcessor, Turn

if TYPE_CHECKING:
    from PIL.Image import Image

    from mova_core.model.given import ImageLike
    from mova_core.routing.route import Route

MAX_PIXELS = 100_000_000
"""Pixels of a window's pictures together, beyond which it is closed: 300 MB in memory."""


@dataclass(slots=True, eq=False)
class Opened:
    """A request under way.

    Args:
        place: which request it is of.
        turn: question and pictures.
        experts: its own route, if it has one.
        length: tokens of its prompt.
        routes: one for each picture, once they are known.
    """

    place: int
    turn: Turn
    experts: tuple[str, ...] | None
    length: int
    routes: list[Route] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Window:
    """Requests that are answered together.

    Args:
        opened: those that can be asked.
        failed: those that cannot.
        pictures: pictures by path, since several questions may be about one.
    """

    opened: list[Opened] = field(default_factory=list)
    failed: list[Result] = field(default_factory=list)
    pictures: dict[str, Image] = field(default_factory=dict)
    pixels: int = 0

    def __len__(self) -> int:
        return len(self.opened) + len(self.failed)

    def add(self, place: int, request: Request, processor: MovaProcessor) -> None:
        """Open one request; what is wrong with it becomes its result."""
        try:
            turn = Turn(request.question, tuple(self._open(image) for image in request.images))
            tokens = processor.tokens([processor.write([turn])])["input_ids"]
        except MovaError as error:
            self.failed.append(Result(place, error=error))
        else:
            self.opened.append(Opened(place, turn, request.experts, tokens.shape[1]))

    def _open(self, image: ImageLike) -> Image:
        if not isinstance(image, (str, Path)):
            return self._counted(load_image(image))
        name = str(image)
        if name not in self.pictures:
            self.pictures[name] = self._counted(load_image(image))
        return self.pictures[name]

    def _counted(self, picture: Image) -> Image:
        self.pixels += picture.width * picture.height
        return picture


def windows(
    requests: Iterable[Request], processor: MovaProcessor, *, size: int, max_pixels: int = MAX_PIXELS
) -> Iterator[Window]:
    """Opens requests as they come.

    Args:
        requests: read no further than the window at hand.
        processor: says how long each prompt is.
        size: the most requests of a window.
        max_pixels: pixels after which a window is closed, whatever its size.
    """
    window = Window()
    for place, request in enumerate(requests):
        window.add(place, request, processor)
        if len(window) >= size or window.pixels >= max_pixels:
            yield window
            window = Window()
    if len(window):
        yield window
