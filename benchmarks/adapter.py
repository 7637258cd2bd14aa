"""The adapter for one question: the routing pass, the fusing pass, and both with the question read once.

Text encoder, routing pass (no expert) and fusing pass (three) are timed by themselves, in one round after the
other; what takes several of them is their sum in each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.measure import Race, matmul, race, rate
from benchmarks.models import (
    Arithmetic,
    base_tokens,
    build_adapter,
    build_text_encoder,
    features,
    mask,
    positioned,
    question,
)
from benchmarks.reference import PlainAdapter
from benchmarks.results import Result, Row
from benchmarks.sizes import Sizes

CALIBRATION = 2.91 / 1.76
"""Time by limit of the released adapter, where it was measured: float32, no expert, BERT-large included."""


def adapter(sizes: Sizes) -> Iterator[Row]:
    """In float32: without an expert, with three, and both passes of a question; calibrates the reference."""
    timed = race(_contenders(sizes, torch.float32), rounds=sizes.rounds, warm_up=sizes.rounds > 1)
    counted = Arithmetic(sizes)
    speed = rate(timed.median("matmul"))
    text, route, fuse = counted.text_encoder(), counted.adapter(()), counted.adapter(sizes.three)
    limit = {"none": (text + route) / speed, "three": (text + fuse) / speed}
    both = (text + route + fuse) / speed
    plain = timed.median("text", "plain none")
    yield Row(
        Result(
            "reference, no expert, float32",
            1.0,
            plain / limit["none"],
            plain,
            timed.peak("text", "plain none"),
        ),
        note=f"calibration: 'of limit' of the released adapter was {CALIBRATION:.2f}, "
        f"to lie within {0.9 * CALIBRATION:.2f}-{1.1 * CALIBRATION:.2f}; "
        f"matmul {speed / 1e9:.0f} GFLOP/s, {(text + route) / 1e9:.0f} GFLOP",
    )
    yield _row(
        "adapter, no expert, float32", timed, ["text", "none"], ["text", "plain none"], limit["none"], 1.3
    )
    yield _row(
        "adapter, three experts, float32",
        timed,
        ["text", "three"],
        ["text", "plain three"],
        limit["three"],
        1.45,
    )
    reference = ["text", "plain none", "text again", "plain three"]
    yield _row("adapter, both passes, float32", timed, ["text", "none", "three"], reference, both, 1.5)


def bfloat16(sizes: Sizes) -> Iterator[Row]:
    """In bfloat16, without an expert; once, because CPUs without units for it are slow."""
    if not sizes.bfloat16:
        return
    contenders = _contenders(sizes, torch.bfloat16)
    kept = {name: contenders[name] for name in ("matmul", "text", "none", "plain none")}
    timed = race(kept, rounds=1, warm_up=False)
    counted = Arithmetic(sizes)
    limit = (counted.text_encoder() + counted.adapter(())) / rate(timed.median("matmul"))
    yield _row("adapter, no expert, bfloat16", timed, ["text", "none"], ["text", "plain none"], limit, 1.15)


def _contenders(sizes: Sizes, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    ours = build_adapter(sizes).to(dtype)
    text_encoder = build_text_encoder(sizes).to(dtype)
    plain = PlainAdapter(ours, tuple(sizes.experts))
    base, asked = base_tokens(sizes, 1).to(dtype), question(sizes)
    text = torch.randn(1, sizes.width, dtype=dtype)
    three = features(sizes, sizes.three)
    no, some = mask(sizes, [()]), mask(sizes, [sizes.three])
    return {
        "matmul": matmul(dtype),
        "text": lambda: text_encoder(**asked),
        "none": lambda: ours(base, {}, text),
        "plain none": lambda: plain(base, positioned(sizes, {}), no, text),
        "text again": lambda: text_encoder(**asked),
        "three": lambda: ours(base, three, text),
        "plain three": lambda: plain(base, positioned(sizes, three), some, text),
    }


def _row(name: str, timed: Race, own: list[str], reference: list[str], limit: float, target: float) -> Row:
    seconds = timed.median(*own)
    result = Result(name, timed.median(*reference) / seconds, seconds / limit, seconds, timed.peak(*own))
    return Row(result, (target, None))
