from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mova_core.errors import CheckpointError, RoutingError
from mova_core.routing import ClassifierRouter, RouteClassifier, fit_classifier

QUESTIONS = ["read the letters", "count the boats", "read and count", "sing"]
USEFUL = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])


@pytest.fixture(scope="module")
def pool(tiny_pool):
    make = type(tiny_pool(1)[0])
    return [make("count", ("counts",)), make("read", ("reads",))]


@pytest.fixture(scope="module")
def classifier(encode_words):
    return fit_classifier(["read", "count"], encode_words(QUESTIONS), USEFUL, hidden=16, learning_rate=1e-2)


def test_it_learns_its_samples(classifier, encode_words, tiny_images, pool):
    routes = ClassifierRouter(classifier, encode_words).route(tiny_images(4), QUESTIONS, pool)
    assert [set(route.experts) for route in routes] == [{"read"}, {"count"}, {"read", "count"}, set()]
    assert set(routes[0].probabilities) == {"read", "count"}


def test_it_can_look_at_the_image(encode_words, pool):
    text = encode_words(["what?"] * 2)
    images = [torch.full((3, 8), value) for value in (-1.0, 1.0)]
    pooled = torch.stack([image.mean(dim=0) for image in images])
    seeing = fit_classifier(
        ["read", "count"], text, torch.eye(2), image=pooled, hidden=16, learning_rate=1e-2
    )
    routes = ClassifierRouter(seeing, encode_words).route(images, ["what?"] * 2, pool)
    assert [route.experts for route in routes] == [("read",), ("count",)]


def test_experts_it_knows_may_be_missing_but_new_ones_are_refused(
    classifier, encode_words, tiny_images, tiny_pool, pool
):
    router = ClassifierRouter(classifier, encode_words)
    (route,) = router.route(tiny_images(1), QUESTIONS[2:3], pool[:1])
    assert route.experts == ("count",)
    with pytest.raises(RoutingError, match="expert-00.*only read, count"):
        router.route(tiny_images(1), QUESTIONS[:1], [*pool, *tiny_pool(1)])


def test_edges(classifier, encode_words, tiny_images, pool):
    router = ClassifierRouter(classifier, encode_words)
    assert router.route([], [], pool) == []
    assert router.route(tiny_images(1), ["a"], [])[0].experts == ()
    with pytest.raises(RoutingError, match="pair up"):
        router.route(tiny_images(2), ["a"], pool)
    with pytest.raises(RoutingError, match="do not fit"):
        fit_classifier(["read"], torch.ones(3, 4), torch.ones(2, 1))


def test_a_seed_fixes_the_weights_and_leaves_the_callers_chance_alone(encode_words):
    text = encode_words(QUESTIONS)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    fits = [fit_classifier(["a", "b"], text, USEFUL, steps=2, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    logits = [classifier(text) for classifier in fits]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_saved_and_loaded_it_is_the_same(classifier, encode_words, tmp_path):
    path = tmp_path / "classifier.safetensors"
    classifier.save(path)
    loaded = RouteClassifier.load(path)
    assert loaded.ids == classifier.ids
    assert torch.equal(loaded(encode_words(QUESTIONS)), classifier(encode_words(QUESTIONS)))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_files_that_hold_no_classifier_are_refused(classifier, tmp_path):
    good = tmp_path / "good.safetensors"
    classifier.save(good)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, other)
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for path in (cut, other, empty, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match=path.name):
            RouteClassifier.load(path)
