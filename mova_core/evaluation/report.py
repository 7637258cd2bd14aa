"""Outcomes as the tables of a model card, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mova_core.evaluation.ablation import Outcome, accuracy, routing
from mova_core.evaluation.metrics import Share

Outcomes = Mapping[str, Sequence[Outcome]]
"""By mode of routing."""


def tasks(outcomes: Outcomes) -> list[str]:
    """Tasks in the order in which they first occur."""
    return list(dict.fromkeys(o.item.task for found in outcomes.values() for o in found))


def accuracy_table(outcomes: Outcomes) -> str:
    """Accuracy in per cent with 95 % intervals, one row a task, one column a mode; then means over tasks."""
    modes = list(outcomes)
    rows = [["task", "questions", *modes]]
    for task in tasks(outcomes):
        shares = [accuracy(_of(outcomes[mode], task)) for mode in modes]
        rows.append([task, str(shares[0].total), *map(str, shares)])
    return markdown(rows)


def routing_table(outcomes: Sequence[Outcome]) -> str:
    """Accuracy of the learned routes, by task and by whether the wording gives the kind of picture away."""
    rows = [["questions", "number", "routed rightly"]]
    for task in dict.fromkeys(o.item.task for o in outcomes):
        rows.append(_row(f"task {task}", routing(_of(outcomes, task))))
    for plain, name in (
        (True, "wording gives the kind away"),
        (False, "wording does not give the kind away"),
    ):
        rows.append(_row(name, routing([o for o in outcomes if o.item.plain == plain])))
    rows.append(_row("all", routing(outcomes)))
    return markdown(rows)


def figures(outcomes: Outcomes) -> dict[str, Any]:
    """All figures as plain data: hits and totals, so that anything can be recomputed."""
    made: dict[str, Any] = {"accuracy": {}, "routing": {}}
    for mode, found in outcomes.items():
        made["accuracy"][mode] = {task: _plain(accuracy(_of(found, task))) for task in tasks(outcomes)}
    if "learned" in outcomes:
        learned = outcomes["learned"]
        made["routing"] = {task: _plain(routing(_of(learned, task))) for task in tasks(outcomes)}
        made["routing"]["all"] = _plain(routing(learned))
        made["routing"]["not plain"] = _plain(routing([o for o in learned if not o.item.plain]))
    return made


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _of(outcomes: Sequence[Outcome], task: str) -> list[Outcome]:
    return [o for o in outcomes if o.item.task == task]


def _row(name: str, share: Share) -> list[str]:
    return [name, str(share.total), str(share)]


def _plain(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"hits": share.hits, "total": share.total, "value": share.value, "low": low, "high": high}
