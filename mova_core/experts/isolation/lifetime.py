"""How a worker's process begins and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

GRACE: Final = 3.0
"""Seconds that a worker has to end of itself once it is hung up on."""

_MODULE: Final = "mova_core.experts.isolation.worker"


class Running:
    """Whether a process has not ended; holds nothing else, so that a channel keeps no worker alive."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __call__(self) -> bool:
        return self._process.poll() is None


def start_process(python: Path, theirs: socket.socket) -> subprocess.Popen[bytes]:
    """Start a worker.

    Args:
        python: the interpreter of its environment.
        theirs: its end of the connection.

    Raises:
        OSError: the interpreter cannot be run.
    """
    # -I: neither PYTHONPATH nor the working folder may put other versions before those of the environment.
    command = [str(python), "-I", "-u", "-m", _MODULE, str(theirs.fileno())]
    return subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,  # an interrupt from the keyboard is the parent's to handle
    )


def end_process(process: subprocess.Popen[bytes], connection: socket.socket, owner: int) -> None:
    """Hang up, which ends the worker; one that does not hear it is killed.

    Args:
        process: the worker.
        connection: this end of the connection to it.
        owner: id of the process that started it, and alone may end it.
    """
    if os.getpid() != owner:  # a fork of the parent: neither process nor connection are its own
        return
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
