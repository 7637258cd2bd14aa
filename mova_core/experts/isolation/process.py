"""The parent's hold on a worker: what is asked of it, and what its silence or its end means."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar

from torch import Tensor

from mova_core.errors import ExpertLoadError, ExpertRunError, MovaError
from mova_core.experts.isolation.channel import Channel
from mova_core.experts.isolation.lifetime import GRACE, Running, end_process, start_process
from mova_core.experts.isolation.messages import (
    ANSWERS,
    PROTOCOL,
    Answer,
    Encode,
    Encoded,
    Failed,
    Hello,
    Load,
    Loaded,
    Message,
    Prepare,
    Prepared,
)
from mova_core.experts.isolation.patience import Patience
from mova_core.experts.isolation.shared import adopt
from mova_core.experts.isolation.tail import Tail

A = TypeVar("A", bound=Message)


class WorkerProcess:
    """A process in which one expert runs. It ends with this object, or with this process.

    Requests of several threads are answered one after the other.

    Args:
        python: the interpreter of the expert's environment.
        expert: id of the expert, for errors.
        patience: how long answers may take.

    Raises:
        ExpertLoadError: the interpreter cannot be started, ends, or speaks another version of the protocol.
    """

    def __init__(self, python: Path, expert: str, patience: Patience) -> None:
        self._expert = expert
        self._patience = patience
        self._lock = Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = start_process(python, theirs)
            except OSError as error:
                ours.close()
                raise ExpertLoadError(
                    "the interpreter of the expert's environment cannot be started",
                    value=f"{python}: {error.strerror}",
                    hint=self._remake,
                ) from error
        self._tail = Tail(self._process.stdout)
        self._owner = os.getpid()
        self._end = weakref.finalize(self, end_process, self._process, ours, self._owner)
        self._channel = Channel(ours, ANSWERS, alive=Running(self._process))
        with self._explained(ExpertLoadError, "start", patience.start):
            hello, _ = self._channel.receive(seconds=patience.start)
            self._check_version(hello)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended, of itself or because it was given up; for a fork of its parent, it has."""
        return self._owner != os.getpid() or not self._end.alive or self._process.poll() is not None

    def load(self, request: Load) -> Loaded:
        """Have the expert built.

        Raises:
            ExpertLoadError: it cannot be, with what the worker said.
        """
        return self._ask(request, None, Loaded, ExpertLoadError)[0]

    def encode(self, request: Encode, stream: int) -> tuple[Encoded, Tensor]:
        """Have a stream encoded.

        Args:
            request: what the segment holds.
            stream: the segment.

        Returns:
            The answer, and the tokens in shared memory.

        Raises:
            ExpertRunError: the expert fails, with what the worker said, or the worker has ended.
        """
        answer, segment = self._ask(request, stream, Encoded, ExpertRunError)
        return answer, self._adopted(segment, answer)

    def prepare(self, request: Prepare, pixels: int) -> tuple[Prepared, Tensor]:
        """Have pictures prepared; as `encode`."""
        answer, segment = self._ask(request, pixels, Prepared, ExpertRunError)
        return answer, self._adopted(segment, answer)

    def close(self) -> None:
        """End the process, kindly at first."""
        self._end()

    def _ask(
        self, request: Message, segment: int | None, wanted: type[A], failure: type[MovaError]
    ) -> tuple[A, int | None]:
        seconds = self._patience.answer
        with self._lock, self._explained(failure, "answer", seconds):
            if not self._end.alive:
                raise EOFError
            self._channel.send(request, segment, seconds=seconds)
            answer, came = self._channel.receive(seconds=seconds)
            if not isinstance(answer, Failed) and not isinstance(answer, wanted):
                raise ValueError(f"{type(answer).__name__} in answer to {type(request).__name__}")
        if isinstance(answer, Failed):
            raise self._carried(answer, failure)
        return answer, came

    def _adopted(self, segment: int | None, answer: Encoded | Prepared) -> Tensor:
        header = answer.tokens if isinstance(answer, Encoded) else answer.stream
        with self._explained(ExpertRunError, "answer", self._patience.answer):
            if segment is None:
                raise ValueError("an answer without its tensor")
            return adopt(header, segment)

    def _check_version(self, hello: Answer) -> None:
        spoken = hello.protocol if isinstance(hello, Hello) else None
        if spoken != PROTOCOL:
            raise ExpertLoadError(
                "the expert's environment has a mova-core of another protocol",
                value=f"protocol {spoken}",
                expected=f"protocol {PROTOCOL}",
                hint=self._remake,
            )

    @contextmanager
    def _explained(self, failure: type[MovaError], what: str, seconds: float) -> Iterator[None]:
        """Turn what can go wrong between two processes into words, and give the worker up.

        After a failure here a late answer would be taken for that to the next question.
        """
        try:
            yield
        except EOFError as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
            raise self._failed(failure, self._how_it_ended(), self._why_it_ended()) from error
        except TimeoutError as error:
            self._kill()
            hint = "If it only is slow, set MOVA_WORKER_TIMEOUT to more seconds."
            raise self._failed(failure, f"did not {what} within {seconds:g} s and was ended", hint) from error
        except ValueError as error:
            self._kill()
            what = str(error).partition("\n")[0]
            raise self._failed(failure, f"broke the protocol ({what})", self._remake) from error
        except BaseException:
            self._kill()
            raise

    def _carried(self, failed: Failed, failure: type[MovaError]) -> MovaError:
        """The error of the expert's code, as if it had been raised here."""
        message = failed.message
        if failure is ExpertRunError and repr(self._expert) not in message:  # loading is named by the shelf
            message = f"expert {self._expert!r} failed in its process" + (f": {message}" if message else "")
        error = failure(
            message or "its code failed in its process",
            value=failed.value,
            expected=failed.expected,
            hint=failed.hint,
        )
        if failed.traceback:
            error.add_note(f"In the process of {self._expert}:\n{failed.traceback}")
        return error

    def _failed(self, failure: type[MovaError], how: str, hint: str) -> MovaError:
        self._kill()
        tail = self._tail.text()
        last = " | ".join(line.strip() for line in tail.splitlines()[-3:])
        error = failure(
            f"the process of expert {self._expert!r} {how}",
            value=f"its output: {last}" if last else None,
            hint=hint,
        )
        if tail:
            error.add_note(f"The end of what the process of {self._expert} wrote:\n{tail}")
        return error

    def _how_it_ended(self) -> str:
        code = self._process.poll()
        if not self._end.alive and code is None:
            return "was ended"
        if code is None:
            return "closed its connection"
        if code >= 0:
            return f"ended with exit code {code}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"

    def _why_it_ended(self) -> str:
        if self._process.poll() == -signal.SIGKILL:
            return "The machine may have run out of memory."
        return f"{self._remake} Or mend its code."

    @property
    def _remake(self) -> str:
        return f"To make its environment again, run `mova experts isolate {self._expert}`."

    def _kill(self) -> None:
        if self._end.alive:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._end()
