"""Tables of a model card."""

from __future__ import annotations

import json

from PIL import Image

from mova_core.evaluation.ablation import Item, Outcome
from mova_core.evaluation.report import accuracy_table, figures, markdown, routing_table

IMAGE = Image.new("RGB", (1, 1))


def outcome(task: str, answer: str, route: tuple[str, ...], plain: bool = True) -> Outcome:
    """An outcome for a question whose answer is "red" and whose expert is "tiny-red"."""
    return Outcome(Item(IMAGE, "colour?", "red", ("tiny-red",), task, plain), answer, route)


OUTCOMES = {
    "learned": [
        outcome("paint", "Red.", ("tiny-red",)),
        outcome("paint", "blue", ("tiny-blue",), plain=False),
        outcome("sky", "red", ("tiny-red",), plain=False),
    ],
    "none": [outcome("paint", "blue", ()), outcome("paint", "blue", ()), outcome("sky", "the red", ())],
}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_accuracy_has_a_row_for_each_task_and_a_column_for_each_mode() -> None:
    head, rule, *rows = cells(accuracy_table(OUTCOMES))
    assert head == ["task", "questions", "learned", "none"]
    assert rule == ["---"] * 4
    assert [row[:2] for row in rows] == [
        ["paint", "2"],
        ["sky", "1"],
        ["mean of the 2 that need experts", "3"],
    ]
    assert [cell.split()[0] for cell in rows[0][2:]] == ["50.0", "0.0"]
    assert rows[1][2] == rows[1][3] == "100.0 (20.7 to 100.0)"
    assert [cell.split()[0] for cell in rows[2][2:]] == ["75.0", "50.0"]


def test_routing_is_told_by_task_and_by_wording() -> None:
    _, _, *rows = cells(routing_table(OUTCOMES["learned"]))
    assert {row[0]: (row[1], row[2].split()[0]) for row in rows} == {
        "task paint": ("2", "50.0"),
        "task sky": ("1", "100.0"),
        "wording gives the kind away": ("1", "100.0"),
        "wording does not give the kind away": ("2", "50.0"),
        "all": ("3", "66.7"),
    }


def test_figures_are_plain_data_from_which_all_can_be_computed() -> None:
    made = json.loads(json.dumps(figures(OUTCOMES)))
    assert {
        mode: sum(task["hits"] for task in tasks.values()) for mode, tasks in made["accuracy"].items()
    } == {
        "learned": 2,
        "none": 1,
    }
    assert (made["routing"]["all"]["hits"], made["routing"]["all"]["total"]) == (2, 3)
    assert made["routing"]["not plain"]["total"] == 2
    assert figures({"none": OUTCOMES["none"]})["routing"] == {}


def test_a_table_is_markdown() -> None:
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
