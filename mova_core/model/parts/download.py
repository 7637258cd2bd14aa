"""Downloading one file of known size and SHA-256: resumed, retried, checked, never half under its name."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mova_core.errors import PartsError
from mova_core.model.parts import web
from mova_core.model.parts.progress import Progress

if TYPE_CHECKING:
    from requests import Response, Session

_CHUNK = 1 << 18
_HINT = "Check the network (proxy: HTTPS_PROXY, REQUESTS_CA_BUNDLE) and repeat the command: it resumes."


class _Interrupted(Exception):
    """A transfer ended early, for a reason that may pass; the message says which."""


class _Partial:
    """The bytes that are here so far, in a file, and their running digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = hashlib.sha256()
        self.done = 0
        if path.exists():
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    self._count(chunk)

    def discard(self) -> None:
        """Forget all bytes."""
        self.path.unlink(missing_ok=True)
        self.digest = hashlib.sha256()
        self.done = 0

    def receive(self, response: Response, size: int, shown: Callable[[int], None]) -> None:
        """Append the body of an answer, never beyond `size` bytes in all: the digest judges those."""
        with self.path.open("ab") as file:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                wanted = chunk[: size - self.done]
                file.write(wanted)
                self._count(wanted)
                shown(self.done)
                if self.done == size:
                    return

    def _count(self, chunk: bytes) -> None:
        self.digest.update(chunk)
        self.done += len(chunk)


def download(url: str, target: Path, *, size: int, sha256: str, session: Session, progress: Progress) -> None:
    """Fetch `url` into `target`, continuing what an earlier call left in `TARGET.part`.

    Args:
        url: address of the file.
        target: where it goes once it is whole and its digest is right.
        size: its length in bytes.
        sha256: its digest.
        session: an open HTTP session.
        progress: shows a bar.

    Raises:
        PartsError: the server has no such file, another one, or stops answering.
        OSError: the file cannot be written; what was written is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(target.with_name(target.name + ".part"))
    resumed = partial.done > 0
    try:
        with progress.bar(target.name, total=size, done=partial.done) as shown:
            _complete(partial, url, size, session, shown)
    except OSError:
        partial.discard()  # a full disk is not left full
        raise
    if (found := partial.digest.hexdigest()) == sha256:
        os.replace(partial.path, target)
        return
    partial.discard()
    if not resumed:
        raise PartsError(
            f"the checksum of {web.without_credentials(url)} is wrong; the file was removed",
            value=f"SHA-256 {found}",
            expected=sha256,
            hint="Repeat the command; if it fails again, the index serves another file: set PIP_INDEX_URL.",
        )
    progress.say(f"{target.name}: what an earlier download left is damaged; starting again")
    download(url, target, size=size, sha256=sha256, session=session, progress=progress)


def _complete(partial: _Partial, url: str, size: int, session: Session, shown: Callable[[int], None]) -> None:
    """Transfer until all bytes are here; give up after several failures in a row that brought none."""
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    failures, furthest = 0, partial.done
    while partial.done < size:
        try:
            _transfer(partial, url, size, session, shown)
        except RequestException as error:  # nothing was received: `web.get` has been patient already
            raise _gave_up(url, f"{type(error).__name__}", partial, size) from error
        except (_Interrupted, HTTPError) as error:
            failures = 1 if partial.done > furthest else failures + 1
            furthest = max(furthest, partial.done)
            if failures > len(web.BACKOFF):
                raise _gave_up(url, str(error), partial, size) from error
            time.sleep(web.BACKOFF[failures - 1])


def _transfer(partial: _Partial, url: str, size: int, session: Session, shown: Callable[[int], None]) -> None:
    """One request for the bytes that are missing."""
    headers = {"Accept-Encoding": "identity"}
    if partial.done:
        headers["Range"] = f"bytes={partial.done}-"
    with web.get(session, url, headers) as response:
        if response.status_code == 206:
            start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if start is None or int(start[1]) != partial.done:
                partial.discard()
                raise _Interrupted("the server sent another range than asked for")
        elif response.status_code == 416:
            partial.discard()
            raise _Interrupted("the server has fewer bytes than are here")
        elif response.status_code == 200:
            partial.discard()  # the server does not resume, or there was nothing to resume
        else:
            raise PartsError(
                f"{web.without_credentials(url)} answered with HTTP status {response.status_code}", hint=_HINT
            )
        partial.receive(response, size, shown)
    if partial.done < size:
        raise _Interrupted("the connection was closed early")


def _gave_up(url: str, reason: str, partial: _Partial, size: int) -> PartsError:
    return PartsError(
        f"{web.without_credentials(url)} could not be fetched: {reason}",
        value=f"{partial.done:,} bytes",
        expected=f"{size:,}",
        hint=_HINT,
    )
