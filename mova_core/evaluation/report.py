"""Outcomes as the tables of a model card, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mova_core.evaluation.ablation import Outcome, accuracy, routing
from mova_core.evaluation.metrics import MeanShare, Share

Outcomes = Mapping[str, Sequence[Outcome]]
"""By mode of routing."""


def tasks(outcomes: Outcomes) -> list[str]:
    """Tasks in the order in which they first occur."""
    return list(dict.fromkeys(o.item.task for found in outcomes.values() for o in found))


def accuracy_table(outcomes: Outcomes) -> str:
    """Accuracy in per cent with 95 % intervals: a row a task and one for the mean of those that need experts.

    One column a mode.
    """
    modes = list(outcomes)
    rows = [["task", "questions", *modes]]
    for task in tasks(outcomes):
        shares = [accuracy(_of(outcomes[mode], task)) for mode in modes]
        rows.append([task, str(shares[0].total), *map(str, shares)])
    expert = [task for task in tasks(outcomes) if _needs_experts(outcomes, task)]
    if len(expert) > 1:
        means = [MeanShare(tuple(accuracy(_of(outcomes[mode], t)) for t in expert)) for mode in modes]
        total = sum(share.total for share in means[0].shares)
        rows.append([f"mean of the {len(expert)} that need experts", str(total), *map(str, means)])
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


def _needs_experts(outcomes: Outcomes, task: str) -> bool:
    return any(o.item.experts for found in outcomes.values() for o in _of(found, task))


def _row(name: str, share: Share) -> list[str]:
    return [name, str(share.total), str(share)]


def _plain(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"hits": share.hits, "total": share.total, "value": share.value, "low": low, "high": high}
