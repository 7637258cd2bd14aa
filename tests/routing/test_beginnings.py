"""What is read of a pool once, and kept for the next question."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from mova_core.errors import InputError
from mova_core.routing import (
    POOL_FIRST,
    ChatFormat,
    FreeRouter,
    ListwiseRouter,
    PointwisePrompt,
    PointwiseRouter,
    RoutingLanguageModel,
    plain_offers,
)

QUESTIONS = ["what does the small print say?", "how many?", ""]
SYSTEM = "<|im_start|>system\nYou know which experts help with pictures, and which do not.<|im_end|>\n"


def pointwise(language):
    chat = ChatFormat(prefix=SYSTEM + ChatFormat().prefix)
    return PointwiseRouter(language, prompt=PointwisePrompt(chat=chat))


def listwise(language):
    return ListwiseRouter(language, prompt=POOL_FIRST)


def free(language):
    return FreeRouter(language, prompt=POOL_FIRST)


@contextmanager
def _reading_everything(router):
    """The router without what it keeps: each prompt is read as a whole."""
    router.language.begin = lambda text, rows: None
    try:
        yield router
    finally:
        del router.language.begin


@contextmanager
def _fed(language):
    """Tokens fed in each forward pass: rows and columns."""
    sizes = []
    handle = language.model.get_decoder().register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    try:
        yield sizes
    finally:
        handle.remove()


def _close(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.experts == other.experts
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@given(
    make=st.sampled_from([listwise, pointwise, free]),
    kind=st.sampled_from(["llama", "qwen2"]),
    attention=st.sampled_from(["sdpa", "eager"]),
    seed=st.integers(0, 5),
    n=st.integers(1, 9),
    rows=st.integers(1, 3),
)
@settings(deadline=None, max_examples=25)
def test_a_kept_beginning_changes_no_route(
    tiny_language, tiny_images, tiny_pool, make, kind, attention, seed, n, rows
):
    router = make(tiny_language(kind, seed, attention))
    args = (tiny_images(rows, seed), QUESTIONS[:rows], tiny_pool(n))
    kept = router.route(*args)
    with _reading_everything(router):
        _close(kept, router.route(*args))
    assert router.route(*args) == kept  # to the bit: nothing that was kept has been changed by use


@pytest.mark.parametrize("make", [listwise, free, pointwise])
def test_the_beginning_is_read_once_for_all_questions(tiny_model, tokenizer, tiny_images, tiny_pool, make):
    router, pool = make(RoutingLanguageModel(tiny_model(), tokenizer)), tiny_pool(6)
    told = [expert.descriptions[0] for expert in pool]
    text = router.prompt.head if make is pointwise else router.prompt.head(told)
    head = len(router.language.encode(text))
    with _fed(router.language) as sizes:
        router.route(tiny_images(2), QUESTIONS[:2], pool)
        assert sizes.count((1, head)) == 1 and sizes[0] == (1, head)
        assert all(rows == 2 for rows, _ in sizes[1:])
        first = list(sizes)
        if make is not free:  # the list, then up to k = 3 steps; the list, then everything at once
            assert len(first) <= 1 + (3 if make is listwise else 1)
        sizes.clear()
        router.route(tiny_images(3), QUESTIONS, pool)
        assert sizes and all(rows == 3 for rows, _ in sizes)
    with _reading_everything(router), _fed(router.language) as whole:
        router.route(tiny_images(2), QUESTIONS[:2], pool)
        assert whole[0][1] == first[1][1] + head


def test_a_short_beginning_is_read_along(tiny_language, tiny_images, tiny_pool):
    router = ListwiseRouter(tiny_language(), k=1)
    with _fed(router.language) as sizes:
        router.route(tiny_images(1), QUESTIONS[:1], tiny_pool(3))
    assert len(sizes) == 1


def test_only_a_few_pools_are_kept(tiny_model, tokenizer, tiny_images, tiny_pool):
    router = listwise(RoutingLanguageModel(tiny_model(), tokenizer))

    def ahead(n):
        """How many passes of one row were spent on a pool's list, for two questions."""
        with _fed(router.language) as sizes:
            router.route(tiny_images(2), QUESTIONS[:2], tiny_pool(n))
        return [rows for rows, _ in sizes].count(1)

    assert [ahead(n) for n in (2, 3, 4, 5, 2, 6, 2, 3)] == [1, 1, 1, 1, 0, 1, 0, 1]


