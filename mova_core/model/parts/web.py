"""HTTP as this machine is set up for it: pip's certificates and proxy, patience with failures that pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from mova_core.model.parts.pip_settings import PipSettings

if TYPE_CHECKING:
    from requests import Response, Session

BACKOFF: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait after each failure in a row, before giving up."""

_TIMEOUT = (20.0, 60.0)  # seconds to connect, seconds between two pieces of an answer
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)


def open_session(settings: PipSettings) -> Session:
    """An HTTP session with pip's certificates and proxy; REQUESTS_CA_BUNDLE and HTTPS_PROXY work as well."""
    from requests import Session

    session = Session()
    session.headers["User-Agent"] = "mova-core"
    if settings.cert:
        session.verify = settings.cert
    if settings.proxy:
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    return session


def get(session: Session, url: str, headers: Mapping[str, str]) -> Response:
    """Begin a GET request, again after a pause if the server is not reached or busy.

    Returns:
        the answer with its body still to be read, to be closed by the caller; its status may be an error.

    Raises:
        requests.RequestException: the server was not reached in the last attempt either.
    """
    from requests import ConnectionError, Timeout
    from requests.exceptions import SSLError

    for pause in BACKOFF:
        try:
            response = session.get(url, headers=dict(headers), timeout=_TIMEOUT, stream=True)
            if response.status_code not in _PASSING_STATUS:
                return response
            response.close()
        except SSLError:
            raise  # a certificate does not get better by waiting
        except (ConnectionError, Timeout):
            pass  # the attempt after the last pause raises it
        time.sleep(pause)
    return session.get(url, headers=dict(headers), timeout=_TIMEOUT, stream=True)


def host(pieces: SplitResult) -> str:
    """Host and port of an address, without user name and password."""
    return pieces.netloc.rpartition("@")[2]


def without_credentials(url: str) -> str:
    """The address without user name and password, to be shown."""
    pieces = urlsplit(url)
    return pieces._replace(netloc=host(pieces)).geturl()
