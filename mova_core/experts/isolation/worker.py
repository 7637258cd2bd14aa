"""The other side: `python -m mova_core.experts.isolation.worker DESCRIPTOR`, run in the environment.

It says hello, builds one expert, answers requests until the parent hangs up, and ends. What it or the
expert's code prints goes to the parent, which shows the end of it where the process fails.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from threading import Thread
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from mova_core.cards.card import ExpertCard
from mova_core.errors import ExpertLoadError, MovaError
from mova_core.experts.isolation.channel import Channel
from mova_core.experts.isolation.messages import (
    PROTOCOL,
    REQUESTS,
    Encode,
    Encoded,
    Failed,
    Hello,
    Load,
    Loaded,
    Message,
    Prepare,
    Prepared,
    Request,
)
from mova_core.experts.isolation.shared import adopt, dtype_of, share
from mova_core.experts.loading import expert_class
from mova_core.experts.protocol import VisionExpert, check_features

_GRACE: Final = 2.0
_MOST_TRACEBACK: Final = 20_000
_MOST_WORDS: Final = 2_000


def main(descriptor: int) -> None:
    """Serve one parent.

    Args:
        descriptor: of the connection to it.
    """
    os.set_inheritable(descriptor, False)  # programs that the expert starts are none of the parent's
    connection = socket.socket(fileno=descriptor)
    Thread(target=_end_when_left, args=(connection,), daemon=True).start()
    channel = Channel(connection, REQUESTS)
    host = Host()
    try:
        channel.send(Hello(protocol=PROTOCOL, mova_core=_version()))
        while True:
            answer, segment = host.answer(*channel.receive())
            try:
                channel.send(answer, segment)
            finally:
                if segment is not None:
                    os.close(segment)
    except EOFError:
        return


class Host:
    """Holds the expert and answers requests; whatever its code raises is an answer, too."""

    def __init__(self) -> None:
        self._expert: VisionExpert | None = None

    @torch.no_grad()
    def answer(self, request: Request, segment: int | None) -> tuple[Message, int | None]:
        """The answer to a request, and the memory that goes with it, which is the caller's.

        Args:
            request: what is wanted.
            segment: the memory that came along; closed here.
        """
        try:
            if isinstance(request, Load):
                return self._load(request), None
            expert, tensor = self._loaded(), _received(request, segment)
            if isinstance(request, Encode):
                return self._encode(expert, tensor)
            header, prepared = share(expert.preprocess(list(_pictures(tensor, request.sizes))))
            return Prepared(stream=header), prepared
        except (Exception, SystemExit) as error:  # an expert's code may raise anything
            return _failed(error), None

    def _load(self, request: Load) -> Loaded:
        torch.set_num_threads(request.threads)
        card = ExpertCard.model_validate(request.card)
        device, dtype = torch.device(request.device), dtype_of(request.dtype)
        try:
            factory = expert_class(card)
        except ExpertLoadError as error:
            raise _with_hint(error, card) from error
        expert = factory.from_pretrained(request.source, dtype=dtype, device=device, **card.options)
        expert.bind(card).to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._expert, self._device = expert, device
        own = type(expert).preprocess is not VisionExpert.preprocess
        return Loaded(nbytes=expert.nbytes, prepares=own)

    def _encode(self, expert: VisionExpert, stream: Tensor) -> tuple[Encoded, int]:
        features = expert(stream.to(self._device))
        spec = expert.card.features
        features = check_features(features, spec, expert=expert.card.id, images=len(stream))
        header, tokens = share(features.tokens)
        return Encoded(tokens=header, grid=features.grid), tokens

    def _loaded(self) -> VisionExpert:
        if self._expert is None:
            raise ValueError("no expert has been loaded")
        return self._expert


def _received(request: Encode | Prepare, segment: int | None) -> Tensor:
    if segment is None:
        raise ValueError("a request without its tensor")
    return adopt(request.stream if isinstance(request, Encode) else request.pixels, segment)


def _pictures(pixels: Tensor, sizes: tuple[tuple[int, int], ...]) -> Iterator[Image.Image]:
    lengths = [3 * width * height for width, height in sizes]
    for size, piece in zip(sizes, torch.split(pixels, lengths), strict=True):
        yield Image.frombytes("RGB", size, piece.numpy().tobytes())


def _failed(error: BaseException) -> Failed:
    trace = "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:]
    if isinstance(error, MovaError):
        return Failed(
            message=error.message[:_MOST_WORDS],
            value=error.value if isinstance(error.value, str | None) else repr(error.value),
            expected=error.expected,
            hint=error.hint,
            traceback=trace,
        )
    return Failed(value=f"{type(error).__name__}: {error}"[:_MOST_WORDS], traceback=trace)


def _with_hint(error: ExpertLoadError, card: ExpertCard) -> ExpertLoadError:
    """What the code lacks belongs into its environment, not into that of whoever reads the message."""
    cause = error.__cause__
    missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
    hint = (
        f"Run `mova experts isolate {card.id} NAME==VERSION` with what brings {missing}."
        if missing
        else error.hint
    )
    return ExpertLoadError(error.message, value=error.value, expected=error.expected, hint=hint)


def _end_when_left(connection: socket.socket) -> None:
    """End the process soon after the parent has hung up, or died, though a computation still runs."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    poll.poll()
    time.sleep(_GRACE)
    os._exit(1)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("mova-core")
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main(int(sys.argv[1]))
