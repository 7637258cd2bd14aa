"""Finding experts and models: from entry points to records, without importing a plugin.

Experts come from entry points of the group `mova.experts` (name: the id; value: `package:file.toml`) and from
the user's card directory. Each becomes a record, whatever is wrong with it.

Environment:
    MOVA_CARD_DIR: the card directory, instead of `experts` in the user's configuration folder.
    MOVA_DISABLE_EXPERTS: ids, or `distribution/id`, to leave out; separated by commas.
    MOVA_STRICT_PLUGINS: "1" turns the first problem into an error.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mova_core.cards.entries import Entry, card_path, entries
from mova_core.cards.environments import environment_problem, how_to_make
from mova_core.cards.manifest import IncompatibleCardError, read_expert_card, read_model_card
from mova_core.cards.records import USER, ExpertRecord, ModelRecord
from mova_core.cards.surroundings import Surroundings
from mova_core.cards.warning import warn
from mova_core.errors import CardError

EXPERTS = "mova.experts"
MODELS = "mova.models"

R = TypeVar("R", ExpertRecord, ModelRecord)


def discover() -> list[ExpertRecord]:
    """All experts of this environment, by id, then distribution.

    Raises:
        CardError: MOVA_STRICT_PLUGINS is "1" and an expert has a problem.
    """
    around = Surroundings()
    with _no_collection():
        found = [_installed_expert(entry, around) for entry in entries(EXPERTS)]
        found += [user_expert(path, around) for path in _user_cards()]
        return _strict(settle(_without_disabled(found)))


def discover_models() -> list[ModelRecord]:
    """All models of this environment, by id, then distribution.

    Raises:
        CardError: MOVA_STRICT_PLUGINS is "1" and a model has a problem.
    """
    around = Surroundings()
    return _strict(settle(_installed_model(entry, around) for entry in entries(MODELS)))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no garbage where all that is made is kept: a tenth of the time, with a thousand cards."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def card_directory() -> Path:
    """Folder of the user's own cards."""
    if chosen := os.environ.get("MOVA_CARD_DIR"):
        return Path(chosen).expanduser()
    from platformdirs import user_config_path

    return user_config_path("mova", appauthor=False) / "experts"


def settle(found: Iterable[R]) -> list[R]:
    """Sort records and mark those usable ones that share an id. The order they come in changes nothing."""
    records = sorted(found, key=lambda record: (record.id, record.distribution, str(record.source)))
    usable = Counter(record.id for record in records if record.status == "ok")
    return [
        _in_conflict(record, records) if record.status == "ok" and usable[record.id] > 1 else record
        for record in records
    ]


def _in_conflict(record: R, records: list[R]) -> R:
    rivals = [r for r in records if r.id == record.id and r.status == "ok" and r is not record]
    twins = [rival.source for rival in rivals if rival.qualified == record.qualified]
    if twins:
        who, hint = [str(source) for source in twins], f"Remove {record.source} or {twins[0]}."
    else:
        who = [rival.distribution for rival in rivals]
        hint = f"Say {record.qualified}, or uninstall {rivals[0].distribution}."
        if isinstance(record, ExpertRecord):
            hint = f"Say {record.qualified}, or set MOVA_DISABLE_EXPERTS={rivals[0].qualified}."
    return replace(record, status="conflict", problem=f"id also brought by {', '.join(who)}", hint=hint)


def _installed_expert(entry: Entry, around: Surroundings) -> ExpertRecord:
    record = ExpertRecord(entry.name, "ok", distribution=entry.owner.name, version=entry.owner.version)
    try:
        source = _source(entry, around)
        record = replace(record, source=source)
        card = read_expert_card(source)
        _check_name(entry, card.id)
    except CardError as error:
        return _unusable(record, error)
    record = replace(record, card=card)
    if card.isolation == "process":
        return _with_environment(record)
    if missing := around.unmet(entry.owner.requires):
        wanted = " ".join(f'"{text}"' for text in missing)
        return _lacking(record, f"needs {', '.join(missing)}", f"pip install {wanted}")
    return _with_factory(record, around)


