"""Checkpoint directories: what is saved comes back, and what is damaged or foreign is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mova_core.cards.warning import CardWarning
from mova_core.errors import CheckpointError, MovaError
from mova_core.fusion.pack_files import load_pack, save_pack
from mova_core.model import checkpoint as checkpoint_module
from mova_core.model.assistant import Mova
from mova_core.model.load import load
from mova_core.model.modeling import MovaForConditionalGeneration
from mova_core.training.config import TrainConfig
from mova_core.training.run import new_model

Damage = Callable[[Path], None]
PACK, CORE, LORA = "packs/tiny-red.safetensors", "core.safetensors", "answer/adapter_model.safetensors"


def contents(folder: Path) -> dict[str, Any]:
    """By path, what each file says: its bytes, or for weights names, bits and notes, whose order is free."""
    return {str(p.relative_to(folder)): _content(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _content(path: Path) -> Any:
    if path.suffix != ".safetensors" or not path.stat().st_size:
        return path.read_bytes()
    with safe_open(path, "pt") as file:
        bits = {name: file.get_tensor(name).flatten().view(torch.uint8).tolist() for name in file.keys()}  # noqa: SIM118
        return bits, file.metadata()


def model_of(folder: Path) -> MovaForConditionalGeneration:
    return MovaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def answer(folder: Path, picture: Any) -> tuple[str, Any]:
    found = load(folder, dtype=torch.float32).ask(
        picture(1), "Where is it?", experts=["tiny-red", "tiny-blue"], max_new_tokens=6
    )
    return found.text, found.images[0].gates


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_saved_model_comes_back_bit_for_bit(tiny: Path, tmp_path: Path, picture: Any) -> None:
    model = model_of(tiny)
    model.save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tiny)
    assert equal(state(model_of(tmp_path / "again")), state(model))
    assert answer(tmp_path / "again", picture) == answer(tiny, picture)


def test_saving_does_not_change_the_model(tiny_home: Path, tiny: Path, tmp_path: Path) -> None:
    from mova_tiny.build import recipe, stir

    model = new_model(TrainConfig.model_validate(recipe(tiny_home)))
    stir(model.adapter, 0.3)
    before = state(model)
    model.save_pretrained(tmp_path / "model")
    assert equal(state(model), before)


def test_no_path_of_this_machine_is_written(tiny_home: Path, tiny: Path, tmp_path: Path) -> None:
    model = model_of(tiny)
    for group in ("language_model", "text_encoder"):
        setattr(model.config, group, getattr(model.config, group) | {"source": f"inside:{group}"})
    model.save_pretrained(tmp_path / "whole")
    for path in (tmp_path / "whole").rglob("*.json"):
        assert str(tiny_home) not in path.read_text(), path


def test_saving_replaces_an_older_checkpoint_and_leaves_nothing_beside_it(
    tiny: Path, checkpoint: Path
) -> None:
    (checkpoint / "packs" / "stale.safetensors").write_bytes(b"")
    model_of(tiny).save_pretrained(checkpoint)
    assert contents(checkpoint) == contents(tiny)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_a_failed_save_leaves_the_older_checkpoint(
    tiny: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    model = model_of(tiny)
    monkeypatch.setattr(checkpoint_module, "save_pack", full)
    with pytest.raises(CheckpointError, match="cannot be written.*No space left"):
        model.save_pretrained(checkpoint)
    assert contents(checkpoint) == contents(tiny)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_a_place_that_cannot_be_written_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written; got .*file/model"):
        model_of(tiny).save_pretrained(tmp_path / "file" / "model")


def test_parts_inside_a_checkpoint_make_it_stand_alone(
    tiny: Path, tiny_home: Path, tmp_path: Path, picture: Any
) -> None:
    model = model_of(tiny)
    model.config.language_model |= {"source": "inside:language_model"}
    model.config.text_encoder |= {"source": "inside:text_encoder"}
    model.save_pretrained(tmp_path / "whole")
    for part, folder in (("language", "language_model"), ("text", "text_encoder")):
        assert equal(
            load_file(tiny_home / part / "model.safetensors"),
            load_file(tmp_path / "whole" / folder / "model.safetensors"),
        )
    moved = (tmp_path / "whole").rename(tmp_path / "moved")
    assert answer(moved, picture) == answer(tiny, picture)
    model_of(moved).save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(moved)


def cut(name: str) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def fill(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)  # type: ignore[return-value]


def lose_a_weight(name: str) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        tensors.pop(min(tensors))
        save_file(tensors, folder / name)

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut(CORE), "a weight file cannot be read; got .*core.safetensors"),
        (remove(CORE), "a weight file cannot be read; got .*core.safetensors"),
        (fill(CORE, "not tensors"), "a weight file cannot be read; got .*core.safetensors"),
        (lose_a_weight(CORE), "the adapter's core lacks 1 weight"),
        (cut(PACK), "a pack could not be read; got .*tiny-red.safetensors"),
        (remove(PACK), "a pack could not be read; got .*tiny-red.safetensors"),
        (lose_a_weight(PACK), "a safetensors file is not a pack; got .*tiny-red.safetensors"),
        (cut(LORA), "a weight file cannot be read; got .*adapter_model.safetensors"),
        (remove(LORA), "the checkpoint's core is not the one its config names"),
        (cut("router/adapter_model.safetensors"), "the router LoRA cannot be read"),
        (remove("router/adapter_model.safetensors"), "the router LoRA cannot be read"),
        (lose_a_weight("router/adapter_model.safetensors"), "the router LoRA cannot be read.* does not fit"),
        (remove("router/adapter_config.json"), "the router LoRA cannot be read.*no adapter_config.json"),
        (cut("answer/adapter_config.json"), "the answer LoRA cannot be read"),
        (cut("config.json"), "config.json cannot be read"),
        (fill("config.json", ""), "config.json cannot be read"),
        (fill("config.json", "[1, 2]"), "config.json cannot be read"),
        (fill("config.json", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")), "config.json"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, damage: Damage, said: str
) -> None:
    damage(checkpoint)
    monkeypatch.chdir(checkpoint.parent)  # long paths are cut short in messages
    assert re.search(said, refusal(Path("checkpoint")))


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("language_model", cut("model.safetensors")),
        ("language_model", remove("model.safetensors")),
        ("language_model", cut("config.json")),
        ("language_model", cut("tokenizer.json")),
        ("language_model", remove("tokenizer.json")),
        ("text_encoder", cut("model.safetensors")),
        ("text_encoder", cut("tokenizer.json")),
        ("text_encoder", fill("config.json", "{}")),
    ],
)
def test_a_damaged_part_inside_is_refused_in_one_line(
    tiny: Path, tmp_path: Path, part: str, damage: Damage
) -> None:
    model = model_of(tiny)
    for group in ("language_model", "text_encoder"):
        setattr(model.config, group, getattr(model.config, group) | {"source": f"inside:{group}"})
    model.save_pretrained(tmp_path / "whole")
    damage(tmp_path / "whole" / part)
    assert f"inside:{part}" in refusal(tmp_path / "whole")


@pytest.mark.parametrize("part", ["language_model", "text_encoder"])
def test_a_part_that_lacks_a_weight_is_never_filled_with_random_ones(
    tiny: Path, tmp_path: Path, part: str
) -> None:
    model = model_of(tiny)
    setattr(model.config, part, getattr(model.config, part) | {"source": f"inside:{part}"})
    model.save_pretrained(tmp_path / "whole")
    weights = tmp_path / "whole" / part / "model.safetensors"
    tensors = load_file(weights)
    lost = min(name for name in tensors if "layers.0" in name or "layer.0" in name)
    del tensors[lost]
    save_file(tensors, weights, {"format": "pt"})
    assert re.search(f"lacks weights; got .*{re.escape(lost.split('.', 1)[1])}", refusal(tmp_path / "whole"))


def test_a_part_that_is_not_there_is_named(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_encoder"]["source"] = f"file:{tmp_path / 'nowhere'}"
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert f"a part of the checkpoint is not on this machine; got file:{tmp_path / 'nowhere'}" in refusal(
        checkpoint
    )


def test_a_pack_trained_against_another_core_is_refused(checkpoint: Path) -> None:
    save_pack(load_pack(checkpoint / PACK), checkpoint / PACK, {"core": "f" * 32})
    line = refusal(checkpoint)
    assert "a pack was trained against another core; got tiny-red.safetensors for core ffffffffffff" in line
    assert "Train the pack for this model." in line


def test_a_core_with_packs_of_another_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / CORE)
    tensors["position"].view(-1)[0] += 1
    save_file(tensors, checkpoint / CORE)
    assert "the checkpoint's core is not the one its config names" in refusal(checkpoint)


def test_the_routing_lora_is_no_part_of_the_core(checkpoint: Path, tiny: Path, picture: Any) -> None:
    shutil.rmtree(checkpoint / "router")
    assert answer(checkpoint, picture) == answer(tiny, picture)


def test_a_checkpoint_whose_pool_is_not_installed_says_what_to_install(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # uninstalls mova-tiny
    line = refusal(tiny)
    for id in ("tiny-blue", "tiny-green", "tiny-red"):
        assert f"{id} is not installed" in line
    assert "pip install" in line


def test_a_disabled_expert_of_the_pool_is_named_with_its_status(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "tiny-green")
    line = refusal(tiny)
    assert "tiny-green is disabled" in line and "tiny-red" not in line


def test_an_expert_of_another_width_is_named(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["pool"][0]["channels"] = 7
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert "tiny-blue gives 5 channels, not 7" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("revision", "tiny-blue has weights .*; the checkpoint was trained with 0"),
        ("card_hash", "the card of tiny-blue is not the one the checkpoint was trained with"),
    ],
)
def test_an_expert_that_changed_since_training_is_said(checkpoint: Path, field: str, told: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["pool"][0][field] = "0"
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.warns(CardWarning, match=told):
        load(checkpoint)


def test_a_base_encoder_that_is_not_installed_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "tiny-base")
    with pytest.raises(MovaError, match="tiny-base is disabled"):
        load(tiny)


def test_an_expert_is_no_base_encoder(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["base"] = "tiny-red"
    config["fingerprint"] = ""
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(MovaError, match="no base encoder; got tiny-red"):
        load(checkpoint)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here; got .*folder with config.json"):
        MovaForConditionalGeneration.from_pretrained(tmp_path)


def test_the_order_of_packs_changes_nothing(tiny: Path, assistant: Mova, tmp_path: Path) -> None:
    assistant.model.config.pool.reverse()
    assistant.model.save_pretrained(tmp_path / "model")
    own, other = contents(tiny), contents(tmp_path / "model")
    del own["config.json"], other["config.json"]
    assert other == own
