"""`mova models`: fetch, list and check the pretrained parts that installed models stand on."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mova_core.cards.discovery import discover_models
from mova_core.cli.table import print_rows
from mova_core.errors import PartsError

if TYPE_CHECKING:
    from mova_core.cards.records import ModelRecord

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of an installed model.")]


@app.command()
def pull(model: _Model) -> None:
    """Fetch the parts of a model into the cache; what is there and undamaged is left alone."""
    from mova_core.model.parts import ConsoleProgress, cache_root, ensure, readable_size, stored

    record = _find(model)
    progress = ConsoleProgress()
    absent = [part for part in record.parts if not stored(part, thorough=True)]
    for part in record.parts:
        state = f"to fetch, {readable_size(part.size_bytes)}" if part in absent else "there"
        progress.say(f"{part.id}: {part.title}, {part.licence}, {state}")
    for part in absent:
        ensure(part, progress=progress, thorough=True)
    fetched = sum(part.size_bytes for part in absent)
    news = f"{len(absent)} fetched ({readable_size(fetched)})" if absent else "nothing to fetch"
    print(f"{record.id}: all {len(record.parts)} parts are in {cache_root()}; {news}.")


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models of this environment and which of their parts are on disk."""
    models = [_described(record) for record in discover_models()]
    if as_json:
        print(json.dumps(models, indent=2))
    elif not models:
        print("No model is installed. `pip install mova-nano` brings one.")
    else:
        _print_table(models)


@app.command()
def verify(model: _Model) -> None:
    """Read every file of a model's parts and compare it with what was stored."""
    from mova_core.model.parts import damage

    record = _find(model)
    problems = []
    for part in record.parts:
        found = damage(part)
        problems += found
        print(f"{part.id}: {'; '.join(found) or 'ok'}")
    if problems:
        raise PartsError(
            f"{len(problems)} problem(s) in the parts of {record.id}",
            value=problems[0],
            hint=f"Run `mova models pull {record.id}` to fetch again what is damaged.",
        )


def _find(name: str) -> ModelRecord:
    """The usable record of a model.

    Raises:
        PartsError: no model is called that, or it cannot be used.
    """
    records = discover_models()
    found = [record for record in records if name in (record.id, record.qualified)]
    if not found:
        near = difflib.get_close_matches(name, [record.id for record in records], n=3, cutoff=0.5)
        raise PartsError(
            "no installed model has this name",
            value=name,
            expected=" or ".join(near) or None,
            hint="`mova models list` shows all that are installed.",
        )
    record = found[0]
    if record.card is None or (record.status == "conflict" and name != record.qualified):
        raise PartsError(f"model {name} is {record.status}: {record.problem}", hint=record.hint)
    return record


def _described(record: ModelRecord) -> dict[str, Any]:
    """A model as `--json` shows it."""
    from mova_core.model.parts import part_folder, stored

    parts = [
        {
            "id": part.id,
            "title": part.title,
            "licence": part.licence,
            "package": f"{part.package} {part.version}",
            "size_bytes": part.size_bytes,
            "on_disk": stored(part) is not None,
            "path": str(part_folder(part)),
        }
        for part in record.parts
    ]
    return {
        "id": record.id,
        "title": record.card.title if record.card else "",
        "status": record.status,
        "licence": record.card.licence if record.card else "",
        "distribution": record.distribution,
        "version": record.version,
        "problem": record.problem,
        "hint": record.hint,
        "parts": parts,
    }


def _print_table(models: list[dict[str, Any]]) -> None:
    from mova_core.model.parts import readable_size

    rows: list[tuple[str, ...]] = []
    for model in models:
        about = model["title"] if model["status"] == "ok" else f"{model['status']}: {model['problem']}"
        rows.append((model["id"], about, model["licence"], "", ""))
        for part in model["parts"]:
            size, is_there = readable_size(part["size_bytes"]), "yes" if part["on_disk"] else "no"
            rows.append(("", part["id"], part["licence"], size, is_there))
    print_rows(("MODEL", "PART", "LICENCE", "DOWNLOAD", "ON DISK"), rows)
