"""From a name to a record, and from a card to its code: only here, and on demand, is a plugin imported."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING

from mova_core.cards.discovery import discover
from mova_core.cards.environments import how_to_make, import_problem
from mova_core.cards.records import ExpertRecord, Status
from mova_core.errors import CardError, ExpertLoadError, UnknownExpertError

if TYPE_CHECKING:
    from mova_core.cards.card import ExpertCard


def find_expert(name: str, records: Sequence[ExpertRecord] | None = None) -> ExpertRecord:
    """The record of an expert, usable or not.

    Args:
        name: an id, or `distribution/id`.
        records: where to look; None discovers.

    Raises:
        UnknownExpertError: no expert is called that; the message offers the nearest names.
        CardError: several are.
    """
    records = discover() if records is None else records
    found = [record for record in records if name in (record.id, record.qualified)]
    if len(found) > 1:  # a broken or disabled namesake is no rival of the one that works
        found = [record for record in found if record.status in ("ok", "conflict")] or found
    if len(found) > 1:
        names = ", ".join(dict.fromkeys(record.qualified for record in found))
        raise CardError(f"expert {name} is ambiguous", expected=f"one of {names}", hint=found[0].hint)
    if found:
        return found[0]
    near = difflib.get_close_matches(name, [record.id for record in records], n=3, cutoff=0.5)
    raise UnknownExpertError(
        "no expert has this id",
        value=name,
        expected=" or ".join(near) or None,
        hint="`mova experts list` shows all that are installed.",
    )


def usable_expert(name: str, records: Sequence[ExpertRecord] | None = None) -> ExpertRecord:
    """The record of an expert that can be built: its card is there and nothing static speaks against it.

    Args:
        name: an id, or `distribution/id`.
        records: where to look; None discovers.

    Raises:
        UnknownExpertError: no expert is called that.
        CardError: several are.
        ExpertLoadError: it is known, but has another status than "ok".
    """
    record = find_expert(name, records)
    qualified = record.status == "conflict" and name == record.qualified
    if record.status != "ok" and not qualified:
        raise ExpertLoadError(f"expert {name} is {record.status}: {record.problem}", hint=record.hint)
    return record


def import_factory(card: ExpertCard) -> type:
    """Import the class that a card's `factory` names.

    Raises:
        ExpertLoadError: the import fails (its cause is chained), or the module has no such class.
    """
    module_name, _, class_name = card.factory.partition(":")
    mend = f"`mova experts describe {card.id}` says where it comes from."
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        hint = f"Install what brings {error.name}." if error.name else mend
        raise ExpertLoadError(f"expert {card.id} cannot be imported: {error}", hint=hint) from error
    except (Exception, SystemExit) as error:  # a plugin's import may fail in any way
        cause = f"{type(error).__name__}: {error}"
        raise ExpertLoadError(f"expert {card.id} cannot be imported: {cause}", hint=mend) from error
    factory = getattr(module, class_name, None)
    if not isinstance(factory, type):
        raise ExpertLoadError(f"expert {card.id}: {module_name} has no class {class_name}", hint=mend)
    return factory


def checked(record: ExpertRecord) -> ExpertRecord:
    """The record after importing its factory: now "import-failed" or "missing-dependency" if that failed."""
    if record.card is None or record.status not in ("ok", "conflict"):
        return record
    if record.card.isolation == "process":
        return _checked_in_its_environment(record, record.card)
    try:
        with redirect_stdout(sys.stderr):  # what a module prints while it is imported is no output of ours
            import_factory(record.card)
    except ExpertLoadError as error:
        missing = isinstance(error.__cause__, ModuleNotFoundError)
        status: Status = "missing-dependency" if missing else "import-failed"
        return replace(record, status=status, problem=error.message, hint=error.hint or "")
    return record


def _checked_in_its_environment(record: ExpertRecord, card: ExpertCard) -> ExpertRecord:
    problem = import_problem(card)
    return (
        replace(record, status="import-failed", problem=problem, hint=how_to_make(card))
        if problem
        else record
    )
