from __future__ import annotations

import pytest
import torch

from mova_core.errors import RoutingError
from mova_core.routing import SimilarityRouter


@pytest.fixture
def pool(tiny_pool):
    make = type(tiny_pool(1)[0])
    return [make("sea", ("boats on water", "ships")), make("text", ("letters and words", "print"))]


def test_the_closest_wording_counts(encode_words, tiny_images, pool):
    router = SimilarityRouter(encode_words, threshold=0.5)
    routes = router.route(tiny_images(3), ["ships?", "letters and words", "trees"], pool)
    assert [route.experts for route in routes] == [("sea",), ("text",), ()]
    assert routes[0].probabilities == pytest.approx({"sea": 1.0, "text": 0.5})


def test_k_and_threshold_bound_the_route(encode_words, tiny_images, pool):
    args = (tiny_images(1), ["print"], pool)
    assert SimilarityRouter(encode_words, k=2, threshold=-1).route(*args)[0].experts == ("text", "sea")
    assert SimilarityRouter(encode_words, k=1, threshold=-1).route(*args)[0].experts == ("text",)
    assert SimilarityRouter(encode_words, threshold=1).route(*args)[0].experts == ()


def test_the_length_of_features_does_not_matter(encode_words, tiny_images, pool):
    args = (tiny_images(2), ["ships", "words"], pool)
    plain = SimilarityRouter(encode_words).route(*args)
    longer = SimilarityRouter(lambda texts: 7 * encode_words(texts)).route(*args)
    for left, right in zip(plain, longer, strict=True):
        assert left.probabilities == pytest.approx(right.probabilities, abs=1e-6)


def test_nothing_to_compare_is_no_failure(tiny_images, pool):
    def encode(texts):
        raise AssertionError("there is nothing to encode")

    assert SimilarityRouter(encode).route([], [], pool) == []
    assert SimilarityRouter(encode).route([torch.ones(1, 1)], ["a"], [])[0].experts == ()


def test_a_threshold_that_is_no_cosine_is_refused(encode_words):
    with pytest.raises(RoutingError, match="cosine"):
        SimilarityRouter(encode_words, threshold=1.5)
