"""Messages over a Unix socket: a length, JSON, and at most one file descriptor beside them."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from pydantic import TypeAdapter

from mova_core.experts.isolation.messages import Message

_LENGTH: Final = struct.Struct("!I")
_MOST_BYTES: Final = 4 * 2**20
_TICK: Final = 0.5

M = TypeVar("M")


def always() -> bool:
    """The `alive` of a channel whose end of file says enough."""
    return True


class Channel(Generic[M]):
    """One end of a connection.

    Args:
        connection: a connected Unix stream socket.
        incoming: reads the messages of the other end.
        alive: whether the other end's process still runs. Looked at now and then while nothing comes, since a
            child it has forked may keep the connection open after its death.
    """

    def __init__(
        self, connection: socket.socket, incoming: TypeAdapter[M], alive: Callable[[], bool] = always
    ) -> None:
        self._connection = connection
        self._incoming = incoming
        self._alive = alive

    def send(self, message: Message, segment: int | None = None, *, seconds: float | None = None) -> None:
        """Send a message, and with it a file descriptor.

        Args:
            message: what to say.
            segment: the descriptor; it stays the caller's.
            seconds: how long it may take; None for ever.

        Raises:
            EOFError: the other end has gone.
            TimeoutError: it does not read.
            ValueError: the message is too long.
        """
        body = message.model_dump_json().encode()
        if len(body) > _MOST_BYTES:
            raise ValueError(f"a message of {len(body):,} bytes; {_MOST_BYTES:,} are allowed")
        self._connection.settimeout(seconds)
        length = _LENGTH.pack(len(body))
        try:
            if segment is None:
                self._connection.sendall(length)
            else:
                socket.send_fds(self._connection, [length], [segment])
            self._connection.sendall(body)
        except TimeoutError:
            raise
        except OSError as error:
            raise EOFError(str(error)) from error

    def receive(self, *, seconds: float | None = None) -> tuple[M, int | None]:
        """Wait for a message.

        Args:
            seconds: how long; None for ever.

        Returns:
            The message and the file descriptor that came with it, which is now the caller's.

        Raises:
            EOFError: the other end has gone.
            TimeoutError: nothing came.
            ValueError: what came is no message.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        segments: list[int] = []
        try:
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline, segments))
            if length > _MOST_BYTES:
                raise ValueError(f"a message of {length:,} bytes; {_MOST_BYTES:,} are allowed")
            message = self._incoming.validate_json(self._read(length, deadline, segments))
        except BaseException:
            for segment in segments:
                os.close(segment)
            raise
        return message, segments[0] if segments else None

    def _read(self, size: int, deadline: float | None, segments: list[int]) -> bytes:
        """Exactly `size` bytes; descriptors that come with them are appended to `segments`."""
        data = bytearray()
        while len(data) < size:
            left = _TICK if deadline is None else min(_TICK, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            try:
                piece, came, _, _ = socket.recv_fds(self._connection, size - len(data), 1)
            except TimeoutError:
                if not self._alive():
                    raise EOFError from None
                continue
            except OSError as error:
                raise EOFError(str(error)) from error
            segments += came
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)
