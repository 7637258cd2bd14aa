"""Virtual environments of experts that run in a process of their own: `CACHE/environments/ID-HASH/`.

There is one for each expert and card. `mova experts isolate` makes it, and writes its note last, so that an
environment without one is not there. Nothing is imported here; only `import_problem` starts a process.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from mova_core.cards.folders import cache_root

if TYPE_CHECKING:
    from mova_core.cards.card import ExpertCard

NOTE = "mova.json"
IMPORT_SECONDS = 300.0

_IMPORT = "import importlib, sys; getattr(importlib.import_module(sys.argv[1]), sys.argv[2])"


def environment_folder(card: ExpertCard) -> Path:
    """The folder of an expert's environment, whether it is there or not."""
    return cache_root() / "environments" / f"{card.id}-{card.hash[:12]}"


def interpreter(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "bin" / "python"


def environment_problem(card: ExpertCard, version: str = "") -> str:
    """What speaks against using an expert's environment; empty if nothing does.

    Args:
        card: of an expert with isolation "process".
        version: of the distribution that brings the card; empty where that is not known.
    """
    folder = environment_folder(card)
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        made_for = str(note["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return "needs an environment of its own, which is not there"
    if not interpreter(folder).exists():  # the Python it was made with has gone
        return f"the interpreter {interpreter(folder)} is not there any more"
    if version and made_for != version:
        return f"its environment was made for version {made_for or 'unknown'}, and {version} is installed"
    return ""


def how_to_make(card: ExpertCard) -> str:
    """The command that makes an expert's environment."""
    return f"mova experts isolate {card.id}"


def write_note(card: ExpertCard, *, version: str, requirements: list[str], shared: list[str]) -> None:
    """Declare an expert's environment finished.

    Args:
        card: the expert's card.
        version: of the distribution that brings it; empty for a card of the user's own.
        requirements: what was installed.
        shared: folders of other environments in which it looks for what it lacks.
    """
    note = {"id": card.id, "card": card.hash, "version": version, "installed": requirements, "shared": shared}
    path = environment_folder(card) / NOTE
    written = path.with_suffix(".part")
    written.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    written.replace(path)


def import_problem(card: ExpertCard) -> str:
    """What goes wrong when an expert's code is imported in its environment; empty if nothing does."""
    module, _, name = card.factory.partition(":")
    command = [str(interpreter(environment_folder(card))), "-I", "-c", _IMPORT, module, name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS, check=False
        )
    except OSError as error:
        return f"its interpreter cannot be run: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"importing {module} took longer than {IMPORT_SECONDS:g} s"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else ""
