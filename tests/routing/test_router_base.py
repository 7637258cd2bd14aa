from __future__ import annotations

import pytest
import torch
from PIL import Image

from mova_core.errors import RoutingError
from mova_core.routing.base import candidates, check_pairs, choose
from mova_core.routing.images import routing_tokens


def test_candidates_come_in_the_order_of_their_ids(tiny_pool):
    pool = tiny_pool(4)
    assert candidates(reversed(pool)) == tuple(pool)


def test_two_experts_of_one_id_are_refused(tiny_pool):
    with pytest.raises(RoutingError, match="expert-01"):
        candidates([*tiny_pool(3), tiny_pool(2)[1]])


def test_an_expert_without_words_is_refused(tiny_pool):
    silent = type(tiny_pool(1)[0])("silent", (" ",))
    with pytest.raises(RoutingError, match="silent"):
        candidates([silent])


def test_images_and_questions_must_pair_up(tiny_images):
    with pytest.raises(RoutingError, match="2 images and 1 questions"):
        check_pairs(tiny_images(2), ["why?"])


def test_choose_takes_the_most_probable_above_the_threshold_ties_by_id():
    probabilities = {"c": 0.9, "b": 0.9, "a": 0.6, "d": 0.5}
    assert choose(probabilities, 3, 0.5) == ("b", "c", "a")
    assert choose(probabilities, 1, 0.5) == ("b",)
    assert choose(probabilities, 9, 0.5) == ("b", "c", "a")  # above, not at


def test_pictures_are_seen_together_and_ready_tokens_keep_their_places():
    ready = torch.ones(3, 4)
    pictures = [Image.new("RGB", (2, 2), colour) for colour in ("black", "white")]
    calls = []

    def see(images):
        calls.append(len(images))
        return torch.stack([torch.full((2, 4), float(image.getpixel((0, 0))[0])) for image in images])

    first, second, third = routing_tokens([pictures[0], ready, pictures[1]], 4, see)
    assert calls == [2]
    assert second is ready
    assert float(first.max()) == 0 and float(third.min()) == 255


def test_a_picture_needs_someone_to_look_at_it():
    with pytest.raises(RoutingError, match="cannot see"):
        routing_tokens([Image.new("RGB", (2, 2))], 4)


def test_tokens_of_another_width_are_refused():
    with pytest.raises(RoutingError, match=r"\[3, 5\].*\[n_r, 4\]"):
        routing_tokens([torch.ones(3, 5)], 4)
