"""Co-DETR's backbone: promises of every expert, numbers of the released code, each layout of weights.

`data/b*_codetr_*` were recorded from the released MoVA code: features at two small sizes with random weights
in float32, with the rotary tables of the release. The picture is the one that `mova-expert-sam` holds against
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mova_expert_codetr.expert
from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.errors import ConfigError, ExpertLoadError
from mova_core.testing import ExpertConformance
from mova_core.testing.files import one_file, sharded
from mova_expert_codetr.blocks import Attention
from mova_expert_codetr.expert import CoDetrExpert
from mova_expert_codetr.layouts import ROTARY
from mova_expert_codetr.rotary import stretched_rotary
from mova_expert_codetr.sizes import RELEASED, Sizes
from mova_expert_codetr.windows import cut, join

DATA = Path(__file__).parent / "data"
CPU = torch.device("cpu")
TOLERANCE = 2e-5
RELEASE_PREFIX = "model.vision_tower.vision_tower_3."

State = dict[str, Tensor]

REFERENCES = {
    "b1": Sizes(
        picture=64,
        side=1280,
        shrink=37,
        patch=80,
        width=16,
        depth=3,
        heads=2,
        window=4,
        global_blocks=(1,),
        trained_grid=16,
        channels=12,
    ),
    "b2": Sizes(
        picture=128,
        side=160,
        shrink=9,
        width=32,
        depth=4,
        heads=2,
        window=5,
        global_blocks=(1, 3),
        trained_grid=6,
        channels=16,
    ),
}


class TestCoDetr(ExpertConformance):
    expert = "codetr"
    tiny = {"shrink": 3}
    full = RELEASED
    preprocessing = DATA / "preprocessing.safetensors"

    def test_memory_is_that_of_the_parameters(self, card: ExpertCard) -> None:
        for dtype, size in (("float32", 4), ("bfloat16", 2)):
            assert card.memory_mb[dtype] == pytest.approx(card.parameters * size / 2**20, abs=0.1)

    def test_it_shares_its_picture_with_other_experts(self, card: ExpertCard) -> None:
        other = usable_expert("sam").card
        assert other is not None and card.input == other.input


# Weights of the reference, as each publisher names them


def released(state: State) -> State:
    others = {"model.vision_tower.vision_tower_7.blocks.0.norm1.weight": torch.ones(4)}
    return {RELEASE_PREFIX + name: tensor for name, tensor in state.items()} | others


def without_tables(state: State) -> State:
    return released({name: tensor for name, tensor in state.items() if not ROTARY.search(name)})


def without_doubles(state: State) -> State:
    """A table goes by many names; safetensors keeps one of them."""
    many = re.compile(r"rope_win|blocks\.(?!1\.).*rope|blocks\.1\..*rope")
    return released({name: tensor for name, tensor in state.items() if not many.search(name)})


def co_detr(state: State) -> State:
    """A detector of mmdet: the backbone, a neck of several levels, and heads."""
    neck = {f"neck.p4.{n.removeprefix('neck.')}": t for n, t in state.items() if n.startswith("neck.")}
    backbone = {f"backbone.{n}": t for n, t in state.items() if not n.startswith("neck.")}
    heads = (
        "query_head.reg",
        "rpn_head.conv",
        "roi_head.0.fc",
        "bbox_head.0.cls",
        "neck.p3.1",
        "ema_neck_p4_0",
    )
    return backbone | neck | {f"{name}.weight": torch.ones(2) for name in heads}


def detectron(state: State) -> State:
    others = {
        "proposal_generator.rpn_head.conv.weight": torch.ones(2),
        "backbone.simfp_2.norm.weight": torch.ones(2),
    }
    return {f"backbone.net.{name}": tensor for name, tensor in state.items()} | others


LAYOUTS: dict[str, Callable[[State], State]] = {
    "released": released,
    "without_tables": without_tables,
    "without_doubles": without_doubles,
    "co_detr": co_detr,
    "detectron": detectron,
}


def pickled(state: State, folder: Path) -> Path:
    torch.save({"state_dict": state, "meta": {"epoch": 16}}, folder / "pytorch_model.pth")
    return folder


def weights(name: str = "b2") -> State:
    return load_file(DATA / f"{name}_codetr_weights.safetensors")


def reference(name: str = "b2") -> State:
    return load_file(DATA / f"{name}_codetr_io.safetensors")


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sizes], None]:
    """Sets what a release is, so that its small files are read as the real ones are."""
    return lambda sizes: monkeypatch.setattr(mova_expert_codetr.expert, "_RELEASED", sizes)


@pytest.fixture
def small_release(release: Callable[[Sizes], None]) -> None:
    release(REFERENCES["b2"])


def load(source: Path, shrink: int | None = 9, dtype: torch.dtype = torch.float32) -> CoDetrExpert:
    return CoDetrExpert.from_pretrained(str(source), dtype=dtype, device=CPU, shrink=shrink).eval()


def tokens(expert: CoDetrExpert, stream: Tensor) -> Tensor:
    with torch.no_grad():
        features = expert(stream)
    assert isinstance(features.tokens, Tensor)
    return features.tokens


# Numbers


@pytest.mark.parametrize("name", REFERENCES)
def test_features_are_those_of_the_release(
    name: str, release: Callable[[Sizes], None], tmp_path: Path
) -> None:
    release(REFERENCES[name])
    expert = load(one_file(released(weights(name)), tmp_path), REFERENCES[name].shrink)
    side = REFERENCES[name].side // REFERENCES[name].patch
    seen: State = {}

    def note(key: str) -> Callable[..., None]:
        return lambda _module, _given, output: seen.update({key: output})

    for number, block in enumerate(expert.backbone.blocks):
        block.register_forward_hook(note(f"mid.x.block{number}"))
    expert.backbone.out_norm.register_forward_hook(note("mid.x.out_norm"))
    expert.backbone.neck.register_forward_hook(note("mid.x.neck"))
    expected = reference(name)
    seen["out.x"] = tokens(expert, expected["in.x"])
    compared = seen.keys() & expected.keys()
    assert compared >= {"out.x", "mid.x.block0", "mid.x.block1", "mid.x.neck"}
    assert seen["mid.x.neck"].shape[2:] == (side, side)
    for key in compared:
        # The recording is float32 itself: what it lies away from float64 (5e-5 at values of 7) depends on the
        # processor that adds up, and so does ours.
        bound = TOLERANCE * max(1.0, expected[key].abs().max().item())
        torch.testing.assert_close(seen[key], expected[key], rtol=0, atol=bound)


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize("write", [one_file, pickled, sharded])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_features_of_the_release(
    layout: str, write: Callable[[State, Path], Path], tmp_path: Path
) -> None:
    expected = reference()
    expert = load(write(LAYOUTS[layout](weights()), tmp_path))
    torch.testing.assert_close(tokens(expert, expected["in.x"]), expected["out.x"], rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("small_release")
def test_unshrunk_features_are_all_of_the_map(tmp_path: Path) -> None:
    expected = reference()
    features = tokens(load(one_file(released(weights()), tmp_path), None), expected["in.x"])
    torch.testing.assert_close(
        features, expected["mid.x.neck"].flatten(2).transpose(1, 2), rtol=0, atol=TOLERANCE
    )


# What a file says of its sizes


@pytest.mark.parametrize("layout", ["released", "co_detr", "detectron"])
def test_windows_and_positions_are_read_off_the_file(
    layout: str, release: Callable[[Sizes], None], tmp_path: Path
) -> None:
    release(replace(REFERENCES["b2"], window=2, global_blocks=(0,), trained_grid=10))
    expected = reference()
    expert = load(one_file(LAYOUTS[layout](weights()), tmp_path))
    assert [block.window for block in expert.backbone.blocks] == [5, None, 5, None]
    torch.testing.assert_close(tokens(expert, expected["in.x"]), expected["out.x"], rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("small_release")
def test_blocks_without_tables_attend_everywhere_where_others_have_them(tmp_path: Path) -> None:
    """So it is in a checkpoint whose pictures had many sizes: only windows could have tables."""
    state = {n: t for n, t in weights().items() if not re.search(r"rope_glb|blocks\.[13]\.attn\.rope", n)}
    expert = load(one_file(co_detr(state), tmp_path))
    assert [block.window for block in expert.backbone.blocks] == [5, None, 5, None]


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize("layout", ["without_tables", "without_doubles"])
def test_a_file_that_cannot_tell_is_read_at_the_released_sizes(layout: str, tmp_path: Path) -> None:
    expert = load(one_file(LAYOUTS[layout](weights()), tmp_path))
    assert [block.window for block in expert.backbone.blocks] == [5, None, 5, None]


# Files that do not fit


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize("layout", ["released", "co_detr", "detectron"])
@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("out_norm.weight", None, "1 missing (backbone.out_norm.weight)"),
        ("neck.3.weight", None, "1 missing (backbone.neck.3.weight)"),
        ("pos_embed", None, "1 missing (backbone.pos_embed)"),
        ("pos_embed", torch.ones(37, 32), "(37, 32) instead of (1, 37, 32)"),
        ("blocks.2.mlp.w1.weight", torch.ones(9, 32), "(9, 32) instead of (85, 32)"),
        ("blocks.4.norm1.weight", torch.ones(32), "1 surplus (backbone.blocks.4.norm1.weight)"),
    ],
)
def test_what_does_not_fit_is_listed(
    layout: str, name: str, tensor: Tensor | None, complaint: str, tmp_path: Path
) -> None:
    changed = {known: value for known, value in weights().items() if known != name}
    if tensor is not None:
        changed[name] = tensor
    with pytest.raises(ExpertLoadError) as caught:
        load(one_file(LAYOUTS[layout](changed), tmp_path))
    assert complaint in str(caught.value)


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        (torch.ones(100, 16), "is not the one computed for a grid of 10x10"),
        (torch.full((100, 16), torch.nan), "is not the one computed for a grid of 10x10"),
        (torch.ones(99, 16), "has no shape of one"),
        (torch.ones(100), "has no shape of one"),
        (torch.ones(100, 15), "has no shape of one"),
    ],
)
def test_other_rotary_tables_are_refused(table: Tensor, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ExpertLoadError, match=complaint) as caught:
        load(one_file(released(weights() | {"rope_glb.freqs_sin": table}), tmp_path))
    assert "rope_glb.freqs_sin" in str(caught.value)


@pytest.mark.usefixtures("small_release")
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_rounded_rotary_tables_are_accepted(stored: torch.dtype, tmp_path: Path) -> None:
    half = {name: tensor.to(stored) for name, tensor in weights().items()}
    expert = load(one_file(released(half), tmp_path))
    assert {parameter.dtype for parameter in expert.parameters()} == {torch.float32}


@pytest.mark.usefixtures("small_release")
def test_a_backbone_without_its_neck_is_refused(tmp_path: Path) -> None:
    """As in EVA-02's own detectors of detectron2, whose pyramid is another."""
    state = {n: t for n, t in weights().items() if not n.startswith(("neck.", "out_norm."))}
    with pytest.raises(ExpertLoadError, match="missing"):
        load(one_file(detectron(state), tmp_path))


