"""Routability on the shipped model: its router tells its own experts apart by their words."""

from __future__ import annotations

from PIL import Image

import mova_core
from mova_core.testing.routability import GREY, SIDE, routability


def test_experts_are_chosen_for_their_own_questions_more_often_than_for_others() -> None:
    nano = mova_core.load("mova-nano")
    pool = [card for card in nano.pool if card.id in ("nano-medical", "nano-regions")]
    picture = Image.new("RGB", (SIDE, SIDE), GREY)
    for report in routability(
        lambda text: nano.route(picture, text, pool=pool), pool, ["nano-medical", "nano-regions"]
    ):
        assert report.own.value is not None and report.others.value is not None
        assert report.own.value > report.others.value
        assert report.own.asked >= 4 and report.others.asked >= 4
