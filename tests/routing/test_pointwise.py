from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.errors import RoutingError
from mova_core.routing import Calibration, PointwisePrompt, PointwiseRouter, RoutingLanguageModel

QUESTIONS = ["what does the small print say?", "how many?", ""]


def _close(left, right, tolerance=1e-5):
    assert left.experts == right.experts
    assert left.probabilities == pytest.approx(right.probabilities, abs=tolerance)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_equal_one_full_sequence_for_each_description(tiny_language, tiny_images, kind, attention):
    language = tiny_language(kind, attention=attention)
    router, images = PointwiseRouter(language), tiny_images(3)
    texts = ["reads", "outlines regions", "counts objects in a crowd"]
    table, prompt = language.model.get_input_embeddings(), router.prompt
    yes, no = (language.encode(word)[0] for word in ("yes", "no"))
    with torch.no_grad():
        scores = router.scores(images, QUESTIONS, texts)
        for row, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
            for column, text in enumerate(texts):
                words = (prompt.head, prompt.ask(question), prompt.about(text))
                head, ask, about = (table(torch.tensor(language.encode(part))) for part in words)
                whole = torch.cat([head, image, ask, about])
                logits = language.model(inputs_embeds=whole[None]).logits[0, -1]
                assert float(scores[row, column]) == pytest.approx(float(logits[yes] - logits[no]), abs=1e-4)


@given(order=st.permutations(range(7)))
@settings(deadline=None, max_examples=15)
def test_the_order_of_descriptions_does_not_matter(tiny_language, tiny_images, tiny_pool, order):
    router = PointwiseRouter(tiny_language())
    texts = [expert.descriptions[0] for expert in tiny_pool(7)]
    with torch.no_grad():
        given = router.scores(tiny_images(2), QUESTIONS[:2], texts).sigmoid()
        moved = router.scores(tiny_images(2), QUESTIONS[:2], [texts[place] for place in order]).sigmoid()
    torch.testing.assert_close(moved, given[:, list(order)], atol=1e-5, rtol=0)


def test_the_order_of_the_pool_moves_no_bit(tiny_language, tiny_images, tiny_pool):
    router = PointwiseRouter(tiny_language())
    routes = [
        router.route(tiny_images(2), QUESTIONS[:2], pool) for pool in (tiny_pool(6), tiny_pool(6)[::-1])
    ]
    assert routes[0] == routes[1]


def test_what_else_is_on_offer_does_not_matter(tiny_language, tiny_images, tiny_pool):
    router = PointwiseRouter(tiny_language())
    (large,) = router.route(tiny_images(1), QUESTIONS[:1], tiny_pool(9))
    (small,) = router.route(tiny_images(1), QUESTIONS[:1], tiny_pool(9)[3:5])
    for name, probability in small.probabilities.items():
        assert probability == pytest.approx(large.probabilities[name], abs=1e-5)


@given(seed=st.integers(0, 5), kind=st.sampled_from(["llama", "qwen2"]), k=st.integers(1, 4))
@settings(deadline=None, max_examples=10)
def test_a_batch_equals_its_samples_one_by_one(tiny_language, tiny_images, tiny_pool, seed, kind, k):
    router, images, pool = PointwiseRouter(tiny_language(kind, seed), k=k), tiny_images(3), tiny_pool(5)
    batch = router.route(images, QUESTIONS, pool)
    for image, question, together in zip(images, QUESTIONS, batch, strict=True):
        _close(router.route([image], [question], pool)[0], together)
        assert len(together.experts) <= k
        assert all(together.probabilities[name] > 0.5 for name in together.experts)
        ranks = [together.probabilities[name] for name in together.experts]
        assert ranks == sorted(ranks, reverse=True)


@given(budget=st.integers(1, 400))
@settings(deadline=None, max_examples=10)
def test_chunked_equals_unchunked(tiny_language, tiny_images, tiny_pool, budget):
    language, pool = tiny_language(), tiny_pool(8)
    whole = PointwiseRouter(language).route(tiny_images(2), QUESTIONS[:2], pool)
    parts = PointwiseRouter(language, branch_tokens=budget).route(tiny_images(2), QUESTIONS[:2], pool)
    for left, right in zip(whole, parts, strict=True):
        _close(left, right)


