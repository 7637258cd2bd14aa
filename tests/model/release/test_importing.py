"""Importing through the command line, and what stops it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mova_core.cards.warning import CardWarning
from mova_core.errors import CheckpointError, ExpertLoadError, PartsError
from mova_core.fusion.rotary import release_tables
from mova_core.model.load import load
from mova_core.model.release.importing import ImportOptions, import_release

pytestmark = pytest.mark.filterwarnings("ignore::mova_core.cards.warning.CardWarning")


@pytest.fixture
def own(release: Path, tmp_path: Path) -> Path:
    """A copy of the release to change."""
    return Path(shutil.copytree(release, tmp_path / "own"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a release."""
    return {k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()}


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a release, which becomes one file."""
    state = weights(folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    change(state)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("model.layers.1.mlp.up_proj.weight"), "missing: model.layers.1.mlp.up_proj.weight"),
        (lambda s: s.update({"model.surprise": torch.zeros(1)}), "unmapped: model.surprise"),
        (
            lambda s: s.update({"model.mm_projector.mlp.2.bias": torch.zeros(3)}),
            r"misshapen: model.mm_projector.mlp.2.bias \[3\], expected \[64\]",
        ),
        (lambda s: s.pop("model.vision_tower.vision_tower_7.neck.3.bias"), "sam: .*missing"),
        (
            lambda s: s.update({"model.vision_tower.vision_tower_4.layernorm.weight": torch.zeros(5)}),
            "pix2struct: .*of another shape",
        ),
        (
            lambda s: s.update({"model.mm_projector.blocks.0.gate.2.bias": torch.zeros(6)}),
            r"gate.2.bias \[6\], expected 7 rows",
        ),
    ],
)
def test_what_does_not_fit_stops_it(
    own: Path, profile: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], said: str
) -> None:
    rewrite(own, change)
    with pytest.raises(CheckpointError, match=said):
        import_release(own, tmp_path / "out", ImportOptions(profile=profile))
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize("change", [0.1, float("nan")])
def test_a_wrong_rotary_table_stops_it(own: Path, profile: Path, tmp_path: Path, change: float) -> None:
    cos, _ = release_tables((12, 12), 64)
    key = "model.mm_projector.blocks.0.self_attn.rope.freqs_cos"
    rewrite(own, lambda state: state.update({key: cos + change}))
    with pytest.raises(CheckpointError, match="rotary table"):
        import_release(own, tmp_path / "out", ImportOptions(profile=profile))


def test_a_shard_that_is_cut_short(
    own: Path, profile: Path, tmp_path: Path, mova: Callable[..., Any]
) -> None:
    file = next(own.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    done = mova("convert", str(own), str(tmp_path / "out"), "--profile", str(profile))
    assert done.code == 2
    assert file.name in done.err
    assert len(done.err.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio"),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
        ({"mm_projector_text_encoder": "no-such-encoder"}, "--text-tokenizer"),
        ({"mm_projector_text_encoder": "/far/away/bert-huge"}, "hf download google-bert/bert-huge"),
        ({"topk": None}, "topk"),
        ({"num_routing_tokens": "x"}, "num_routing_tokens"),
        ({"num_routing_tokens": 35}, "num_routing_tokens.*a square"),
        ({"expert_channels": 7}, "expert_channels"),
        ({"hidden_act": "nope"}, "language model's configuration"),
        ({"hidden_size": 128}, "language model's width"),
    ],
)
def test_ways_that_are_not_supported(
    own: Path, profile: Path, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    told = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**told, **config}))
    with pytest.raises(CheckpointError, match=said):
        import_release(own, tmp_path / "out", ImportOptions(profile=profile))


@pytest.mark.parametrize(
    "changes",
    [
        {"factory": "antigravity:x"},
        {"weights": {"folder": "../../etc"}},
        {"weights": {"folder": "/etc"}},
        {"weights": {"folder": "experts/sam", "notice": None}},
        {"weights": "x"},
        {"input": {"size": "large"}},
        {"options": {"side": None}},
        {"options": {"no_such_argument": 1}},
    ],
)
def test_a_checkpoint_changes_no_more_of_a_card_than_it_may(
    imported: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    own = Path(shutil.copytree(imported, tmp_path / "own"))
    config = json.loads((own / "config.json").read_text())
    config["cards"]["clip"] |= changes
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, ExpertLoadError)):
        load(own)


def test_out_is_where_nobody_stands(
    release: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="in the way"):
        import_release(release, Path(), ImportOptions(profile=profile))
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    import_release(release, tmp_path / "link", ImportOptions(profile=profile))
    assert (tmp_path / "real" / "config.json").is_file()


def test_what_is_in_the_way_stays(release: Path, profile: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(CheckpointError, match="in the way"):
        import_release(release, tmp_path / "out", ImportOptions(profile=profile))
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_a_full_disk_is_said_before_work(
    release: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PartsError, match="disk space"):
        import_release(release, tmp_path / "out", ImportOptions(profile=profile))


def test_there_is_nothing_there(
    mova: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    done = mova("convert", "nobody/nothing", str(tmp_path / "out"))
    assert (done.code, "nobody/nothing" in done.err) == (2, True)
    done = mova("convert", str(tmp_path), str(tmp_path / "out"))
    assert (done.code, "no weights to read" in done.err) == (2, True)
    done = mova("convert", "--to-release", str(tmp_path), str(tmp_path / "out"))
    assert (done.code, "mova convert" in done.err) == (2, True)


def test_a_repository_on_the_hub_is_fetched(
    release: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []
    wanted: list[str] = []

    def fetch(
        repository: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool
    ) -> str:
        asked.append((repository, revision, local_files_only))
        wanted.extend(allow_patterns)
        return str(release)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.delenv("MOVA_OFFLINE", raising=False)
    out = import_release("owner/name", tmp_path / "out", ImportOptions(profile=profile), revision="v1")
    assert set(asked) == {("owner/name", "v1", False)}
    assert "model*.safetensors" in wanted
    assert not any(pattern.endswith((".bin", ".py")) or pattern == "*" for pattern in wanted)
    assert (out / "config.json").is_file()


def test_a_tokenizer_that_does_not_begin_loses_the_newline(
    own: Path, profile: Path, tmp_path: Path, story: dict[str, Any]
) -> None:
    file = own / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    file.write_text(json.dumps(tokenizer))
    mova = load(import_release(own, tmp_path / "out", ImportOptions(profile=profile)), dtype=torch.float32)
    newline = 198
    written = mova.processor.text_ids(mova.processor.prompt.begin + mova.processor.asked("Q", images=1))
    recorded = story["results"]["ids"]["q0"]["answering"]
    image = recorded.index(-200)
    first = written.index(mova.processor.image_token_id)
    assert mova.processor.begin_ids() + written[:first] == recorded[1:image]  # one beginning, not two
    assert recorded[image + 1] == newline
    assert written[first + mova.processor.image_tokens] != newline


def test_the_releases_own_ways(
    release: Path, profile: Path, tmp_path: Path, mova: Callable[..., Any]
) -> None:
    done = mova("convert", str(release), str(tmp_path / "out"), "--profile", str(profile), "--compat")
    assert done.code == 0
    model = load(tmp_path / "out")
    assert model.router.name == "free"  # type: ignore[attr-defined]
    assert model.pool.card("deplot").input.size is None


def test_means_come_from_the_releases_own_processors(own: Path, profile: Path, tmp_path: Path) -> None:
    towers = ["clip", "dino", "high", "detr", "p2s", "deplot", "bio", "sam"]
    told = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(
        json.dumps({**told, "mm_vision_tower": [f"weights/{t}" for t in towers]})
    )
    (own / "high").mkdir()
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (own / "high" / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.warns(CardWarning, match="no image processor of clip") as told_of:
        mova = load(import_release(own, tmp_path / "out", ImportOptions(profile=profile)))
    assert not any("vary" in str(w.message) for w in told_of)
    for id in ("vary", "codetr", "sam"):
        stream = mova.pool.card(id).input
        assert (stream.mean, stream.std, stream.pad_colour) == (
            (0.1, 0.2, 0.3),
            (0.4, 0.5, 0.6),
            (25, 51, 76),
        )
    assert mova.pool.card("biomedclip").input.mean != (0.1, 0.2, 0.3)


PEAK = """
import resource, sys
from pathlib import Path
import torch, transformers
from mova_core.model.release import expected
from mova_core.model.release.importing import ImportOptions, import_release
from transformers import AutoTokenizer, BertModel, LlamaForCausalLM
release, out, warm, profile = map(Path, sys.argv[1:])
import_release(warm, out.with_name("warm"), ImportOptions(profile=profile))  # what code and libraries take
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_release(release, out, ImportOptions(profile=profile))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_within_a_shard_and_a_tensor(
    own: Path, release: Path, profile: Path, tmp_path: Path
) -> None:
    state = weights(own)
    for file in own.glob("*.safetensors*"):
        file.unlink()
    # A language model of 240 MB in shards of 40 MB; everything else is small.
    layers = {k: v for k, v in state.items() if k.startswith("model.layers.0.")}
    wide, blocks = 40_000, 8
    names: dict[str, str] = {}
    for n in range(blocks):
        own_layer = {re.sub(r"layers\.0\.", f"layers.{n}.", k): v for k, v in layers.items()}
        for key in own_layer:
            if ".mlp." in key:
                shape = (64, wide) if "down" in key else (wide, 64)
                own_layer[key] = torch.full(shape, float(n))
        file = f"layer-{n}.safetensors"
        save_file(own_layer, own / file)
        names |= dict.fromkeys(own_layer, file)
    rest = {k: v for k, v in state.items() if not k.startswith("model.layers.")}
    save_file(rest, own / "rest.safetensors")
    names |= dict.fromkeys(rest, "rest.safetensors")
    (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    told = json.loads((own / "config.json").read_text())
    told |= {"intermediate_size": wide, "num_hidden_layers": blocks}
    (own / "config.json").write_text(json.dumps(told))
    shard = max(file.stat().st_size for file in own.glob("layer-*"))
    tensor = wide * 64 * 4
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(own), str(tmp_path / "out"), str(release), str(profile)],
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(run.stdout.splitlines()[-1]) * 1024
    assert grown <= shard + 2 * tensor
    assert grown < 0.5 * sum(file.stat().st_size for file in own.glob("layer-*"))
