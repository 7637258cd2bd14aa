"""`mova doctor`: what this environment is, and each problem with the command that mends it."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Annotated

import typer

from mova_core.cards.discovery import discover, discover_models
from mova_core.cards.records import Record
from mova_core.cards.requirements import unmet
from mova_core.cards.resolve import checked
from mova_core.cards.warning import CardWarning
from mova_core.cli.machine import cache_folder, environment
from mova_core.cli.on_disk import weight_sources
from mova_core.hookspecs import Hooks, load_hooks


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not work.

    Args:
        what: the problem.
        mend: the command, or the step, that mends it.
    """

    what: str
    mend: str


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this environment and say how to mend it. Exits with 1 if there is a problem."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CardWarning)
        hooks = load_hooks()
        told = [f"{name}: {text}" for name, text in hooks.collect("mova_notes").items()]
        problems = [*_requirements(), *_cache(), *_experts(), *_models(), *_plugins(hooks)]
    warned = [str(note.message) for note in caught if issubclass(note.category, CardWarning)]
    notes = list(dict.fromkeys([*warned, *told]))
    facts = environment()
    if as_json:
        report = {"environment": facts, "problems": [asdict(p) for p in problems], "notes": notes}
        print(json.dumps(report, indent=2))
    else:
        for name, value in facts.items():
            print(f"{name:<16}{value}")
        for note in notes:
            print(f"note: {note}")
        for problem in problems:
            print(f"problem: {problem.what}\n    mend: {problem.mend}")
        print(
            f"{len(problems)} problem{'s' * (len(problems) != 1)} found." if problems else "No problem found."
        )
    if problems:
        raise typer.Exit(1)


def _requirements() -> list[Problem]:
    missing = unmet(metadata.distribution("mova-core").requires or ())
    return [Problem(f"mova-core needs {text}", f'pip install "{text}"') for text in missing]


def _cache() -> list[Problem]:
    folder = cache_folder()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return []
    return [Problem(f"the cache folder {folder} cannot be written", "set MOVA_CACHE to a folder of yours")]


def _experts() -> list[Problem]:
    problems = []
    for record in map(checked, discover()):
        if record.status not in ("ok", "disabled"):
            problems.append(_unusable("expert", record))
        elif (
            record.status == "ok" and (sources := weight_sources(record)) and not any(s.path for s in sources)
        ):
            problems.append(Problem(f"weights of expert {record.id} are not on disk", sources[0].fetch))
    return problems


def _models() -> list[Problem]:
    from mova_core.model.parts.store import stored

    problems = []
    for record in discover_models():
        if record.status != "ok":
            problems.append(_unusable("model", record))
        elif absent := [part.id for part in record.parts if stored(part) is None]:
            what = f"parts of model {record.id} are not on disk: {', '.join(absent)}"
            problems.append(Problem(what, f"mova models pull {record.id}"))
    return problems


def _plugins(hooks: Hooks) -> list[Problem]:
    for hook in ("mova_commands", "mova_routers", "mova_metrics"):
        hooks.collect(hook)
    return [
        Problem(
            f"plugin {p.plugin} of {p.distribution}: {p.problem}",
            f"pip uninstall {p.distribution}, or mend it",
        )
        for p in hooks.problems
    ]


def _unusable(kind: str, record: Record) -> Problem:
    return Problem(f"{kind} {record.qualified} is {record.status}: {record.problem}", record.hint)
