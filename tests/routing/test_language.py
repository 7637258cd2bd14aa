from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mova_core.errors import ConfigError, InputError
from mova_core.routing import PointwiseRouter, RoutingLanguageModel
from mova_core.routing.language import Row


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_branches_read_as_if_each_were_alone(tiny_language, tiny_images, kind, attention):
    language = tiny_language(kind, attention=attention)
    (image,) = tiny_images(1)
    branches = [(9, 8), (7,), (6, 5, 4)]
    with torch.no_grad():
        tree = language.read([Row([(1, 2), image, (3,)], branches), Row([(5,)])])
        table = language.model.get_input_embeddings()
        for branch, span in zip(branches, tree.spans[0][1:], strict=True):
            whole = torch.cat([table(torch.tensor([1, 2])), image, table(torch.tensor([3, *branch]))])
            stock = language.model(inputs_embeds=whole[None], output_hidden_states=True)
            alone = stock.hidden_states[-1][0, -len(branch) :]
            torch.testing.assert_close(tree.hidden[0, list(span)], alone, atol=1e-4, rtol=0)
            # The few rows of the head give what the whole head gives.
            few = language.logits(tree.hidden[0, list(span)], [3, 11])
            torch.testing.assert_close(few, stock.logits[0, -len(branch) :, [3, 11]], atol=1e-4, rtol=0)


def test_reading_on_equals_reading_at_once(tiny_language):
    language = tiny_language()
    with torch.no_grad():
        first = language.read([Row([(1, 2, 3)], [(8,), (9, 9)]), Row([(4,)], [(8,)])], keep=True)
        second = language.read([Row([(5,)], [(6,), (7,)]), Row()], first.context, keep=True)
        third = language.read([Row([(6, 2)]), Row([(5, 6)])], second.context)
        whole = language.read([Row([(1, 2, 3, 5, 6, 2)]), Row([(4, 5, 6)])])
    torch.testing.assert_close(third.hidden[0, 1], whole.hidden[0, 5], atol=1e-5, rtol=0)
    torch.testing.assert_close(third.hidden[1, 1], whole.hidden[1, 2], atol=1e-5, rtol=0)


def test_a_head_that_is_no_plain_matrix_is_asked_as_a_whole(tiny_model, tokenizer):
    model = tiny_model()
    plain = RoutingLanguageModel(model, tokenizer)
    hidden = torch.randn(2, 3, 32)
    expected = plain.logits(hidden, [4, 7])
    model.set_output_embeddings(nn.Sequential(model.get_output_embeddings()))
    torch.testing.assert_close(plain.logits(hidden, [4, 7]), expected, atol=1e-5, rtol=0)


def test_a_text_beyond_the_models_reach_is_refused(tiny_language, tiny_images, tiny_pool):
    router = PointwiseRouter(tiny_language(context=300))
    with pytest.raises(InputError, match="at most 300"):
        router.route(tiny_images(1), ["why? " * 300], tiny_pool(2))
    # Branches share their positions: many of them are no longer than one.
    assert len(router.route(tiny_images(1), ["why?"], tiny_pool(20))[0].probabilities) == 20


def test_a_sliding_window_must_hold_a_text_and_all_that_is_kept(tiny_model, tokenizer):
    language = RoutingLanguageModel(tiny_model("qwen2"), tokenizer)
    language.model.config.sliding_window = 8
    rows = [Row([(1, 2, 3, 4, 5)], [(6, 7), (8, 9)])]
    assert language.read(rows).hidden.shape[1] == 9
    with pytest.raises(InputError, match="9 tokens; expected at most 8"):
        language.read(rows, keep=True)


def test_attention_that_takes_no_mask_of_ours_is_switched_for_the_pass(tiny_model, tokenizer, tiny_images):
    rows = [Row([(1, 2), *tiny_images(1)], [(3, 4), (5,)])]
    with torch.no_grad():
        wanted = RoutingLanguageModel(tiny_model(), tokenizer).read(rows).hidden
        model = tiny_model()
        model.config._attn_implementation_internal = "flash_attention_2"  # not here: its use would fail
        found = RoutingLanguageModel(model, tokenizer).read(rows).hidden
    assert torch.equal(found, wanted)
    assert model.config._attn_implementation == "flash_attention_2"


def test_attention_that_can_neither_be_used_nor_switched_is_refused(tiny_model, tokenizer, monkeypatch):
    model = tiny_model()
    model.config._attn_implementation_internal = "flash_attention_2"
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(ConfigError, match="flash_attention_2.*sdpa"):
        RoutingLanguageModel(model, tokenizer)


def test_a_lora_is_on_for_the_pass_and_off_after_it(tiny_model, tokenizer, tiny_images, tiny_pool):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    peft = get_peft_model(tiny_model(), config, adapter_name="router").eval()

    @contextmanager
    def router_on():
        peft.base_model.enable_adapter_layers()
        try:
            yield
        finally:
            peft.base_model.disable_adapter_layers()

    peft.base_model.disable_adapter_layers()
    images, pool = tiny_images(2), tiny_pool(3)
    ids = torch.tensor([[1, 2, 3]])
    before = peft(input_ids=ids).logits
    routed = PointwiseRouter(RoutingLanguageModel(peft, tokenizer, adapter=router_on))
    bare = PointwiseRouter(RoutingLanguageModel(tiny_model(), tokenizer))
    off = PointwiseRouter(RoutingLanguageModel(peft, tokenizer))
    words = [expert.descriptions[0] for expert in pool]
    with torch.no_grad():
        scores = [router.scores(images, ["why?", "how?"], words) for router in (bare, off, routed)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=0)
    assert float((scores[0] - scores[2]).abs().max()) > 1e-2
    assert torch.equal(peft(input_ids=ids).logits, before)


def test_the_adapter_is_left_when_routing_fails(tiny_model, tokenizer, tiny_images, tiny_pool):
    state = []

    @contextmanager
    def adapter():
        state.append("on")
        try:
            yield
        finally:
            state.append("off")

    router = PointwiseRouter(RoutingLanguageModel(tiny_model(context=8), tokenizer, adapter=adapter))
    with pytest.raises(InputError):
        router.route(tiny_images(1), ["why?"], tiny_pool(1))
    assert state == ["on", "off"]
