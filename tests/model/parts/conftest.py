"""A package index on this machine, whose misbehaviour a test can choose, and a part that it serves."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mova_core.cards.models import PartSpec
from mova_core.model.parts import pip_settings, web

CONTENT = {"tiny_part/model/weights.bin": bytes(range(256)) * 400, "tiny_part/model/sub/config.json": b"{}"}
FILENAME = "tiny_part-1.0-py3-none-any.whl"


@dataclass
class Index:
    """What the server serves, how, and what it was asked.

    Args:
        files: archives by file name.
        cuts: for each coming answer with a file, the number of bytes after which the connection breaks.
        honours_range: whether a Range header is answered with 206.
        as_json: whether project pages are JSON (PEP 691) or HTML (PEP 503).
        digests: SHA-256 to announce by file name; what is missing is not announced.
        login: "user:password" that every request must bring.
        requests: (path, Range header) of every request.
    """

    port: int
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    honours_range: bool = True
    as_json: bool = True
    digests: dict[str, str] = field(default_factory=dict)
    login: str | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/simple/"

    @property
    def ranges(self) -> list[str | None]:
        """The Range headers of the requests for files."""
        return [asked for path, asked in self.requests if path.startswith("/files/")]


class _Handler(BaseHTTPRequestHandler):
    index: Index

    def do_GET(self) -> None:
        index, asked = self.index, self.headers.get("Range")
        index.requests.append((self.path, asked))
        if index.login and self.headers.get("Authorization") != _basic(index.login):
            self.send_error(401)
        elif self.path == "/simple/tiny-part/":
            self._page()
        elif (name := self.path.removeprefix("/files/")) in index.files:
            self._file(index.files[name], asked if index.honours_range else None)
        else:
            self.send_error(404)

    def _page(self) -> None:
        # An absolute address on the same host, as real indexes give, and one relative to the page.
        places = {name: f"http://127.0.0.1:{self.index.port}/files/{name}" for name in self.index.files}
        digests = self.index.digests
        if self.index.as_json:
            listed = [
                {"filename": n, "url": u, "hashes": {"sha256": digests[n]} if n in digests else {}}
                for n, u in places.items()
            ]
            body, kind = json.dumps({"files": listed}), "application/vnd.pypi.simple.v1+json"
        else:
            links = [
                f'<a href="../../files/{n}{f"#sha256={digests[n]}" if n in digests else ""}">{n}</a>'
                for n in places
            ]
            body, kind = (
                f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>",
                "text/html; charset=utf-8",
            )
        self._answer(200, body.encode(), {"Content-Type": kind})

    def _file(self, content: bytes, asked: str | None) -> None:
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        cut = self.index.cuts.pop(0) if self.index.cuts else None
        self._answer(206 if asked else 200, content[start:], headers, cut)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.fixture
def index() -> Iterator[Index]:
    """A running package index without files."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.index = Index(port=server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler.index
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no pip configuration but what a test sets, no proxy, no waiting between attempts."""
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(pip_settings, "_configured", lambda: iter(()))
    monkeypatch.setenv("MOVA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOVA_OFFLINE", raising=False)
    monkeypatch.setattr(web, "BACKOFF", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def wheel() -> bytes:
    """A wheel with a part of two files, and one file that is none of its business."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**CONTENT, "tiny_part/__init__.py": b""}.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def part(index: Index, wheel: bytes, monkeypatch: pytest.MonkeyPatch) -> PartSpec:
    """A part that the index serves, on the index that pip is set to."""
    index.files[FILENAME] = wheel
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    return PartSpec(
        id="tiny",
        title="A tiny part",
        package="Tiny_Part",
        version="1.0",
        filename=FILENAME,
        sha256=hashlib.sha256(wheel).hexdigest(),
        member="tiny_part/model/",
        size_bytes=len(wheel),
        licence="MIT",
    )
