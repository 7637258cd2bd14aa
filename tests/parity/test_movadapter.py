"""The MoV-Adapter against the numbers of the released code, in float32, within 2e-5.

The fixtures hold random weights under the release's names, inputs, outputs, intermediates and gradients.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from mova_core.experts.features import ExpertFeatures, RoutedFeatures
from mova_core.fusion.adapter import MovAdapter
from mova_core.fusion.grids import as_picture, as_tokens, pool_tokens, resize_tokens
from mova_core.fusion.output import FusionOutput
from mova_core.fusion.packs import ExpertPack
from mova_core.fusion.release_keys import AdapterParts, from_release, to_release
from mova_core.fusion.text import QuestionTokenizer, TextEncoder, question_text

DATA = Path(__file__).parent / "data"
SETTINGS = json.loads((DATA / "a1_movadapter.json").read_text())
WEIGHTS = load_file(DATA / "a1_movadapter_weights.safetensors")
IO = load_file(DATA / "a1_movadapter_io.safetensors")
LOW = load_file(DATA / "n_lowvar.safetensors")
ALIGN = load_file(DATA / "k_align.safetensors")

IDS = ("dinov2", "vary", "co-detr", "pix2struct", "deplot", "biomedclip", "sam")
CHANNELS = dict(zip(IDS, SETTINGS["config"]["expert_channels"], strict=True))
WIDTH = SETTINGS["config"]["mm_hidden_size"]
GRID = (SETTINGS["config"]["image_feat_size"],) * 2
DEPTH = SETTINGS["config"]["num_projector_layers"]


def close(got: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(got, reference, atol=2e-5, rtol=0)


def build() -> tuple[MovAdapter, TextEncoder]:
    parts = from_release(WEIGHTS, IDS)
    adapter = MovAdapter(
        width=WIDTH,
        heads=SETTINGS["num_heads"],
        grid=GRID,
        text_dim=SETTINGS["text_dim"],
        out_dim=SETTINGS["config"]["hidden_size"],
        depth=DEPTH,
    )
    adapter.load_core(parts.core)
    # Added backwards: where a pack stands among the others must not matter.
    for id in reversed(IDS):
        pack = ExpertPack(width=WIDTH, channels=CHANNELS[id], heads=SETTINGS["num_heads"], depth=DEPTH)
        pack.load_state_dict(parts.packs[id])
        adapter.add_pack(id, pack)
    numbers = SETTINGS["bert_config"]
    config = BertConfig(
        vocab_size=len(SETTINGS["bert_vocab"]),
        hidden_size=numbers["hidden"],
        num_hidden_layers=numbers["layers"],
        num_attention_heads=numbers["heads"],
        intermediate_size=numbers["intermediate"],
        max_position_embeddings=numbers["max_pos"],
        layer_norm_eps=numbers["layer_norm_eps"],
        hidden_act=numbers["act"],
        hidden_dropout_prob=numbers["dropout"],
        attention_probs_dropout_prob=numbers["dropout"],
    )
    text_encoder = TextEncoder(BertModel(config, add_pooling_layer=False))
    text_encoder.load_state_dict(parts.text)
    return adapter, text_encoder


@pytest.fixture(scope="module")
def models() -> tuple[MovAdapter, TextEncoder]:
    return build()


@pytest.fixture(scope="module")
def tokenizer() -> QuestionTokenizer:
    vocabulary = {token: index for index, token in enumerate(SETTINGS["bert_vocab"])}
    return QuestionTokenizer(BertTokenizer(vocab=vocabulary))


def routed(x: Tensor, masks: Sequence[Sequence[int]]) -> dict[str, RoutedFeatures]:
    """The expert channels of the release's concatenated input, for the samples that chose the expert."""
    split = dict(zip(IDS, x[..., WIDTH:].split(list(CHANNELS.values()), dim=-1), strict=True))
    chosen = {id: tuple(b for b, mask in enumerate(masks) if mask[j]) for j, id in enumerate(IDS)}
    return {
        id: RoutedFeatures(ExpertFeatures(split[id][list(rows)], GRID), rows)
        for id, rows in chosen.items()
        if rows
    }


