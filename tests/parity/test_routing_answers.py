"""Routes read out of free answers, against those that the released code reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mova_core.routing.free import read_labels

RECORDED = json.loads((Path(__file__).parent / "data" / "g_routing_answers.json").read_text())
ANSWERS = RECORDED["answer text -> experts in letter order A..G"]


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_names_the_experts_that_it_names_there(text: str) -> None:
    expected = ANSWERS[text]
    assert [int(place in read_labels(text, len(expected))) for place in range(len(expected))] == expected
