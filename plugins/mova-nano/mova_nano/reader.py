"""The reader of print: PP-OCRv4's pretrained detector and recogniser, giving spelling features on a grid.

The detector marks text; each line is straightened and read by the recogniser, whose probabilities of letters
become a *soft spelling code*, laid on the cells that the word covers. What leaves the expert is this code,
never a string.

Notation for tensor shapes:
    b: images, n: 256 cells of the 16x16 grid, c: feature channels, h, w: input in pixels, t: steps of the
    recogniser, v: its characters
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mova_core.errors import ExpertLoadError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert
from mova_nano.encoders import GRID
from mova_nano.streams import nano_stream

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
FIRST, LAST = 5, 3
"""Letters counted from the start and from the end of a word that the code keeps."""
SLOTS = FIRST + LAST
MOST_LETTERS = 14
CHANNELS = SLOTS * (len(LETTERS) + 1) + MOST_LETTERS + 2
"""Eight slots of one-hot letters ("+ 1": any other character), length, height, whether there is text."""

SURE, MEAN_SURE, GROW, SMALLEST = 0.3, 0.5, 1.6, 24
"""Detector: pixel threshold, mean of a line, growth of its shrunken regions, and the least area in pixels."""
LINE_HEIGHT, MOST_LINES, LONGEST_LINE = 48, 40, 960
"""Recogniser: height it reads, lines of one image and the longest line in pixels that are read."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text found in an image.

    Args:
        centre: (x, y) in pixels.
        size: (along, across) in pixels.
        angle: of its direction to the x axis, in radians, clockwise.
    """

    centre: tuple[float, float]
    size: tuple[float, float]
    angle: float


@dataclass(frozen=True, slots=True)
class Word:
    """A word as the recogniser's probabilities.

    Args:
        letters: [length, letters + 1], probabilities of `LETTERS` and of any other character.
        span: (start, end) along its line, 0 to 1.
    """

    letters: NDArray[np.float32]
    span: tuple[float, float]


class NanoTextExpert(VisionExpert):
    """Reads print through onnxruntime, on the CPU; the features move to the device asked for.

    Args:
        detector, recogniser: ONNX models as bytes; None reads nothing, for tests.
        size: side of the input in pixels.
    """

    _like: Tensor

    def __init__(
        self, detector: bytes | None = None, recogniser: bytes | None = None, size: int = 512
    ) -> None:
        super().__init__()
        self.stream = nano_stream(size)
        self._detector = _session(detector) if detector else None
        self._recogniser = _session(recogniser) if recogniser else None
        self._classes = _classes(self._recogniser) if self._recogniser else np.zeros(0, dtype=np.int64)
        self.register_buffer("_like", torch.zeros(()), persistent=False)  # follows .to(device, dtype)

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Reads the two ONNX files of PP-OCRv4.

        Args:
            source: folder with `ch_PP-OCRv4_det_infer.onnx` and `ch_PP-OCRv4_rec_infer.onnx`.
            dtype: of the features; the networks compute in float32.
            device: of the features.

        Raises:
            ExpertLoadError: if a file is missing or is no model, or onnxruntime is not installed.
        """
        files = [Path(source) / f"ch_PP-OCRv4_{part}_infer.onnx" for part in ("det", "rec")]
        for file in files:
            if not file.is_file():
                raise ExpertLoadError(
                    "a file of the text reader is missing",
                    value=str(file),
                    expected="an ONNX model",
                    hint="Run `mova models pull mova-nano`.",
                )
        return cls(files[0].read_bytes(), files[1].read_bytes()).to(device, dtype)

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """A reader without networks: it finds no text. `size` may be given."""
        return cls(None, None, **tiny)  # type: ignore[arg-type]

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, h, w] in [-1, 1] -> [b, n, c]."""
        images = stream.detach().float().cpu()
        tokens = torch.stack([self._read(image) for image in images])
        return ExpertFeatures(tokens.to(self._like), (GRID, GRID))

    def _read(self, image: Tensor) -> Tensor:
        """Features [n, c] of one image [3, h, w]."""
        features = torch.zeros(GRID, GRID, CHANNELS)
        if self._detector is None or self._recogniser is None:
            return features.reshape(GRID * GRID, CHANNELS)
        bgr = image.flip(0)[None].contiguous()  # [1, 3, h, w], colours as the networks were trained with
        chart = _first_output(self._detector, bgr.numpy())[0, 0]  # [h, w]
        for line in find_lines(chart):
            steps = _first_output(self._recogniser, cut_line(bgr, line))[0]  # [t, v]
            for word in spell(steps, self._classes):
                _lay(features, word, line, image.shape[2])
        return features.reshape(GRID * GRID, CHANNELS)


def find_lines(chart: NDArray[np.float32]) -> list[Line]:
    """Lines of text in a detector's map [h, w], from top to bottom.

    Each connected region becomes a box along its main axis, grown because the detector marks shrunken text.
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    regions, count = ndimage.label(ndimage.binary_dilation(chart > SURE, iterations=1))
    lines = []
    for number, window in enumerate(ndimage.find_objects(regions, count), start=1):
        inside = regions[window] == number
        if inside.sum() < SMALLEST or chart[window][inside].mean() < MEAN_SURE:
            continue
        rows, columns = np.nonzero(inside)
        x, y = columns + window[1].start, rows + window[0].start
        lines.append(_box(x.astype(np.float64), y.astype(np.float64)))
    return sorted(lines, key=lambda line: (line.centre[1], line.centre[0]))[:MOST_LINES]