@pytest.mark.usefixtures("small_release")
def test_names_of_no_publisher_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExpertLoadError, match="in no layout"):
        load(one_file(weights(), tmp_path))


@pytest.mark.usefixtures("small_release")
def test_the_dtype_asked_for_is_given(tmp_path: Path) -> None:
    expert = load(one_file(released(weights()), tmp_path), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in expert.parameters()} == {torch.bfloat16}
    expected = reference()
    given = tokens(expert, expected["in.x"].bfloat16())
    assert given.dtype == torch.bfloat16
    assert (given.float() - expected["out.x"]).abs().mean() < 0.05


def test_a_size_of_no_meaning_is_refused() -> None:
    with pytest.raises(TypeError, match="layers"):
        CoDetrExpert.from_config(layers=3)


# Parts


@pytest.mark.parametrize(("h", "w", "side"), [(6, 4, 2), (5, 7, 3), (2, 3, 8)])
def test_windows_come_back_together(h: int, w: int, side: int) -> None:
    grid = torch.arange(2 * h * w * 3.0).reshape(2, h, w, 3)
    windows = cut(grid, side)
    assert windows.shape == (2 * -(-h // side) * -(-w // side), side, side, 3)
    assert torch.equal(windows[0, : min(h, side), : min(w, side)], grid[0, :side, :side])
    assert torch.equal(join(windows, (h, w)), grid)


def test_every_grid_spans_the_same_angles() -> None:
    coarse, fine = (stretched_rotary((side, side), 8, CPU) for side in (4, 8))
    inside = fine.cos.unflatten(0, (8, 8))[::2, ::2].flatten(0, 1)
    torch.testing.assert_close(inside, coarse.cos)


def test_heads_that_cannot_be_turned_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 4"):
        Attention(width=12, heads=2)
    with pytest.raises(ConfigError, match="multiple of 4"):
        stretched_rotary((2, 2), 6, CPU)
