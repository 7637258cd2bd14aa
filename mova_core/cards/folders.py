"""Where this toolkit keeps what it fetches and makes."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The cache folder: the environment variable MOVA_CACHE, or the user's cache folder of this system."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("MOVA_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("mova", appauthor=False)