def _step(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    ids = torch.tensor([[4, 5, 6, 7]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def _loaded(model):
    changed = {name: weight * 1.5 for name, weight in model.state_dict().items()}
    model.load_state_dict(changed)


def _converted(model):
    model.to(torch.bfloat16)


@pytest.mark.parametrize("change", [_step, _loaded, _converted])
def test_changed_weights_are_read_with_anew(tiny_model, tokenizer, tiny_images, tiny_pool, change):
    args = (tiny_images(2), QUESTIONS[:2], tiny_pool(5))
    used, unused = (RoutingLanguageModel(tiny_model(), tokenizer) for _ in range(2))
    before = listwise(used)
    old = before.route(*args)
    change(used.model)
    change(unused.model)
    assert before.route(*args) == listwise(unused).route(*args) != old


def test_what_is_kept_can_be_forgotten(tiny_model, tokenizer, tiny_images, tiny_pool):
    language, args = RoutingLanguageModel(tiny_model(), tokenizer), (tiny_images(2), QUESTIONS[:2])
    old = listwise(language).route(*args, tiny_pool(4))
    for weight in language.model.parameters():
        weight.data.mul_(1.5)
    language.forget()
    fresh = RoutingLanguageModel(language.model, tokenizer)
    assert listwise(language).route(*args, tiny_pool(4)) == listwise(fresh).route(*args, tiny_pool(4)) != old


def test_a_lora_switched_on_is_read_with_anew(tiny_model, tokenizer, tiny_images, tiny_pool):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    peft = get_peft_model(tiny_model(), config, adapter_name="router").eval()
    router, args = listwise(RoutingLanguageModel(peft, tokenizer)), (tiny_images(2), QUESTIONS[:2])
    on = router.route(*args, tiny_pool(4))
    with peft.disable_adapter():
        off = router.route(*args, tiny_pool(4))
    _close(off, listwise(RoutingLanguageModel(tiny_model(), tokenizer)).route(*args, tiny_pool(4)))
    assert router.route(*args, tiny_pool(4)) == on
    assert on[0].probabilities != off[0].probabilities


def test_autocast_reads_in_its_own_dtype(tiny_model, tokenizer, tiny_images, tiny_pool):
    router, args = listwise(RoutingLanguageModel(tiny_model(), tokenizer)), (tiny_images(2), QUESTIONS[:2])
    plain = router.route(*args, tiny_pool(4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = router.route(*args, tiny_pool(4))
    assert router.route(*args, tiny_pool(4)) == plain
    assert mixed[0].probabilities == pytest.approx(plain[0].probabilities, abs=0.2)


def test_training_reaches_the_beginning(tiny_model, tokenizer, tiny_images, tiny_pool):
    language = RoutingLanguageModel(tiny_model(), tokenizer)
    router, pool = listwise(language), tiny_pool(4)
    router.route(tiny_images(1), ["why?"], pool)
    loss = router.loss(tiny_images(1), ["why?"], [plain_offers(pool)], [{"expert-01"}])
    loss.backward()
    gradient = language.model.get_input_embeddings().weight.grad
    words = set(language.encode(router.prompt.head([expert.descriptions[0] for expert in pool])))
    others = set(language.encode(router.prompt.ask("why?", []))) | set(language.encode("B"))
    assert words - others
    assert all(bool(gradient[token].any()) for token in words - others)


def test_dropout_is_drawn_anew_in_training_mode(tiny_model, tokenizer, tiny_images, tiny_pool):
    model = tiny_model()
    for layer in model.get_decoder().layers:
        layer.self_attn.attention_dropout = 0.5
    router = ListwiseRouter(RoutingLanguageModel(model.train(), tokenizer), prompt=POOL_FIRST, k=1)
    with _fed(router.language) as sizes:
        routes = [router.route(tiny_images(1), ["why?"], tiny_pool(4))[0] for _ in range(3)]
    assert len(sizes) == 3
    assert all(a.probabilities != b.probabilities for a, b in itertools.pairwise(routes))


def test_a_pool_beyond_the_models_reach_is_refused(tiny_language, tiny_images, tiny_pool):
    with pytest.raises(InputError, match="at most 200"):
        listwise(tiny_language(context=200)).route(tiny_images(1), ["why?"], tiny_pool(40))


def test_a_sliding_window_keeps_nothing(tiny_model, tokenizer, tiny_images, tiny_pool):
    language = RoutingLanguageModel(tiny_model("qwen2"), tokenizer)
    language.model.config.sliding_window = 4000
    with _fed(language) as sizes:
        ListwiseRouter(language, prompt=POOL_FIRST, k=1).route(tiny_images(1), ["why?"], tiny_pool(4))
    assert len(sizes) == 1
