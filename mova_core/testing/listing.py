"""Whether listing experts stays light: it reads cards, and imports neither their code nor a large library."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from mova_core.errors import MovaError

HEAVY: Final = ("torch", "transformers", "timm", "open_clip", "numpy", "PIL")
"""Packages that a listing has no need of."""


def imported_by_listing(packages: Iterable[str]) -> list[str]:
    """Lists the installed experts in a fresh interpreter.

    Args:
        packages: top-level packages of experts, which must not be imported either.

    Returns:
        Those of them, and of `HEAVY`, that were imported: none, if all is well.

    Raises:
        MovaError: the listing itself failed, with the last line of what it said.
    """
    unwanted = [*HEAVY, *packages]
    code = (
        "import sys; from mova_core.cards.discovery import discover; "
        f"discover(); print(*[name for name in {unwanted!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if ran.returncode:
        said = ran.stderr.strip().rpartition("\n")[2]
        raise MovaError("listing experts failed", value=said, hint="Run `mova doctor`.")
    return ran.stdout.split()
