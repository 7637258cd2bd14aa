"""A new plugin project, written from the templates beside this module.

What is written works: its tests pass, and its encoder can be taught. The author changes it part by part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Final

from mova_core.cards.manifest import read_expert_card
from mova_core.errors import ConfigError
from mova_core.testing.card_checks import WORDINGS

FILES: Final = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "LICENSE": "LICENSE",
    ".gitignore": "gitignore",
    ".github/workflows/test.yml": "ci.yml",
    "$package/expert.toml": "expert.toml",
    "$package/encoder.py": "encoder.py",
    "$package/expert.py": "expert.py",
    "$package/layouts.py": "layouts.py",
    "$package/train.py": "train.py",
    "tests/test_$module.py": "test.py",
}
"""Template of each file of a project. `$package/__init__.py`, which is empty, and the recording are added."""

DESCRIPTIONS: Final = (
    "Judges which way up a photograph is: upright, lying on its side or upside down. Knows nothing of names, "
    "letters or numbers.",
    "Sees where the top and the bottom of a scene are, from sky and ground, faces and furniture. Of no use "
    "for print or diagrams.",
    "Tells by how many quarter turns a snapshot has been rotated. Cannot read, count or compare.",
    "For questions about orientation: was the camera held sideways, which edge belongs above. Blind to "
    "lettering and to plotted data.",
    "Has learned how things usually stand, hang and lie. Good when a scan may be the wrong way round; weak "
    "on abstract drawings.",
)
"""What the router is told of the template's encoder; those that happen to hold the name are left out."""

_ID: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_LONGEST_ID: Final = 60


def new_project(id: str, parent: Path) -> Path:
    """Write the project of a new expert.

    Args:
        id: name of the expert.
        parent: folder to put it into; made if it is not there.

    Returns:
        Its folder, `mova-expert-ID`. It appears whole or not at all.

    Raises:
        ConfigError: the name is no id, the folder is in use, or it cannot be written.
    """
    values = _values(id)
    target = parent / values["distribution"]
    if target.is_symlink() or target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(
            "the project's folder is in use",
            value=str(target),
            expected="a new or an empty folder",
            hint="Take another name, or another folder with --output.",
        )
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=parent, prefix=".mova-expert-") as scratch:
            project = Path(scratch) / target.name
            _write(project, values)
            project.rename(target)
    except OSError as error:
        raise ConfigError(
            f"the project cannot be written: {error.strerror}", value=str(target), hint="Choose --output."
        ) from error
    return target


def _values(id: str) -> Mapping[str, str]:
    """What the templates leave open."""
    if not _ID.fullmatch(id) or len(id) > _LONGEST_ID:
        raise ConfigError(
            "this is no name for an expert",
            value=id,
            expected=f"at most {_LONGEST_ID} lower-case letters, digits and, between them, hyphens",
            hint="Try `mova experts new depth-maps`.",
        )
    name = re.compile(rf"(?<![a-z0-9]){re.escape(id)}(?![a-z0-9])")
    free = [words for words in DESCRIPTIONS if not name.search(words.lower())]
    if len(free) < WORDINGS:
        raise ConfigError(
            "this name is an everyday word, and descriptions must never name their expert",
            value=id,
            expected="a name that says more",
            hint=f"Try `mova experts new my-{id}`.",
        )
    module = id.replace("-", "_")
    return {
        "id": id,
        "distribution": f"mova-expert-{id}",
        "package": f"mova_expert_{module}",
        "module": module,
        "descriptions": "\n".join(f'    "{words}",' for words in free),
    }


def _write(project: Path, values: Mapping[str, str]) -> None:
    templates = files("mova_core.testing") / "template"
    for place, template in FILES.items():
        text = (templates / f"{template}.txt").read_text(encoding="utf-8")
        path = project / Template(place).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(values), encoding="utf-8")
    (project / values["package"] / "__init__.py").touch()
    _record(project / values["package"] / "expert.toml", project / "tests" / "preprocessing.safetensors")


def _record(card: Path, file: Path) -> None:
    """Record what the card's input stream makes of pictures, for the tests to hold it to."""
    from safetensors.torch import save_file

    from mova_core.experts.streams import stream_tensor
    from mova_core.testing.pictures import some_pictures
    from mova_core.testing.recording import kept_values

    save_file(kept_values(stream_tensor(some_pictures(), read_expert_card(card).input)), file)
