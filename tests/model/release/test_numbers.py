"""The small release, imported, against numbers recorded from the released code.

Notation for tensor shapes:
    n: tokens, c: channels, d: width of the language model, v: vocabulary
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mova_core.model.assistant import Mova
from mova_core.model.load import load
from mova_core.model.processing import Turn
from mova_core.model.routers import free_router, listwise_router
from mova_core.routing.route import Route

DATA = Path(__file__).parents[2] / "parity" / "data"
TOLERANCE = 2e-5
IMAGE = -200
EXPERTS = ("dinov2", "vary", "codetr", "pix2struct", "deplot", "biomedclip", "sam")
RELEASED_ROUTES = {
    "none": (),
    "dino_p2s": ("dinov2", "pix2struct"),
    "vary_codetr_sam": ("vary", "codetr", "sam"),
    "deplot_biomed": ("deplot", "biomedclip"),
    "all": EXPERTS,
}


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(DATA / "h_e2e_io.safetensors")


@pytest.fixture(scope="module")
def mova(imported: Path) -> Mova:
    return load(imported, dtype=torch.float32)


def picture(kind: str, width: int, height: int) -> Image.Image:
    """The pictures of the recording, made by formula."""
    x, y = np.meshgrid(np.arange(width, dtype=np.int64), np.arange(height, dtype=np.int64))
    if kind == "gradient":
        bands = (
            x * 255 // max(width - 1, 1),
            y * 255 // max(height - 1, 1),
            (x + y) * 255 // max(width + height - 2, 1),
        )
    elif kind == "checker":
        c = (x // 13 + y // 7) % 2 * 255
        bands = (c, 255 - c, (x * 3 + y * 5) % 256)
    else:
        v = (x * 374761393 + y * 668265263) & 0xFFFFFFFF
        v = ((v ^ (v >> 13)) * 1274126177) & 0xFFFFFFFF
        v ^= v >> 16
        bands = (v & 255, (v >> 8) & 255, (v >> 16) & 255)
    return Image.fromarray(np.stack(bands, axis=2).astype(np.uint8))


def close(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=tolerance)


def spread(ids: list[int], tokens: int, mark: int) -> list[int]:
    """Recorded ids with a mark for every image token in place of one for the image."""
    return [token for id in ids for token in ([mark] * tokens if id == IMAGE else [id])]


def seen(mova: Mova, image: Image.Image, question: str) -> tuple[Tensor, Tensor]:
    """Base features [1, n, c] and text feature [1, t]."""
    text = mova.processor.question_tokens([[question]])
    base = mova.pool.encode_all([image], "clip").tokens
    return base, mova.model.encode_text(text["input_ids"], text["attention_mask"])


def last_logits(mova: Mova, ids: list[int], tokens: Tensor) -> Tensor:
    """Logits [v] after a prompt in which image tokens [m, d] stand."""
    row = torch.tensor([spread(ids, len(tokens), int(mova.model.config.image_token_id))])
    embeds = mova.model.embed(row, tokens[None])
    return mova.model.language_model(inputs_embeds=embeds).logits[0, -1].float()


RECORDED = [
    ("img0", "q0", "none"),
    ("img0", "q0", "dino_p2s"),
    ("img0", "q0", "vary_codetr_sam"),
    ("img0", "q0", "deplot_biomed"),
    ("img0", "q0", "all"),
    ("img1", "q0", "dino_p2s"),
    ("img1", "q0", "none"),
    ("img1", "q1", "dino_p2s"),
    ("img1", "q1", "none"),
    ("img2", "q0", "dino_p2s"),
    ("img2", "q0", "none"),
]


@pytest.mark.parametrize("id", EXPERTS)
def test_towers(mova: Mova, numbers: dict[str, Tensor], story: dict[str, Any], id: str) -> None:
    image = picture(*story["images"][0])
    key = "img0.tower.all." + ("dinov2_aligned" if id == "dinov2" else id)
    close(mova.pool.encode_all([image], id).tokens, numbers[key])


@pytest.mark.parametrize(("image", "question", "route"), RECORDED)
@torch.no_grad()
def test_both_passes(
    mova: Mova, numbers: dict[str, Tensor], story: dict[str, Any], image: str, question: str, route: str
) -> None:
    shown = picture(*story["images"][int(image[-1])])
    asked = story["questions"][int(question[-1])]
    ids = story["results"]["ids"][question]
    base, text = seen(mova, shown, asked)
    routing = mova.model.routing_tokens(base, text)[0]
    close(routing, numbers[f"{image}.{question}.routing_image_tokens"])
    close(last_logits(mova, ids["routing"], routing), numbers[f"{image}.{question}.routing_first_logits"])
    encoded = mova.pool.encode([shown], [Route(RELEASED_ROUTES[route])])
    fused = mova.model.fuse(base, encoded, text).tokens
    close(fused, numbers[f"{image}.{question}.{route}.projected"])
    logits = last_logits(mova, ids["answering"], fused[0])
    close(logits, numbers[f"{image}.{question}.{route}.answer_first_logits"])


@torch.no_grad()
def test_a_batch_of_two(mova: Mova, numbers: dict[str, Tensor], story: dict[str, Any]) -> None:
    """One row answers with two experts, the other, shorter one routes: its tokens are pooled."""
    ids = story["results"]["ids"]
    images = [picture(*story["images"][row]) for row in (0, 1)]
    text = mova.processor.question_tokens([[story["questions"][row]] for row in (0, 1)])
    feature = mova.model.encode_text(text["input_ids"], text["attention_mask"])
    base = mova.pool.encode_all(images, "clip").tokens
    encoded = mova.pool.encode(images, [Route(RELEASED_ROUTES["dino_p2s"]), Route(())])
    tokens = mova.model.fuse(base, encoded, feature).tokens
    routing = mova.model.routing_tokens(base, feature)
    mark = int(mova.model.config.image_token_id)
    rows = [
        spread(ids["q0"]["answering"], tokens.shape[1], mark),
        spread(ids["q1"]["answering"], routing.shape[1], mark),
    ]
    batch = mova.processor.tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    mixed = torch.cat([tokens[0], routing[1]])[None]  # [1, m + n, d]
    embeds = mova.model.embed(batch["input_ids"], mixed)
    mask = batch["attention_mask"]
    places = (mask.cumsum(1) - 1).clamp_min(0)
    logits = mova.model.language_model(inputs_embeds=embeds, attention_mask=mask, position_ids=places).logits
    for row in (0, 1):
        close(logits[row, -1], numbers[f"batch2.last_logits_row{row}"])


@pytest.mark.parametrize("question", ["q0", "q1"])
def test_conversations_are_spelled_as_in_the_release(
    mova: Mova, story: dict[str, Any], question: str
) -> None:
    ids, asked = story["results"]["ids"][question], story["questions"][int(question[-1])]
    image = picture(*story["images"][2])
    mark = int(mova.model.config.image_token_id)
    written = mova.processor.tokens([mova.processor.write([Turn(asked, (image,))])])["input_ids"][0]
    assert written.tolist() == spread(ids["answering"], mova.processor.image_tokens, mark)
    router = listwise_router(mova.model, mova.processor)
    language = router.language
    told = [router.descriptions[id] for id in router.order]
    head, rest = language.opening(router.prompt.head(told)), language.encode(router.prompt.ask(asked, told))
    assert [*head, IMAGE, *rest] == ids["routing"]


def test_released_routing_is_read_as_the_release_reads_it(mova: Mova, story: dict[str, Any]) -> None:
    for key in ("img0.q0", "img1.q0", "img1.q1", "img2.q0"):
        recorded = story["results"][f"{key}.none"]["routing_parsed"]
        image, question = key.split(".")
        shown = picture(*story["images"][int(image[-1])])
        asked = story["questions"][int(question[-1])]
        route = mova.route(shown, asked, router=free_router(mova.model, mova.processor))
        assert route.experts == tuple(id for id, on in zip(EXPERTS, recorded, strict=True) if on)


def test_routes_are_legal_by_default(mova: Mova, story: dict[str, Any]) -> None:
    route = mova.route(picture(*story["images"][1]), story["questions"][1])
    assert route.router == "listwise"
    assert len(route.experts) <= 3
    assert set(route.probabilities) == set(EXPERTS)


@pytest.fixture(scope="module")
def rough(imported: Path) -> Mova:
    """All of it in bfloat16."""
    mova = load(imported, dtype=torch.bfloat16)
    mova.model.adapter.to(torch.bfloat16)
    mova.model.text_encoder.to(torch.bfloat16)
    return mova


@pytest.mark.parametrize("route", RELEASED_ROUTES)
@torch.no_grad()
def test_bfloat16_is_near(
    mova: Mova, rough: Mova, numbers: dict[str, Tensor], story: dict[str, Any], route: str
) -> None:
    shown, asked = picture(*story["images"][0]), story["questions"][0]
    logits = []
    for each in (mova, rough):
        base, text = seen(each, shown, asked)
        encoded = each.pool.encode([shown], [Route(RELEASED_ROUTES[route])])
        fused = each.model.fuse(base, encoded, text).tokens
        logits.append(last_logits(each, story["results"]["ids"]["q0"]["answering"], fused[0]))
    close(logits[1], logits[0], 0.1)
    close(logits[1], numbers[f"img0.q0.{route}.answer_first_logits"], 0.1)


def test_it_answers(mova: Mova, story: dict[str, Any]) -> None:
    answer = mova.ask(picture(*story["images"][0]), story["questions"][0], max_new_tokens=4)
    assert answer.route.router == "listwise"
    forced = mova.ask(picture(*story["images"][0]), story["questions"][0], experts=["sam", "vary"])
    assert set(forced.images[0].gates) == {"sam", "vary"}
