"""A language model over devices, in few bits, with another attention, compiled: always the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import mova_core
from mova_core.cards.resolve import usable_expert
from mova_core.errors import CheckpointError, ConfigError
from mova_core.experts.pool import ExpertPool
from mova_core.model.build import load_language_model
from mova_core.model.language import LanguageOptions, default_attention
from mova_core.model.load import pool_records
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.model.settings import LanguageSettings
from mova_core.routing.calibration import Calibration

ON_DISK = {
    "model.embed_tokens": "disk",
    "model.layers.0": "disk",
    "model.layers.1": "cpu",
    "model.norm": "cpu",
    "lm_head": "disk",
}


def outcome(mova: Any, image: Any) -> tuple[Any, ...]:
    """What a question leads to, routed and not."""
    routed = mova.ask(image, "Where is it?", max_new_tokens=6)
    fixed = mova.ask(image, "Where is it?", experts=["tiny-red", "tiny-blue"], max_new_tokens=6)
    listed = [round(share, 3) for share in routed.route.probabilities.values()]
    return routed.text, routed.route.experts, listed, fixed.text


@pytest.fixture
def expected(assistant: Any, picture: Any) -> tuple[Any, ...]:
    return outcome(assistant, picture(1))


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "auto"},
        {"device_map": "balanced"},
        {"device_map": "cpu", "device": "cpu"},
        {"device_map": "auto", "max_memory": {"cpu": 60_000}},
        {"device_map": ON_DISK},
        {"device": "auto" if not torch.accelerator.is_available() else "cpu"},
        {"dtype": "fp32"},
        {"attn_implementation": "eager"},
    ],
)
def test_answers_do_not_depend_on_where_and_how(
    tiny: Path, picture: Any, expected: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    if options.get("device_map") == ON_DISK:
        options = options | {"offload_folder": tmp_path / "offload"}
    found = mova_core.load(tiny, **{"dtype": torch.float32} | options)
    assert outcome(found, picture(1)) == expected


def test_what_has_no_room_is_left_on_disk_with_its_loras_at_work(tiny: Path) -> None:
    model = mova_core.load(tiny, dtype="float32", device_map=ON_DISK).model
    elsewhere = {name for name, weight in model.language_model.named_parameters() if weight.is_meta}
    assert any(name.startswith("model.layers.0.self_attn.q_proj.base_layer") for name in elsewhere)
    assert not any("lora_" in name or name.startswith("model.layers.1.") for name in elsewhere)
    assert model.device == torch.device("cpu")


def test_what_cannot_be_saved_whole_is_refused(tiny: Path, tmp_path: Path) -> None:
    model = MovaForConditionalGeneration.from_pretrained(tiny, dtype="float32", device_map=ON_DISK)
    model.config.language_model = model.config.language_model | {"source": "inside:language_model"}
    with pytest.raises(CheckpointError, match="quantised or offloaded cannot be saved"):
        model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.fixture(scope="module")
def usual_weights(tmp_path_factory: pytest.TempPathFactory) -> LanguageSettings:
    """A language model whose weights are spread as those of real ones are at first."""
    folder = tmp_path_factory.mktemp("language")
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=120,
        )
    ).save_pretrained(folder)
    return LanguageSettings(source=f"file:{folder}", width=64)


@pytest.mark.parametrize(
    ("quantization", "most_error", "most_bytes"),
    [("8bit", 0.03, 0.6), ("4bit", 0.2, 0.45), (BitsAndBytesConfig(load_in_8bit=True), 0.03, 0.6)],
)
def test_few_bits_give_nearly_the_same_logits_in_less_memory(
    usual_weights: LanguageSettings, tmp_path: Path, quantization: Any, most_error: float, most_bytes: float
) -> None:
    def build(**options: Any) -> Any:
        return load_language_model(
            usual_weights,
            tmp_path,
            dtype=torch.float32,
            device=torch.device("cpu"),
            options=LanguageOptions(**options),
        )

    full, few = build(), build(quantization=quantization)
    ids = torch.arange(100)[None]
    with torch.no_grad():
        wanted = full(ids).logits
        error = few(ids).logits.float() - wanted
    assert 0 < error.square().mean().sqrt() < most_error * wanted.square().mean().sqrt()
    assert layer_bytes(few) < most_bytes * layer_bytes(full)


def layer_bytes(model: nn.Module) -> int:
    layers = [weight for name, weight in model.named_parameters() if ".layers." in name]
    return sum(weight.numel() * weight.element_size() for weight in layers)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_loras_are_at_work_on_quantised_layers(tiny: Path, picture: Any, quantization: str) -> None:
    mova = mova_core.load(tiny, dtype="float32", quantization=quantization)
    model = mova.model
    assert model.loras.names == ("answer", "router")
    assert mova.ask(picture(1), "Why?", max_new_tokens=3).route.probabilities
    ids = torch.arange(20)[None]
    said = {}
    for name in (None, "answer", "router"):
        with torch.no_grad(), model.loras.on(name):  # type: ignore[arg-type]
            said[name] = model.language_model(ids).logits
    for name in ("answer", "router"):
        assert not torch.allclose(said[None], said[name])


def test_without_bitsandbytes_the_way_to_get_it_is_said(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mova_core.model.quantization.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"bitsandbytes.*pip install 'mova-core\[quantization\]'"):
        mova_core.load(tiny, quantization="4bit")


@pytest.fixture
def causal_only() -> str:
    """An attention that, like flash attention, knows no mask of ours; it writes down that it was used."""
    name = "causal-only"

    def attend(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **rest: Any) -> Any:
        if mask is not None and mask.dtype != torch.bool:
            raise RuntimeError("this attention was handed a mask of ours")
        attend.used += 1  # type: ignore[attr-defined]
        return sdpa_attention_forward(module, query, key, value, mask, **rest)

    attend.used = 0  # type: ignore[attr-defined]
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def test_attention_without_a_tree_mask_answers_and_another_one_routes(
    tiny: Path, picture: Any, expected: Any, causal_only: str
) -> None:
    mova = mova_core.load(tiny, dtype="float32", attn_implementation=causal_only)
    used = AttentionInterface()[causal_only]
    mova.route(picture(1), "Where is it?")
    assert used.used == 0
    assert outcome(mova, picture(1)) == expected
    assert used.used > 0


@pytest.mark.parametrize(
    ("device", "dtype", "known", "installed", "wanted"),
    [
        ("cuda", torch.bfloat16, True, True, "flash_attention_2"),
        ("cuda", torch.float16, True, True, "flash_attention_2"),
        ("cuda", torch.float32, True, True, "sdpa"),
        ("cuda", torch.bfloat16, False, True, "sdpa"),
        ("cuda", torch.bfloat16, True, False, "sdpa"),
        ("cpu", torch.bfloat16, True, True, "sdpa"),
    ],
)
def test_flash_attention_is_used_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: Any, known: bool, installed: bool, wanted: str
) -> None:
    monkeypatch.setattr("mova_core.model.language._flash_is_installed", lambda: installed)
    assert default_attention(torch.device(device), dtype, known=known) == wanted


def test_compiled_it_answers_the_same(tiny: Path, assistant: Any, picture: Any) -> None:
    torch._dynamo.reset()
    mova = mova_core.load(tiny, dtype="float32", compile={"backend": "eager"})
    for each in (mova, assistant):
        each.router.calibration = Calibration(threshold=0.0)  # so that experts are chosen
    found, wanted = (each.ask(picture(1), "Why?", max_new_tokens=3) for each in (mova, assistant))
    assert (found.text, found.route.experts) == (wanted.text, wanted.route.experts)
    assert found.route.probabilities == pytest.approx(dict(wanted.route.probabilities), abs=1e-5)
    for id, gates in wanted.images[0].gates.items():
        assert found.images[0].gates[id] == pytest.approx(gates, abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda:17"}, "this device is not here; got cuda:17; expected cpu"),
        ({"device": "gpu"}, "no such device; got gpu; expected cpu"),
        ({"dtype": "int8"}, "a model cannot be loaded in this dtype; got int8; expected auto, float32"),
        ({"dtype": torch.int8}, "a model cannot be loaded in this dtype; got torch.int8"),
        ({"device_map": "everywhere"}, "no such device; got everywhere"),
        ({"max_memory": {"cpu": "1GB"}}, "max_memory says nothing without a device_map"),
        ({"offload_folder": "somewhere"}, "offload_folder says nothing without a device_map"),
        ({"quantization": "2bit"}, "unknown quantisation; got 2bit; expected 8bit or 4bit"),
        ({"quantization": 8}, "unknown quantisation; got 8"),
        ({"attn_implementation": "flash_attention_2"}, "flash attention is not installed"),
        ({"attn_implementation": "somebody/kernel"}, "kernels are not fetched from the hub"),
        ({"attn_implementation": "telepathy"}, "the language model cannot use this attention; got telepathy"),
        ({"compile": "fast"}, "unknown mode of torch.compile; got fast; expected default"),
        ({"compile": True, "device_map": ON_DISK}, "spread over devices cannot be compiled"),
    ],
)
def test_a_wrong_option_is_said_in_one_line(tiny: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mova_core.load(tiny, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_experts_run_where_they_are_put(tiny: Path, expected: tuple[Any, ...], picture: Any) -> None:
    assert outcome(mova_core.load(tiny, dtype=torch.float32, expert_device="cpu"), picture(1)) == expected
    with pytest.raises(ConfigError, match="no such device"):
        mova_core.load(tiny, expert_device="quantum")
    with pytest.raises(ConfigError, match="beside the base encoder"):
        mova_core.load(tiny, expert_device="cpu", memory_budget="auto")


def test_a_base_encoder_stays_where_the_model_is(tiny: Path, assistant: Any, picture: Any) -> None:
    base = usable_expert("tiny-base")
    held = {base.id: assistant.model.base}
    pool = ExpertPool([*pool_records(tiny), base], device="meta", held=held)
    assert pool.device.type == "meta"
    assert pool.encode_all([picture(1)], "tiny-base").tokens.device.type == "cpu"
