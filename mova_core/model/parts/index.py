"""Finding a distribution file on a package index: the Simple API, as JSON (PEP 691) or HTML (PEP 503)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from mova_core.cards.models import PartSpec
from mova_core.errors import PartsError
from mova_core.model.parts import web

if TYPE_CHECKING:
    from requests import Session

_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = f"{_JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_PAGE_LIMIT = 64_000_000  # bytes; the largest project page of PyPI has about a tenth


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file that an index offers: where it is, and its SHA-256 if the index says it."""

    filename: str
    url: str
    sha256: str | None


class _NoListing(Exception):
    """An index gave no list of files; the message says why."""


def find_file(part: PartSpec, session: Session, index_urls: tuple[str, ...]) -> str:
    """The address of a part's archive on the first index that has it.

    Args:
        part: what is wanted.
        session: an open HTTP session.
        index_urls: indexes in the order of asking; those that are not HTTP are passed over.

    Raises:
        PartsError: no index has the file, or the first that has it announces another checksum.
    """
    asked = []
    for index in index_urls:
        shown = web.without_credentials(index)
        try:
            for file in _listing(part.package, session, index):
                if file.filename == part.filename:
                    _check_digest(part, file, shown)
                    return file.url
            asked.append(f"{shown} (has {part.package}, but not this file)")
        except _NoListing as reason:
            asked.append(f"{shown} ({reason})")
    raise PartsError(
        f"{part.filename} was not found; asked {', '.join(asked)}",
        hint="Check the network, or name an index that has it: PIP_INDEX_URL=https://pypi.org/simple.",
    )


def _listing(package: str, session: Session, index: str) -> list[IndexedFile]:
    """The files of a package on one index."""
    from requests import RequestException

    if urlsplit(index).scheme not in ("http", "https"):
        raise _NoListing("not an HTTP index")
    name = re.sub(r"[-_.]+", "-", package).lower()
    try:
        with web.get(session, f"{index.rstrip('/')}/{name}/", {"Accept": _ACCEPT}) as response:
            if response.status_code != 200:
                raise _NoListing(f"HTTP status {response.status_code}")
            page = bytearray()
            for chunk in response.iter_content(1 << 16):
                page += chunk
                if len(page) > _PAGE_LIMIT:
                    raise _NoListing(f"a page of more than {_PAGE_LIMIT:,} bytes")
            is_json = response.headers.get("Content-Type", "").partition(";")[0].strip() == _JSON
            files = _from_json(page, response.url) if is_json else _from_html(page, response.url)
    except RequestException as error:
        raise _NoListing(f"not reached: {type(error).__name__}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _NoListing("its answer is not a Simple API page") from error
    return [_signed_in(file, index) for file in files]


def _from_json(page: bytes | bytearray, base: str) -> list[IndexedFile]:
    return [
        IndexedFile(file["filename"], urljoin(base, file["url"]), file.get("hashes", {}).get("sha256"))
        for file in json.loads(page)["files"]
    ]


def _from_html(page: bytes | bytearray, base: str) -> list[IndexedFile]:
    links = _Links()
    links.feed(page.decode("utf-8"))
    files = []
    for href in links.found:
        url, fragment = urldefrag(urljoin(base, href))
        kind, _, digest = fragment.partition("=")
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        files.append(IndexedFile(filename, url, digest if kind == "sha256" else None))
    return files


class _Links(HTMLParser):
    """Collects the addresses that a page links to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of one link."""
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.found.append(href)


def _signed_in(file: IndexedFile, index: str) -> IndexedFile:
    """Files on the index's own host are asked for with the index's credentials, as pip does."""
    mine, home = urlsplit(file.url), urlsplit(index)
    same_place = (mine.scheme, web.host(mine)) == (home.scheme, web.host(home))
    return replace(file, url=mine._replace(netloc=home.netloc).geturl()) if same_place else file


def _check_digest(part: PartSpec, file: IndexedFile, index: str) -> None:
    if file.sha256 and file.sha256.lower() != part.sha256:
        raise PartsError(
            f"{index} offers another file under the name {part.filename}",
            value=f"SHA-256 {file.sha256}",
            expected=part.sha256,
            hint="Use an index that mirrors PyPI unchanged: PIP_INDEX_URL=https://pypi.org/simple.",
        )