def run(
    models: tuple[MovAdapter, TextEncoder],
    tokens: dict[str, Tensor],
    x: Tensor,
    masks: Sequence[Sequence[int]],
    mode: str,
) -> FusionOutput:
    adapter, text_encoder = models
    adapter.train(mode == "train")
    text_encoder.train(mode == "train")
    text = text_encoder(**tokens).expand(len(x), -1)
    return adapter(x[..., :WIDTH], routed(x, masks), text)


@contextmanager
def recorded(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Outputs of modules by the name given to them (of a block, its tokens)."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: object) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output  # type: ignore[assignment]

    hooks = [
        module.register_forward_hook(lambda _m, _in, output, name=name: keep(name, output))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("route", sorted(SETTINGS["routing_b1"]))
def test_one_sample(models, tokenizer, mode, route):
    masks = [SETTINGS["routing_b1"][route]]
    output = run(models, tokenizer(SETTINGS["prompts_b1"]), IO["in.x1"], masks, mode)
    close(output.tokens, IO[f"out.b1.{mode}.{route}"])
    assert output.grid == (3, 3)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("route", ["mix", "all"])
def test_batch(models, tokenizer, mode, route):
    output = run(models, tokenizer(SETTINGS["prompts_b3"]), IO["in.x3"], SETTINGS["routing_b3"][route], mode)
    close(output.tokens, IO[f"out.b3.{mode}.{route}"])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_one_question_for_a_batch(models, tokenizer, mode):
    output = run(models, tokenizer(SETTINGS["prompts_b1"]), IO["in.x3"], SETTINGS["routing_b3"]["mix"], mode)
    close(output.tokens, IO[f"out.b3.{mode}.one_prompt"])


@pytest.mark.parametrize(
    "case", sorted({key.rsplit(".", 1)[0].removeprefix("mid.") for key in IO if key.startswith("mid.")})
)
def test_intermediates(models, tokenizer, case):
    batch, mode, route = case.split(".")
    size = batch.removeprefix("b")
    adapter, text_encoder = models
    masks = SETTINGS[f"routing_{batch}"][route]
    masks = [masks] if size == "1" else masks
    names: dict[str, nn.Module] = {f"block{i}": block for i, block in enumerate(adapter.blocks)}
    names |= {f"gate{i}.{id}": adapter.pack(id).layer(i).gate for i in range(DEPTH) for id in IDS}
    names |= {"text_feat": text_encoder, "downsample": adapter.downsample}
    with recorded(names) as seen:
        run(models, tokenizer(SETTINGS[f"prompts_{batch}"]), IO[f"in.x{size}"], masks, mode)

    def reference(name: str) -> Tensor:
        return IO[f"mid.{case}.{name}"]

    close(seen["text_feat"], reference("text_feat"))
    for i in range(DEPTH):
        close(seen[f"block{i}"], reference(f"block{i}"))
        for j, id in enumerate(IDS):
            if any(mask[j] for mask in masks):
                close(seen[f"gate{i}.{id}"], reference(f"gate_logits{i}")[:, j : j + 1])
            else:
                assert f"gate{i}.{id}" not in seen, "the gate row of an expert that nobody chose was computed"
    base = IO[f"in.x{size}"][..., :WIDTH]
    close(as_picture((seen[f"block{DEPTH - 1}"] + base) / 2, GRID), reference("pre_downsample_nchw"))
    close(as_picture(seen["downsample"], (3, 3)), reference("downsample_nchw"))


def test_gradients(tokenizer):
    adapter, text_encoder = models = build()
    x = IO["in.x3"].clone().requires_grad_()
    output = run(models, tokenizer(SETTINGS["prompts_b3"]), x, SETTINGS["routing_b3"]["mix"], "train")
    loss = output.tokens.square().mean()
    loss.backward()
    close(loss.detach()[None], IO["grad.loss"])
    close(x.grad, IO["grad.x3"])

    def gradients(module: nn.Module) -> dict[str, Tensor]:
        found = module.named_parameters()
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in found}

    core = {name: grad for name, grad in gradients(adapter).items() if not name.startswith("packs.")}
    packs = {id: gradients(adapter.pack(id)) for id in IDS}
    named = to_release(AdapterParts(core, packs, gradients(text_encoder), {}))
    wanted = {key.removeprefix("grad."): grad for key, grad in IO.items() if key.startswith("grad.")}
    for name in wanted.keys() - {"loss", "x3"}:
        close(named[name], wanted[name])
    for name, norm in SETTINGS["grad_norms"].items():
        assert named[name].norm().item() == pytest.approx(norm, abs=2e-5, rel=1e-4), name


@pytest.mark.parametrize("batch", ["b1", "b3"])
def test_question_tokens(tokenizer, batch):
    prompts = SETTINGS[f"prompts_{batch}"]
    assert [question_text(questions) for questions in prompts] == SETTINGS["text_strings"][batch]
    tokens = tokenizer(prompts)
    assert tokens["input_ids"].tolist() == SETTINGS["bert_input_ids"][batch]
    assert tokens["attention_mask"].tolist() == SETTINGS["bert_attention_mask"][batch]


def test_low_variance_input_shows_the_eps_of_every_norm(models):
    adapter, _ = models
    block, layer = adapter.blocks[0], adapter.pack(IDS[0]).layer(0)
    close(as_picture(adapter.downsample(as_tokens(LOW["in.nchw"]), GRID), (3, 3)), LOW["out.downsample"])
    close(layer.extractor.query_norm(LOW["in.tokens"]), LOW["out.blocks.0.norm1.0"])
    close(block.attention_norm(LOW["in.tokens"]), LOW["out.blocks.0.norm3"])
    close(block.attention.norm(LOW["in.tokens"]), LOW["out.blocks.0.self_attn.inner_attn_ln"])


@pytest.mark.parametrize(
    "name, side", [("up14_48", 14), ("up37_48", 37), ("down64_48", 64), ("up32_48", 32), ("up45_48", 45)]
)
def test_features_are_resized(name, side):
    close(resize_tokens(ALIGN[f"in.{name}"], (side, side), (48, 48)), ALIGN[f"out.{name}"])


def test_features_on_the_base_grid_are_left_alone():
    assert resize_tokens(ALIGN["in.same48"], (48, 48), (48, 48)) is ALIGN["in.same48"]
    assert torch.equal(ALIGN["in.same48"], ALIGN["out.same48"])


def test_features_in_bfloat16_are_resized_in_float32():
    resized = resize_tokens(ALIGN["in.bf16_4"].bfloat16(), (4, 4), (6, 6))
    assert torch.equal(resized.float(), ALIGN["out.bf16_4to6"].float())


def test_resized_features_match_the_release_where_it_concatenates_them():
    close(ALIGN["in.merge_base"], ALIGN["out.merge"][..., :5])
    close(resize_tokens(ALIGN["in.merge_expert"], (4, 4), (6, 6)), ALIGN["out.merge"][..., 5:])


@pytest.mark.parametrize("name, side, to", [("24to12", 24, 12), ("6to3", 6, 3), ("5to2", 5, 2)])
def test_routing_tokens_are_pooled(name, side, to):
    pooled = pool_tokens(ALIGN[f"in.pool{side}"][None], (side, side), (to, to))
    close(pooled[0], ALIGN[f"out.pool{name}"])


def test_release_names_go_there_and_back():
    parts = from_release(WEIGHTS, IDS)
    back = to_release(parts)
    assert back.keys() == WEIGHTS.keys()
    assert all(torch.equal(back[key], WEIGHTS[key]) for key in WEIGHTS)
    assert len(parts.rotary) == 2 * DEPTH * (1 + len(IDS))
    bare = {key: tensor for key, tensor in WEIGHTS.items() if key not in parts.rotary}
    assert to_release(from_release(bare, IDS)).keys() == bare.keys()
