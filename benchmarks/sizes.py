"""What the benchmarks build: sizes, experts and routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Grid = tuple[int, int]

PAPER: Mapping[str, tuple[int, Grid]] = {
    "dinov2": (1536, (37, 37)),
    "vary": (512, (32, 32)),
    "codetr": (256, (80, 80)),
    "pix2struct": (1536, (45, 45)),
    "deplot": (768, (45, 45)),
    "biomedclip": (768, (14, 14)),
    "sam": (256, (64, 64)),
}
"""The paper's seven experts, in the release's order: channels and grid of their features."""

ROUTES: tuple[tuple[str, ...], ...] = (
    ("dinov2",),
    ("codetr", "pix2struct"),
    (),
    ("dinov2", "sam"),
    ("vary",),
    ("codetr", "pix2struct", "deplot"),
    ("sam",),
    ("deplot", "biomedclip"),
)
"""Routes of a batch: none to three experts, 1.5 on average, in the first two as in all eight."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of everything that is timed.

    Args:
        width: width of the adapter and of the text encoder.
        heads: attention heads of both.
        grid: the base grid.
        depth: blocks of the adapter.
        text_layers: layers of the text encoder.
        out: width of the language model.
        question: tokens of a question.
        experts: channels and grid by id.
        three: the experts of the case with three.
        batch: samples of the batch.
        reference_batch: samples the reference gets at a time, in the same case; its time is taken per sample.
        routing_layers: layers of the routing language model.
        routing_width: its width.
        routing_tokens: routing tokens of an image.
        rounds: rounds of the adapter's cases, over which medians are taken; a warm-up precedes several.
        routing_rounds: rounds of the routing cases, after a warm-up.
        processes: rounds of the commands, after a warm-up.
        cards: cards in the large pool.
        asked: questions of `mova ask --batch`; none leaves the case out.
        bfloat16: whether that dtype is timed, too.
    """

    width: int = 1024
    heads: int = 16
    grid: Grid = (48, 48)
    depth: int = 3
    text_layers: int = 24
    out: int = 4096
    question: int = 32
    experts: Mapping[str, tuple[int, Grid]] = field(default_factory=lambda: PAPER)
    three: tuple[str, ...] = ("dinov2", "pix2struct", "sam")
    batch: int = 8
    reference_batch: int = 2
    routing_layers: int = 30
    routing_width: int = 576
    routing_tokens: int = 144
    rounds: int = 3
    routing_rounds: int = 5
    processes: int = 9
    cards: int = 1000
    asked: int = 16
    bfloat16: bool = True

    def __str__(self) -> str:
        return (
            f"width {self.width}, {self.heads} heads, {self.grid[0]}x{self.grid[1]} grid, "
            f"{self.depth} blocks, text encoder of {self.text_layers} layers, language model {self.out} wide"
        )


FULL = Sizes()
QUICK = Sizes(
    depth=1, text_layers=4, batch=2, routing_layers=8, rounds=1, routing_rounds=2, processes=3, asked=0,
    bfloat16=False,
)  # fmt: skip
"""As full size where a single operation is concerned, with fewer of them."""
