"""What has been answered so far, so that a run that was stopped goes on where it was.

A text file beside the output: a head with the settings of the run, then a line for each result, written as
soon as there is one. Only where each result stands is kept in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mova_core.errors import InputError

VERSION = 1


class Journal:
    """The results of one output file, by the key of their question. To be used as a context manager.

    A line that was cut short by a kill is dropped. A result that is an error is kept for the output, and its
    question is asked again by the next run.

    Args:
        path: the file; made if it is not there.
        settings: all that answers depend on besides the questions.

    Raises:
        InputError: on entering, if the file cannot be written, is no journal or was written under other
            settings, or another run has it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        from filelock import FileLock

        self.path = path
        self.settings = dict(settings)
        self._places: dict[str, int] = {}
        self._failed: set[str] = set()
        self._lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)

    def __enter__(self) -> Self:
        from filelock import Timeout

        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                "another run is writing this output",
                value=str(self.path),
                hint="Wait for it, or name another --output.",
            ) from error
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._file = self.path.open("a+b")
            self._read()
        except OSError as error:
            self._lock.release()
            raise self._unwritable(error) from error
        except BaseException:
            self._file.close()
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.release()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def answers(self, key: str) -> bool:
        """Whether that question need not be asked again."""
        return key in self._places and key not in self._failed

    def add(self, key: str, result: Mapping[str, Any]) -> None:
        """Write one result down; it survives whatever happens to this process."""
        self._note(key, "error" in result, self._write({"key": key, "result": result}))

    def result(self, key: str) -> dict[str, Any]:
        """The latest result of a question that is `in` the journal."""
        self._file.seek(self._places[key])
        found: dict[str, Any] = json.loads(self._file.readline())["result"]
        return found

    def discard(self) -> None:
        """Delete the file: all that is in it has been written elsewhere."""
        self.path.unlink()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _note(self, key: str, failed: bool, place: int) -> None:
        self._places[key] = place
        if failed:
            self._failed.add(key)
        else:
            self._failed.discard(key)

    def _write(self, entry: Mapping[str, Any]) -> int:
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        return place

    def _read(self) -> None:
        self._file.seek(0)
        head = self._file.readline()
        if not head.endswith(b"\n") and _is_ours(head):
            self._file.truncate(0)  # killed while the head was written
            self._write({"mova_batch": VERSION, "settings": self.settings})
            return
        self._check(head)
        while line := self._file.readline():
            place = self._file.tell() - len(line)
            if not line.endswith(b"\n"):
                self._file.truncate(place)
                break
            try:
                entry = json.loads(line)
                key, failed = str(entry["key"]), "error" in dict(entry["result"])
            except (ValueError, KeyError, TypeError):
                continue  # whoever damaged this line: its question is asked again
            self._note(key, failed, place)

    def _check(self, head: bytes) -> None:
        try:
            found = json.loads(head)
            version, settings = found["mova_batch"], dict(found["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                "this file is in the way: it is no journal of answers",
                value=str(self.path),
                hint="Move it, or name another --output.",
            ) from error
        changed = sorted(name for name, value in self.settings.items() if settings.get(name) != value)
        if version != VERSION or changed:
            raise InputError(
                "the answers so far were made otherwise",
                value=", ".join(f"{name} {settings.get(name)}" for name in changed) or f"version {version}",
                expected=", ".join(f"{name} {self.settings[name]}" for name in changed) or None,
                hint=f"Name another --output, or delete {self.path} to begin again.",
            )

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"answers cannot be written here: {error.strerror}",
            value=str(self.path.parent),
            expected="a folder that can be written to",
            hint="Name another --output.",
        )


def _is_ours(head: bytes) -> bool:
    """Whether a file without one whole line is new, or a head cut short."""
    begun = b'{"mova_batch": '
    return begun.startswith(head) or head.startswith(begun)