def test_one_forward_pass_for_a_whole_batch_and_more_only_beyond_the_budget(
    tiny_language, tiny_images, tiny_pool
):
    language = tiny_language()
    widths = []
    handle = language.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        PointwiseRouter(language).route(tiny_images(3), QUESTIONS, tiny_pool(9))
        assert len(widths) == 1
        widths.clear()
        PointwiseRouter(language, branch_tokens=400).route(tiny_images(3), QUESTIONS, tiny_pool(9))
        shared = max(len(language.encode(PointwisePrompt().ask(question))) for question in QUESTIONS)
        assert len(widths) > 1
        assert max(widths) <= 400 + shared + len(language.encode(PointwisePrompt().head)) + 4
    finally:
        handle.remove()


def test_descriptions_may_differ_by_sample(tiny_language, tiny_images):
    router, images = PointwiseRouter(tiny_language()), tiny_images(2)
    own = [["reads", "sees charts"], ["outlines regions", "looks"]]
    with torch.no_grad():
        scores = router.scores(images, QUESTIONS[:2], own)
        for row in range(2):
            alone = router.scores(images[row : row + 1], [QUESTIONS[row]], own[row])
            torch.testing.assert_close(scores[row], alone[0], atol=1e-4, rtol=0)
    with pytest.raises(RoutingError, match=r"\[2, 1\] for 2 samples"):
        router.scores(images, QUESTIONS[:2], [["reads", "looks"], ["reads"]])


def test_scores_teach_the_language_model_and_what_made_the_image(tiny_model, tokenizer, tiny_images):
    language = RoutingLanguageModel(tiny_model(), tokenizer)
    router, image = PointwiseRouter(language), tiny_images(1)[0].requires_grad_()
    optimiser = torch.optim.Adam(language.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        scores = router.scores([image], ["how many?"], ["counts objects", "reads"])
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor([1]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0] or losses[-1] < 1e-3
    assert image.grad is not None and float(image.grad.abs().max()) > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_stay_float32_and_finite_in_lower_precision(tiny_model, tokenizer, tiny_images, attention):
    language = RoutingLanguageModel(tiny_model(attention=attention), tokenizer)
    router, args = PointwiseRouter(language), (tiny_images(3), QUESTIONS, ["reads", "counts objects"])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = router.scores(*args)
    mixed.sum().backward()
    gradients = [weight.grad for weight in language.model.parameters() if weight.grad is not None]
    language.model.bfloat16()
    for scores in (mixed, router.scores(*args)):
        assert scores.dtype == torch.float32 and bool(scores.isfinite().all())
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_calibration_decides_who_is_chosen(tiny_language, tiny_images, tiny_pool):
    language, args = tiny_language(), (tiny_images(1), QUESTIONS[:1], tiny_pool(4))
    everyone = PointwiseRouter(language, k=9, calibration=Calibration(bias=-1e3)).route(*args)[0]
    nobody = PointwiseRouter(language, k=9, calibration=Calibration(bias=1e3)).route(*args)[0]
    assert len(everyone.experts) == 4 and nobody.experts == ()
    assert set(nobody.probabilities) == {expert.id for expert in tiny_pool(4)}


def test_an_empty_pool_gives_empty_routes_and_no_samples_none(tiny_language, tiny_images, tiny_pool):
    router = PointwiseRouter(tiny_language())
    (route,) = router.route(tiny_images(1), QUESTIONS[:1], [])
    assert route.experts == () and not route.probabilities
    assert router.route([], [], tiny_pool(2)) == []


def test_broken_weights_are_not_taken_for_none(tiny_model, tokenizer, tiny_images, tiny_pool):
    model = tiny_model()
    model.get_decoder().norm.weight.data.fill_(float("nan"))
    with pytest.raises(RoutingError, match="not finite"):
        PointwiseRouter(RoutingLanguageModel(model, tokenizer)).route(tiny_images(1), ["why?"], tiny_pool(2))


def test_impossible_routers_are_refused(tiny_language, tiny_images, tiny_pool):
    with pytest.raises(RoutingError, match="single token"):
        PointwiseRouter(tiny_language(), prompt=PointwisePrompt(yes="certainly"))
    with pytest.raises(RoutingError, match="k of at least 1"):
        PointwiseRouter(tiny_language(), k=0)
    with pytest.raises(RoutingError, match="pair up"):
        PointwiseRouter(tiny_language()).route(tiny_images(2), ["why?"], tiny_pool(2))
