"""`config.json`: what is wrong with it is said with the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mova_core.errors import CheckpointError
from mova_core.model.config import MovaConfig
from mova_core.model.load import load
from mova_core.model.settings import AdapterSettings, PoolEntry

MISSING = object()


def change(folder: Path, path: tuple[str | int, ...], value: object) -> None:
    """Sets one value of config.json, or takes it out."""
    config = json.loads((folder / "config.json").read_text())
    place: Any = config
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("adapter", "width"), 0, "config.json: adapter.width: "),
        (("adapter", "grid"), [4], "config.json: adapter.grid"),
        (("adapter", "routing_grid"), MISSING, "config.json: adapter.routing_grid: Field required"),
        (("adapter", "heds"), 2, "config.json: adapter.heds: "),
        (("text_encoder", "source"), MISSING, "config.json: text_encoder.source: Field required"),
        (("text_encoder", "pooling"), "max", "config.json: text_encoder.pooling: "),
        (("language_model",), {}, "config.json: language_model.source: Field required"),
        (("prompt", "stop"), 3, "config.json: prompt.stop: "),
        (("router", "kind"), "oracle", "config.json: router.kind: "),
        (("router", "temperature"), 0, "config.json: router.temperature: "),
        (("pool", 1, "channels"), "many", r"config.json: pool\[1\].channels: "),
        (("pool", 0, "id"), "Tiny Blue", r"config.json: pool\[0\].id: "),
        (("image_token_id",), MISSING, "config.json: image_token_id: "),
        (("image_token_id",), "<image>", "config.json: image_token_id: "),
        (("pool",), None, "config.json cannot be read"),
        (("adapter",), [1], "config.json cannot be read"),
    ],
)
def test_an_error_names_the_key(
    checkpoint: Path, path: tuple[str | int, ...], value: object, said: str
) -> None:
    change(checkpoint, path, value)
    with pytest.raises(CheckpointError, match=said) as caught:
        load(checkpoint)
    assert "\n" not in str(caught.value)


def test_it_reads_what_it_writes(tmp_path: Path) -> None:
    config = MovaConfig(
        base="tiny-base",
        adapter=AdapterSettings(width=8, heads=1, grid=(5, 4), routing_grid=(1, 1)),
        text_encoder={"source": "hf:a/b", "width": 3},
        language_model={"source": "inside:x", "width": 4},
        pool=[PoolEntry(id="toy", channels=2, card_hash="00", revision="r1")],
        image_token_id=77,
        fingerprint="ff",
    )
    config.save_pretrained(tmp_path)
    again = MovaConfig.from_json_file(str(tmp_path / "config.json"))
    assert again.to_dict() == config.to_dict()
    assert again.adapter_settings.grid == (5, 4)
    assert again.manifest[0].channels == 2
    assert again.prompt_settings.stop == "<|im_end|>"


@pytest.mark.parametrize(("grid", "tokens"), [((4, 4), 4), ((5, 4), 4), ((24, 24), 144), ((1, 6), 3)])
def test_an_image_takes_a_quarter_of_the_base_grid(grid: tuple[int, int], tokens: int) -> None:
    config = MovaConfig(adapter={"width": 8, "heads": 1, "grid": grid, "routing_grid": (1, 1)})
    assert config.image_tokens == tokens
