"""The drawn pictures of mova-nano: seeded, labelled by construction, split so that tests see unseen looks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.errors import ConfigError
from mova_nano.data import charts, objects, regions, texts
from mova_nano.data.concepts import LESSONS, targets
from mova_nano.data.dataset import KINDS, SPLITS, default_assets, scene
from mova_nano.data.scene import GRID, Canvas
from mova_nano.data.training import TASKS, held_out, training_set
from mova_nano.data.words import COLOURS, NUMBERS

DRAWN = [kind for kind in KINDS if kind not in ("medical", "base")]
"""Kinds that need nothing but fonts and sprites."""
ASSETS = default_assets()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_is_the_same_every_time(kind: str, split: str) -> None:
    first, second = (scene(kind, split, 3, ASSETS) for _ in range(2))
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert first.questions == second.questions


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(DRAWN), split=st.sampled_from(SPLITS), index=st.integers(0, 10_000))
def test_every_question_has_an_answer_and_a_route_in_the_pool(kind: str, split: str, index: int) -> None:
    drawn = scene(kind, split, index, ASSETS)
    assert drawn.questions
    for question in drawn.questions:
        assert question.text.strip() and question.answer == question.answer.lower().strip() != ""
        assert "{" not in question.text
        assert set(question.experts) <= {
            "nano-text",
            "nano-chart",
            "nano-objects",
            "nano-regions",
            "nano-medical",
        }
        assert bool(question.experts) == (question.task != "base")


def test_other_indices_give_other_pictures() -> None:
    pictures = {np.asarray(scene("chart", "train", i, ASSETS).image).tobytes() for i in range(10)}
    assert len(pictures) == 10


@pytest.mark.parametrize("wordings", [charts.HIGHEST, texts.READ, objects.HOW_MANY, regions.LARGEST])
def test_test_wordings_are_not_training_wordings(wordings: charts.Wordings) -> None:
    train, test = wordings
    assert not set(train) & set(test)


def test_the_highest_bar_is_the_tallest_one_that_was_drawn() -> None:
    for index in range(60):
        drawn = scene("chart", "train", index, ASSETS)
        bars = [mark for mark in drawn.marks if "bar" in mark.words and mark.words[0] in COLOURS]
        if not bars:
            continue
        values = {mark.words[0]: NUMBERS.index(mark.words[1]) for mark in bars}
        highest = next(q for q in drawn.questions if q.text in (*charts.HIGHEST[0], *charts.HIGHEST[1]))
        assert highest.answer == max(values, key=lambda colour: values[colour])
        rows = {mark.words[0]: mark.cells.any(axis=1).sum() for mark in bars}
        assert rows[highest.answer] == max(rows.values())


def test_marks_lie_where_things_were_drawn_on_the_padded_square() -> None:
    canvas = Canvas((512, 256), (255, 255, 255))  # padded by 128 px above and below
    canvas.mark(("thing",), (0, 0, 32, 32))
    cells = canvas.marks[0].cells
    assert cells[4, 0] and cells.sum() == 1
    canvas.mark_rest(("count",))
    assert canvas.marks[1].cells.sum() == GRID * GRID - 1


def test_targets_name_concepts_on_their_cells_only() -> None:
    drawn = scene("objects", "train", 0, ASSETS)
    concepts = LESSONS["nano-objects"].concepts
    grid = targets(drawn.marks, concepts).reshape(GRID, GRID, -1)
    for mark in drawn.marks:
        for word in mark.words:
            assert (grid[..., concepts.index(word)][mark.cells] == 1).all()
    absent = next(w for w in concepts if all(w not in mark.words for mark in drawn.marks))
    assert grid[..., concepts.index(absent)].sum() == 0


def test_samples_share_one_route_and_their_word_shares_lie_between_zero_and_one() -> None:
    samples = training_set(40)
    for i in range(len(samples)):
        sample = samples[i]
        assert len(sample.turns) >= 1
        for share in sample.words.values():
            assert share.shape == (8, 8) and 0 <= share.min() <= share.max() <= 1
    with pytest.raises(IndexError):
        samples[40]


def test_the_held_out_set_has_every_task_in_the_number_asked_for() -> None:
    items = held_out(count=3)
    assert [item.task for item in items] == [task for task in TASKS for _ in range(3)]
    assert all(len(item.turns) == 1 for item in items)


def test_unknown_kinds_and_splits_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="photographs.*chart"):
        scene("photographs", "train", 0, ASSETS)
    with pytest.raises(ConfigError, match="dev.*validation"):
        scene("chart", "dev", 0, ASSETS)
