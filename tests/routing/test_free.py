"""Free writing, and the letters found in it."""

from __future__ import annotations

from string import ascii_uppercase

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.errors import ConfigError, RoutingError
from mova_core.routing import POOL_FIRST, FreeRouter, ListwisePrompt, ListwiseRouter, RoutingLanguageModel
from mova_core.routing.free import MAX_TOKENS, read_labels

QUESTIONS = ["what does the small print say?", "how many?", ""]


def _written(language, prompt, image, question, pool):
    """Greedy decoding by the stock model, one token a pass, everything read anew."""
    told = [expert.descriptions[0] for expert in pool]
    table, said = language.model.get_input_embeddings(), []
    end = language.encode(prompt.chat.end)[0]
    head, tail = (language.encode(text) for text in (prompt.head(told), prompt.ask(question, told)))
    while len(said) < MAX_TOKENS:
        text = torch.cat([table(torch.tensor(head)), image, table(torch.tensor([*tail, *said]))])
        token = int(language.model(inputs_embeds=text[None]).logits[0, -1].argmax())
        if token == end:
            break
        said.append(token)
    return language.tokenizer.decode(said, skip_special_tokens=True)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [ListwisePrompt(), POOL_FIRST], ids=["image-first", "pool-first"])
def test_routes_are_read_out_of_greedy_answers(tiny_language, tiny_images, tiny_pool, prompt):
    pool, chosen = tiny_pool(20), set()
    for seed in range(4):
        language, images = tiny_language(seed=seed), tiny_images(3, seed)
        routes = FreeRouter(language, prompt=prompt).route(images, QUESTIONS, pool)
        for image, question, route in zip(images, QUESTIONS, routes, strict=True):
            text = _written(language, prompt, image, question, pool)
            assert route.experts == tuple(pool[label].id for label in read_labels(text, len(pool)))
            assert route.router == "free"
            chosen |= set(route.experts)
    assert chosen


def test_an_end_token_ends_an_answer_and_sixteen_tokens_do(tiny_model, tokenizer, tiny_images, tiny_pool):
    model, passes = tiny_model(), []
    language = RoutingLanguageModel(model, tokenizer)
    model.get_decoder().register_forward_pre_hook(lambda *_: passes.append(1))
    plain, bias = model.get_output_embeddings(), torch.zeros(340)
    for favour, expected in ((1e6, 1), (-1e6, MAX_TOKENS)):
        bias[language.encode("<|im_end|>")[0]] = favour
        biased = torch.nn.Linear(32, 340)
        biased.weight, biased.bias = plain.weight, torch.nn.Parameter(bias)
        model.set_output_embeddings(biased)
        passes.clear()
        FreeRouter(language).route(tiny_images(2), QUESTIONS[:2], tiny_pool(3))
        assert len(passes) == expected


@given(seed=st.integers(0, 20))
@settings(deadline=None, max_examples=8)
def test_a_batch_equals_its_samples_one_by_one(tiny_language, tiny_images, tiny_pool, seed):
    router, images = FreeRouter(tiny_language(seed=seed)), tiny_images(3, seed)
    batch = router.route(images, QUESTIONS, tiny_pool(5))
    for image, question, together in zip(images, QUESTIONS, batch, strict=True):
        (alone,) = router.route([image], [question], tiny_pool(5))
        assert alone.experts == together.experts
        assert alone.probabilities == pytest.approx(together.probabilities, abs=1e-5)


def test_probabilities_are_those_of_listwise_routing(tiny_language, tiny_images, tiny_pool):
    args = (tiny_images(3), QUESTIONS, tiny_pool(6))
    free, listwise = FreeRouter(tiny_language()).route(*args), ListwiseRouter(tiny_language()).route(*args)
    for left, right in zip(free, listwise, strict=True):
        assert left.probabilities == pytest.approx(right.probabilities, abs=1e-6)
    twice = FreeRouter(tiny_language(), prompt=ListwisePrompt(none="A few"))
    assert all(route.probabilities == {} for route in twice.route(*args))


@given(text=st.text("ABCDZ ,none."), count=st.integers(0, 26))
def test_letters_are_found_in_the_first_three_parts_and_in_no_other(text, count):
    found = read_labels(text, count)
    parts = "".join(text.split(",")[:3])
    assert [ascii_uppercase[label] for label in found] == sorted(set(parts) & set(ascii_uppercase[:count]))


def test_what_cannot_be_read_is_refused(tiny_language, tiny_images, tiny_pool, tiny_model, tokenizer):
    with pytest.raises(RoutingError, match="got 27 experts; expected at most 26"):
        FreeRouter(tiny_language()).route(tiny_images(1), ["why?"], tiny_pool(27))
    with pytest.raises(RoutingError, match="pair up"):
        FreeRouter(tiny_language()).route(tiny_images(2), ["why?"], tiny_pool(2))
    with pytest.raises(RoutingError, match="twice"):
        FreeRouter(tiny_language(), order=["a", "a"])
    with pytest.raises(ConfigError, match="twice"):
        ListwisePrompt(before_image="{experts}")
    model = tiny_model()
    model.get_decoder().norm.weight.data.fill_(float("nan"))
    with pytest.raises(RoutingError, match="not finite"):
        FreeRouter(RoutingLanguageModel(model, tokenizer)).route(tiny_images(1), ["why?"], tiny_pool(2))


def test_an_empty_pool_gives_empty_routes(tiny_language, tiny_images, tiny_pool):
    assert [r.experts for r in FreeRouter(tiny_language()).route(tiny_images(2), QUESTIONS[:2], [])] == [
        (),
        (),
    ]
    assert FreeRouter(tiny_language()).route([], [], tiny_pool(2)) == []