def _installed_model(entry: Entry, around: Surroundings) -> ModelRecord:
    record = ModelRecord(entry.name, "ok", distribution=entry.owner.name, version=entry.owner.version)
    try:
        source = _source(entry, around)
        record = replace(record, source=source)
        card = read_model_card(source)
        _check_name(entry, card.id)
        if not (source.parent / card.checkpoint).is_dir():
            raise CardError(f"{source}: folder `[model] checkpoint` is not there", value=card.checkpoint)
    except CardError as error:
        return _unusable(record, error)
    return replace(record, card=card)


def user_expert(path: Path, around: Surroundings | None = None) -> ExpertRecord:
    """The record of a card file that no distribution brings, usable or not.

    Args:
        path: the file.
        around: of the discovery that this is part of; None looks anew.
    """
    record = ExpertRecord(path.stem, "ok", distribution=USER, source=path)
    try:
        card = read_expert_card(path)
    except CardError as error:
        return _unusable(record, error)
    record = replace(record, id=card.id, card=card)
    if card.isolation == "process":
        return _with_environment(record)
    return _with_factory(record, around or Surroundings())


def _source(entry: Entry, around: Surroundings) -> Path:
    if entry.broken:
        raise CardError(f"entry points cannot be read: {entry.broken}")
    return card_path(entry.value, around.package_spec)


def _check_name(entry: Entry, id: str) -> None:
    if id != entry.name:
        raise CardError("the card has another id than its entry point", value=id, expected=entry.name)


def _unusable(record: R, error: CardError) -> R:
    """The record of something whose card is no good."""
    if record.distribution == USER:
        mend = f"Correct {record.source}."
    else:
        mend = f"pip install --upgrade --force-reinstall --no-deps {record.distribution}"
    return replace(
        record,
        status="incompatible" if isinstance(error, IncompatibleCardError) else "invalid-card",
        problem=str(CardError(error.message, value=error.value, expected=error.expected)),
        hint=error.hint or mend,
    )


def _lacking(record: ExpertRecord, problem: str, hint: str) -> ExpertRecord:
    return replace(record, status="missing-dependency", problem=problem, hint=hint)


def _with_factory(record: ExpertRecord, around: Surroundings) -> ExpertRecord:
    """Look whether the top-level package of the factory is there; what is inside would take an import."""
    if record.card is None:
        return record
    package = record.card.factory.partition(":")[0].partition(".")[0]
    if around.package_spec(package):
        return record
    return _lacking(record, f"needs the package {package}", f"Install what brings {package}.")


def _with_environment(record: ExpertRecord) -> ExpertRecord:
    """Look whether an expert that runs in a process of its own has an environment for it.

    What it requires counts there and not here.
    """
    if record.card and (problem := environment_problem(record.card, record.version)):
        return _lacking(record, problem, how_to_make(record.card))
    return record


def _user_cards() -> list[Path]:
    folder = card_directory()
    if not folder.is_dir() and "MOVA_CARD_DIR" in os.environ:
        warn(f"MOVA_CARD_DIR names {folder}, which is not a folder")
    return sorted(folder.glob("*.toml"))


def _without_disabled(records: list[ExpertRecord]) -> list[ExpertRecord]:
    names = {name.strip() for name in os.environ.get("MOVA_DISABLE_EXPERTS", "").split(",")} - {""}
    known = {name for record in records for name in (record.id, record.qualified)}
    for name in sorted(names - known):
        warn(f"MOVA_DISABLE_EXPERTS names {name}, which no expert is called")
    return [
        replace(
            record,
            status="disabled",
            problem="switched off by MOVA_DISABLE_EXPERTS",
            hint=f"Take {record.id} out of MOVA_DISABLE_EXPERTS.",
        )
        if names & {record.id, record.qualified}
        else record
        for record in records
    ]


def _strict(records: list[R]) -> list[R]:
    """Where MOVA_STRICT_PLUGINS is "1", raise for the first record with a problem; switching off is none."""
    bad = [record for record in records if record.status not in ("ok", "disabled")]
    if bad and os.environ.get("MOVA_STRICT_PLUGINS") == "1":
        first = bad[0]
        raise CardError(f"{first.qualified} is {first.status}: {first.problem}", hint=first.hint)
    return records
