"""The model as a transformers model: its loss, its generation, and what it does with images and text.

Notation for tensor shapes:
    b: conversations, i: images, m: fused tokens of an image, s: text tokens, d: width of the language model
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mova_core.errors import InputError
from mova_core.model.assistant import Mova
from mova_core.model.processing import Turn
from mova_core.routing.route import Route

ROUTES = [Route(("tiny-red", "tiny-green")), Route(())]
QUESTIONS = ["What colour is it?", "Where?"]


@pytest.fixture
def batch(assistant: Mova, picture: Any) -> dict[str, Any]:
    """Two questions about a picture each, one answered by two experts, one by none."""
    images = [picture(1), picture(2)]
    turns = [[Turn(q, (image,))] for q, image in zip(QUESTIONS, images, strict=True)]
    experts = assistant.pool.encode(images, ROUTES)
    return {**assistant.processor(turns), "expert_features": experts}


def embeddings(assistant: Mova, batch: dict[str, Any]) -> Tensor:
    """What the language model reads, put together here: [b, s, d]."""
    model = assistant.model
    base = model.encode_base(batch["pixel_values"])
    text = model.encode_text(batch["text_input_ids"], batch["text_attention_mask"])
    fused = model.fuse(base, batch["expert_features"], text).tokens  # [i, m, d]
    rows = []
    for ids, tokens in zip(batch["input_ids"], fused, strict=True):
        places = (ids == model.config.image_token_id).nonzero().flatten()
        row = model.get_input_embeddings()(ids.masked_fill(ids == model.config.image_token_id, 0))
        rows.append(row.index_copy(0, places, tokens))
    return torch.stack(rows)


def test_its_loss_is_the_language_models_own(assistant: Mova, batch: dict[str, Any]) -> None:
    labels = batch["input_ids"].clone()
    labels[:, ::2] = -100
    labels[batch["attention_mask"] == 0] = -100
    labels[labels == assistant.model.config.image_token_id] = -100
    with assistant.model.loras.on("answer"):
        own = assistant.model.language_model(
            inputs_embeds=embeddings(assistant, batch),
            attention_mask=batch["attention_mask"],
            labels=labels,
        )
    output = assistant.model(**batch, labels=labels)
    assert output.loss.item() == pytest.approx(own.loss.item(), abs=1e-5)
    told = labels[:, 1:] != -100
    torch.testing.assert_close(output.logits, own.logits[:, :-1][told], atol=1e-4, rtol=1e-4)


def test_its_logits_are_the_language_models_own(assistant: Mova, batch: dict[str, Any]) -> None:
    with assistant.model.loras.on("answer"):
        own = assistant.model.language_model(
            inputs_embeds=embeddings(assistant, batch), attention_mask=batch["attention_mask"]
        )
    torch.testing.assert_close(assistant.model(**batch).logits, own.logits, atol=1e-5, rtol=1e-5)


def test_it_generates_what_the_language_model_generates(assistant: Mova, batch: dict[str, Any]) -> None:
    options = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2}
    with assistant.model.loras.on("answer"):
        own = assistant.model.language_model.generate(
            inputs_embeds=embeddings(assistant, batch), attention_mask=batch["attention_mask"], **options
        )
    assert torch.equal(assistant.model.generate(**batch, **options), own)


def test_a_question_without_a_picture_is_plain_text(assistant: Mova) -> None:
    tokens = assistant.processor([[Turn("What is red?")]])
    assert set(tokens) == {"input_ids", "attention_mask"}
    with assistant.model.loras.on("answer"):
        own = assistant.model.language_model(**tokens)
    assert torch.equal(assistant.model(**tokens).logits, own.logits)


def test_features_that_are_known_already_are_used(assistant: Mova, batch: dict[str, Any]) -> None:
    model = assistant.model
    expected = model(**batch).logits
    known = dict(batch)
    known["base_features"] = model.encode_base(known.pop("pixel_values"))
    known["text_features"] = model.encode_text(known.pop("text_input_ids"), known.pop("text_attention_mask"))
    assert torch.equal(model(**known).logits, expected)


def test_experts_change_the_answer_of_the_sample_that_chose_them_only(
    assistant: Mova, batch: dict[str, Any]
) -> None:
    with_experts = assistant.model(**batch).logits
    without = assistant.model(**{**batch, "expert_features": None}).logits
    assert not torch.allclose(with_experts[0], without[0], atol=1e-2)
    assert torch.equal(with_experts[1], without[1])


def test_places_and_images_must_match(assistant: Mova, batch: dict[str, Any]) -> None:
    batch["input_ids"] = batch["input_ids"].masked_fill(
        batch["input_ids"] == assistant.model.config.image_token_id, 5
    )
    with pytest.raises(InputError, match="got 0 places; expected 8 for 2 images"):
        assistant.model(**batch)


def test_images_need_the_questions_they_are_fused_for(assistant: Mova, batch: dict[str, Any]) -> None:
    del batch["text_input_ids"], batch["text_attention_mask"]
    with pytest.raises(InputError, match="images come without the questions"):
        assistant.model(**batch)


def test_routing_tokens_are_the_pooled_tokens_of_no_expert(assistant: Mova, batch: dict[str, Any]) -> None:
    model = assistant.model
    base = model.encode_base(batch["pixel_values"])
    text = model.encode_text(batch["text_input_ids"], batch["text_attention_mask"])
    seen = model.routing_tokens(base, text)  # the routing grid is 2x1, the fused grid 2x2
    fused = model.fuse(base, {}, text).tokens
    assert seen.shape == (2, 2, model.config.language_settings.width)
    torch.testing.assert_close(seen, torch.stack([fused[:, 0:2].mean(1), fused[:, 2:4].mean(1)], dim=1))