def _box(x: NDArray[np.float64], y: NDArray[np.float64]) -> Line:
    spread = np.cov(x, y)
    angle = 0.5 * math.atan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1])
    if np.ptp(x) < 1.5 * np.ptp(y) or abs(angle) > math.pi / 4:
        angle = 0.0  # too square to have a direction, or upright: read it as it stands
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    length, height = float(np.ptp(along)) + 1, float(np.ptp(across)) + 1
    grown = length * height * GROW / (2 * (length + height))
    u, v = (along.max() + along.min()) / 2, (across.max() + across.min()) / 2
    centre = (u * math.cos(angle) - v * math.sin(angle), u * math.sin(angle) + v * math.cos(angle))
    return Line(centre, (length + 2 * grown, height + 2 * grown), angle)


def cut_line(image: Tensor, line: Line) -> NDArray[np.float32]:
    """The line, straightened and scaled to the recogniser's height: [1, 3, h, w] -> [1, 3, 48, w]."""
    along, across = line.size
    width = min(LONGEST_LINE, max(LINE_HEIGHT, round(along / across * LINE_HEIGHT / 8) * 8))
    u = (torch.arange(width) + 0.5) / width - 0.5
    v = (torch.arange(LINE_HEIGHT) + 0.5) / LINE_HEIGHT - 0.5
    du, dv = u[None, :] * along, v[:, None] * across
    x = line.centre[0] + du * math.cos(line.angle) - dv * math.sin(line.angle)
    y = line.centre[1] + du * math.sin(line.angle) + dv * math.cos(line.angle)
    side = torch.tensor([image.shape[3], image.shape[2]])
    grid = 2 * (torch.stack([x, y], dim=2) + 0.5) / side - 1  # [48, w, 2]
    cut: NDArray[np.float32] = F.grid_sample(
        image, grid[None], padding_mode="border", align_corners=False
    ).numpy()
    return cut


def spell(steps: NDArray[np.float32], classes: NDArray[np.int64]) -> list[Word]:
    """Words of a line from the recogniser's probabilities [t, v], by greedy CTC.

    Args:
        steps: probabilities; character 0 is the blank.
        classes: for every character its place in `LETTERS`, len(LETTERS) for another, -1 for blank, -2 for a
            space.
    """
    best = steps.argmax(1)
    words: list[Word] = []
    letters: list[NDArray[np.float32]] = []
    places: list[int] = []

    def close() -> None:
        if letters:
            span = (places[0] / len(steps), (places[-1] + 1) / len(steps))
            words.append(Word(np.stack(letters), span))
            letters.clear()
            places.clear()

    for t, character in enumerate(best):
        kind = classes[character]
        if kind == -2:
            close()
        elif kind >= 0 and (t == 0 or best[t - 1] != character):
            known = classes >= 0
            letters.append(np.bincount(classes[known], steps[t][known], len(LETTERS) + 1).astype(np.float32))
            places.append(t)
    close()
    return words


def code(word: Word, height: float) -> Tensor:
    """The soft spelling code [c] of a word.

    Args:
        word: its letters.
        height: of its line, as a share of the image's side.
    """
    count = len(word.letters)
    slots = np.zeros((SLOTS, len(LETTERS) + 1), dtype=np.float32)
    slots[: min(FIRST, count)] = word.letters[:FIRST]
    tail = word.letters[-LAST:]
    slots[SLOTS - len(tail) :] = tail
    length = np.zeros(MOST_LETTERS, dtype=np.float32)
    length[min(count, MOST_LETTERS) - 1] = 1.0
    return torch.from_numpy(
        np.concatenate([slots.reshape(-1), length, [10 * height, 1.0]]).astype(np.float32)
    )


def _lay(features: Tensor, word: Word, line: Line, side: int) -> None:
    """Puts a word's code on the cells along its part of the line; of two words on a cell the later stays."""
    cell = side / GRID
    spelled = code(word, line.size[1] / side)
    start, end = (line.size[0] * (share - 0.5) for share in word.span)
    for u in np.linspace(start, end, max(2, math.ceil((end - start) / cell * 2))):
        column = int((line.centre[0] + u * math.cos(line.angle)) / cell)
        row = int((line.centre[1] + u * math.sin(line.angle)) / cell)
        if 0 <= row < GRID and 0 <= column < GRID:
            features[row, column] = spelled


def _first_output(session: Any, given: NDArray[np.float32]) -> NDArray[np.float32]:
    output: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: given})[0]
    return output


def _session(model: bytes) -> Any:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise ExpertLoadError(
            "the text reader needs onnxruntime", hint="Run `pip install onnxruntime`."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise ExpertLoadError(
            "a file of the text reader is no ONNX model",
            expected=str(error).splitlines()[0],
            hint="Run `mova models pull mova-nano`.",
        ) from error


def _classes(recogniser: Any) -> NDArray[np.int64]:
    """For every character of the recogniser what `spell` makes of it; the list is part of the model file."""
    listed: Sequence[str] = recogniser.get_modelmeta().custom_metadata_map["character"].splitlines()
    kinds = [-1, *(_kind(character) for character in listed), -2]
    return np.array(kinds, dtype=np.int64)


def _kind(character: str) -> int:
    found = LETTERS.find(character.lower()) if len(character) == 1 else -1
    return found if found >= 0 else len(LETTERS)
