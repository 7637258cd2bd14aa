"""Two LoRAs on one language model: at most one is on, and outside of a pass none is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from mova_core.errors import CheckpointError
from mova_core.model.assistant import Mova
from mova_core.model.lora import Loras

TOKENS = torch.tensor([[5, 9, 40, 7, 33]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.fixture
def bare(tiny_home: Path) -> Callable[[], Any]:
    return lambda: AutoModelForCausalLM.from_pretrained(tiny_home / "language").eval()


def alone(name: str, bare: Callable[[], Any], tiny: Path) -> Tensor:
    """Logits of a language model that has never had another LoRA."""
    model = bare()
    loras = Loras(model)
    loras.load(name, tiny / name)
    with loras.on(name):
        return logits(model)


def test_outside_of_a_pass_the_language_model_is_the_bare_one(
    assistant: Mova, bare: Callable[[], Any], picture: Callable[..., Any]
) -> None:
    expected = logits(bare())
    assert torch.equal(logits(assistant.model.language_model), expected)
    assistant.ask(picture(0), "What is it?", max_new_tokens=2)
    assert torch.equal(logits(assistant.model.language_model), expected)


@pytest.mark.parametrize("name", ["answer", "router"])
def test_a_lora_works_as_if_the_other_were_not_there(
    assistant: Mova, bare: Callable[[], Any], tiny: Path, name: str
) -> None:
    model = assistant.model
    expected = alone(name, bare, tiny)
    with model.loras.on(name):
        assert torch.equal(logits(model.language_model), expected)
    assert not torch.allclose(logits(bare()), expected, atol=1e-2)


def test_they_are_never_stacked_and_the_outer_one_comes_back(
    assistant: Mova, bare: Callable[[], Any], tiny: Path
) -> None:
    answer, router = alone("answer", bare, tiny), alone("router", bare, tiny)
    model = assistant.model
    with model.loras.on("answer"):
        with model.loras.on("router"):
            assert torch.equal(logits(model.language_model), router)
            with model.loras.on(None):
                assert torch.equal(logits(model.language_model), logits(bare()))
        assert torch.equal(logits(model.language_model), answer)


def test_the_lora_goes_off_when_the_pass_fails(assistant: Mova, bare: Callable[[], Any]) -> None:
    with pytest.raises(KeyError), assistant.model.loras.on("answer"):
        raise KeyError
    assert torch.equal(logits(assistant.model.language_model), logits(bare()))


def test_a_lora_that_is_not_there_changes_nothing(bare: Callable[[], Any]) -> None:
    model = bare()
    with Loras(model).on("answer"):
        assert torch.equal(logits(model), logits(bare()))


def test_switching_freezes_nothing_that_is_trained_and_trains_nothing_that_is_frozen(assistant: Mova) -> None:
    language, loras = assistant.model.language_model, assistant.model.loras
    weights = {key: p for key, p in language.named_parameters() if "lora_" in key}
    assert not any(p.requires_grad for p in weights.values())
    for key, parameter in weights.items():
        parameter.requires_grad_(".answer." in key)
    with loras.on("answer"):
        loss = language(input_ids=TOKENS, labels=TOKENS).loss
    with loras.on("router"):  # as a router does between two training passes
        logits(language)
    loss.backward()
    assert {key for key, p in weights.items() if p.grad is not None} == {
        key for key in weights if ".answer." in key
    }


def test_a_lora_made_for_another_language_model_is_refused(bare: Callable[[], Any], tmp_path: Path) -> None:
    from peft import LoraConfig

    other = Loras(bare())
    other.add("answer", LoraConfig(r=2, target_modules=["q_proj"]))
    other.save("answer", tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(text.replace('"q_proj"', '"k_proj"'))
    with pytest.raises(CheckpointError, match="the answer LoRA cannot be read.*does not fit"):
        Loras(bare()).load("answer", tmp_path)
