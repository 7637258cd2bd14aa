"""Which package index this machine uses: what `pip install` would use, asked of pip itself."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

DEFAULT_INDEX = "https://pypi.org/simple"

_KEYS = ("index-url", "extra-index-url", "cert", "proxy")
# From weakest to strongest, as in pip: a command's section overrides [global].
_SECTIONS = ("global", "download", "install")


@dataclass(frozen=True, slots=True)
class PipSettings:
    """The part of pip's configuration that says how to reach packages.

    Args:
        index_urls: indexes in the order of asking; credentials may be inside.
        cert: file of certificate authorities, if one is set.
        proxy: proxy for all requests, if one is set; HTTPS_PROXY and its like work without it.
    """

    index_urls: tuple[str, ...] = (DEFAULT_INDEX,)
    cert: str | None = None
    proxy: str | None = None


def pip_settings() -> PipSettings:
    """Read pip's configuration: its files, overridden by environment variables such as PIP_INDEX_URL."""
    lines = sorted(_configured(), key=lambda line: _SECTIONS.index(line[0]))
    values = {key: value for _, key, value in lines}
    for key in _KEYS:
        if chosen := os.environ.get("PIP_" + key.replace("-", "_").upper()):
            values[key] = chosen
    return PipSettings(
        index_urls=(values.get("index-url") or DEFAULT_INDEX, *values.get("extra-index-url", "").split()),
        cert=values.get("cert"),
        proxy=values.get("proxy"),
    )


def _configured() -> Iterator[tuple[str, str, str]]:
    """Lines of `pip config list` as (section, key, value); none where pip is not installed."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for line in listing.splitlines():
        name, _, quoted = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in _SECTIONS and key in _KEYS:
            yield section, key, str(ast.literal_eval(quoted))
