"""The shipped mova-nano on real and drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import mova_core
from mova_core.cli.main import main
from mova_core.evaluation.ablation import Item, accuracy, routing, run_mode
from mova_core.model.assistant import Mova
from mova_core.model.parts.fetch import part_path
from mova_nano.data.training import held_out
from mova_nano.reader import FIRST, LETTERS, NanoTextExpert

IMAGES = Path(__file__).parents[2] / "examples" / "images"
BRAIN = IMAGES / "brain.png"


@pytest.fixture(scope="module")
def nano(nano_parts: None) -> Mova:
    return mova_core.load("mova-nano")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    found = held_out(count=6, seed=11)
    return [Item(s.image, *s.turns[0], s.experts, s.task, s.plain) for s in found]


def test_a_real_brain_slice_goes_to_the_expert_of_brains_and_is_answered(nano: Mova) -> None:
    answer = nano.ask(BRAIN, "In which plane was this brain cut?")
    assert answer.route.experts == ("nano-medical",)
    assert set(answer.route.probabilities) == set(nano.pool.ids)
    assert answer.text in {"axial", "coronal", "sagittal"}
    assert all(0 <= weight <= 1 for weights in answer.images[0].gates.values() for weight in weights)


def test_learned_routing_is_mostly_right_and_better_than_no_expert_on_unseen_pictures(
    nano: Mova, items: list[Item]
) -> None:
    learned, none = (run_mode(nano, items, mode) for mode in ("learned", "none"))
    assert routing(learned).value >= 0.75
    assert accuracy(learned).value > accuracy(none).value


def test_a_batch_equals_one_by_one(nano: Mova, items: list[Item]) -> None:
    some = items[::6]
    together = run_mode(nano, some, "learned", batch=len(some))
    alone = run_mode(nano, some, "learned", batch=1)
    assert [o.route for o in together] == [o.route for o in alone]
    assert (
        sum(a.answer == b.answer for a, b in zip(together, alone, strict=True)) >= len(some) - 1
    )  # bfloat16 ties


def test_no_expert_is_run_that_was_not_chosen(nano: Mova) -> None:
    for id in nano.pool.loaded:
        nano.pool.unload(id)
    nano.ask(IMAGES / "coffee.jpg", "What kind of picture is this?", experts=[])
    assert not set(nano.pool.loaded) & set(nano.pool.ids)


def test_the_reader_spells_the_words_it_was_not_trained_on_by_us() -> None:
    picture = Image.new("RGB", (512, 256), "white")
    ImageDraw.Draw(picture).text((60, 90), "Quartz", fill="black", font=ImageFont.load_default(80))
    expert = NanoTextExpert.from_pretrained(
        str(part_path("ppocr-v4")), dtype=torch.float32, device=torch.device("cpu")
    )
    tokens = expert(expert.preprocess([picture])).tokens[0]  # [n, c]
    written = tokens[tokens[:, -1] > 0]
    letters = written[0, : FIRST * (len(LETTERS) + 1)].reshape(FIRST, -1).argmax(1)
    assert "".join(LETTERS[i] for i in letters) == "quart"


def test_ask_prints_route_gates_and_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert (
        main(["ask", str(BRAIN), "Which plane is this slice?", "--explain", "--heat-maps", str(tmp_path)])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line][:2] == ["route", "gate"]
    assert lines[-1].startswith("answer ")
    with Image.open(tmp_path / "nano-medical.png") as heat, Image.open(BRAIN) as picture:
        assert heat.size == picture.size


def test_route_offers_the_pool_without_running_an_expert(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", str(BRAIN), "Which tissue is at the cross?", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["route"] == ["nano-medical"] and len(found["probabilities"]) == 5
