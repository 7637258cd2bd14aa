"""The last words of a process."""

from __future__ import annotations

from threading import Thread
from typing import IO, Final

_KEPT: Final = 8192
_WAIT: Final = 1.0


class Tail:
    """Reads what a process writes, as it comes, and keeps the end of it.

    Args:
        stream: the pipe, unbuffered; read until its end, and closed.
    """

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._kept = bytearray()
        self._thread = Thread(
            target=_drain, args=(stream, self._kept), name="mova-worker-output", daemon=True
        )
        self._thread.start()

    def text(self) -> str:
        """What is kept, once the process has ended: without blank ends, cut at a line."""
        self._thread.join(_WAIT)  # a child that outlives it may hold the pipe open
        kept = bytes(self._kept)
        if len(kept) >= _KEPT:
            kept = kept.partition(b"\n")[2] or kept
        return kept.decode(errors="replace").strip()


def _drain(stream: IO[bytes] | None, kept: bytearray) -> None:
    if stream is None:
        return
    with stream:
        while piece := stream.read(65536):
            kept += piece
            del kept[:-_KEPT]
