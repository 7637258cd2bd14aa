"""mova-nano's encoders keep the expert contract, built with random weights and without anything fetched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import mova_nano
from mova_core.cards.discovery import discover
from mova_core.cards.resolve import import_factory
from mova_core.errors import ExpertLoadError
from mova_core.experts.loading import load_expert
from mova_core.experts.protocol import VisionExpert, check_features
from mova_nano import reader
from mova_nano.encoders import LiteStages

FOLDER = Path(mova_nano.__file__).parent
CARDS = {r.id: r.card for r in discover() if r.distribution == "mova-nano" and r.card is not None}
CPU = torch.device("cpu")


def picture(size: tuple[int, int], seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def build(id: str) -> VisionExpert:
    card = CARDS[id]
    expert = import_factory(card).from_config()
    return expert.bind(card).eval()


@pytest.mark.parametrize("id", sorted(CARDS))
@pytest.mark.parametrize("sizes", [[(123, 457)], [(640, 333), (50, 50), (333, 640)]])
@torch.no_grad()
def test_features_are_what_the_card_says_and_a_batch_equals_its_samples(
    id: str, sizes: list[tuple[int, int]]
) -> None:
    expert = build(id)
    images = [picture(size, seed) for seed, size in enumerate(sizes)]
    together = expert(expert.preprocess(images))
    check_features(together, CARDS[id].features, expert=id, images=len(images))
    alone = torch.cat([expert(expert.preprocess([image])).tokens for image in images])
    torch.testing.assert_close(together.tokens, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("id", sorted(CARDS))
def test_the_tiny_expert_has_the_stream_of_its_card(id: str) -> None:
    assert import_factory(CARDS[id]).from_config().stream == CARDS[id].input


@pytest.mark.parametrize("id", [id for id in sorted(CARDS) if id != "nano-text"])
def test_parameters_are_counted_rightly(id: str) -> None:
    assert sum(p.numel() for p in build(id).parameters()) == CARDS[id].parameters


@pytest.mark.parametrize("id", ["nano-chart", "nano-medical", "nano-objects", "nano-regions"])
def test_shipped_weights_load_strictly_in_the_dtype_asked_for(id: str) -> None:
    expert = load_expert(CARDS[id], device=CPU, dtype=torch.bfloat16, beside=FOLDER)
    assert next(expert.parameters()).dtype == torch.bfloat16


@torch.no_grad()
def test_the_stages_are_those_of_timm() -> None:
    full = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    stages = LiteStages(7).eval()
    own = stages.state_dict()
    stages.load_state_dict({key: value for key, value in full.state_dict().items() if key in own})
    pixels = torch.randn(1, 3, 64, 64)
    wanted = full.blocks(full.bn1(full.conv_stem(pixels)))
    torch.testing.assert_close(stages(pixels), wanted)


def test_frozen_stages_keep_their_statistics_in_training() -> None:
    stages = LiteStages(4, frozen=2).train()
    before = stages.bn1.running_mean.clone()
    moving = stages.blocks[3][0].bn1.running_mean.clone()
    stages(torch.randn(2, 3, 64, 64) * 3 + 1)
    assert torch.equal(stages.bn1.running_mean, before)
    assert not torch.equal(stages.blocks[3][0].bn1.running_mean, moving)


def test_the_reader_names_the_file_it_misses(tmp_path: Path) -> None:
    with pytest.raises(ExpertLoadError, match="det_infer.onnx.*mova models pull"):
        reader.NanoTextExpert.from_pretrained(str(tmp_path), dtype=torch.float32, device=CPU)


def test_the_reader_refuses_a_corrupt_model(tmp_path: Path) -> None:
    for part in ("det", "rec"):
        (tmp_path / f"ch_PP-OCRv4_{part}_infer.onnx").write_bytes(b"not a model")
    with pytest.raises(ExpertLoadError, match="no ONNX model"):
        reader.NanoTextExpert.from_pretrained(str(tmp_path), dtype=torch.float32, device=CPU)


def steps_for(text: str, classes: np.ndarray) -> np.ndarray:
    """Probabilities of a recogniser that is sure of `text`, with a blank after every letter."""
    letters = [0 if c == " " else reader.LETTERS.index(c) + 1 for c in text]
    rows = []
    for place, letter in enumerate(letters):
        rows.append(len(classes) - 1 if text[place] == " " else letter)
        rows.append(0)
    return np.eye(len(classes), dtype=np.float32)[rows]


CLASSES = np.array([-1, *range(len(reader.LETTERS)), -2])


def test_spelling_separates_words_and_keeps_double_letters() -> None:
    words = reader.spell(steps_for("coffee 12", CLASSES), CLASSES)
    spelled = ["".join(reader.LETTERS[i] for i in word.letters.argmax(1)) for word in words]
    assert spelled == ["coffee", "12"]
    assert words[0].span[1] <= words[1].span[0]


def test_the_code_tells_words_apart_and_has_the_cards_width() -> None:
    codes = []
    for text in ("bread", "break", "beard", "bred", "12", "21"):
        (word,) = reader.spell(steps_for(text, CLASSES), CLASSES)
        codes.append(reader.code(word, 0.1))
    assert all(code.shape == (CARDS["nano-text"].features.channels,) for code in codes)
    distances = torch.cdist(torch.stack(codes), torch.stack(codes)) + 10 * torch.eye(len(codes))
    assert distances.min() > 1


def test_a_tilted_line_is_found_along_its_own_direction_and_cut_straight() -> None:
    angle = 0.3
    y, x = np.mgrid[0:256, 0:256]
    u = (x - 128) * np.cos(angle) + (y - 128) * np.sin(angle)
    v = -(x - 128) * np.sin(angle) + (y - 128) * np.cos(angle)
    chart = ((np.abs(u) < 80) & (np.abs(v) < 8)).astype(np.float32)
    (line,) = reader.find_lines(chart)
    assert abs(line.angle - angle) < 0.02 and abs(line.centre[0] - 128) < 1
    cut = reader.cut_line(torch.from_numpy(chart)[None, None].expand(1, 3, -1, -1), line)
    middle = cut[0, 0, 24, cut.shape[3] // 6 : -cut.shape[3] // 6]
    assert cut.shape[2] == 48 and middle.min() > 0.99
