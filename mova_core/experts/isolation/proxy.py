"""An expert that runs elsewhere, and looks to the pool like any other.

Notation for tensor shapes:
    b: pictures, h, w: stream in pixels, n: tokens of the feature grid, c: feature channels
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from mova_core.cards.card import ExpertCard
from mova_core.cards.environments import (
    environment_folder,
    environment_problem,
    how_to_make,
    interpreter,
)
from mova_core.errors import ExpertLoadError
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.isolation.messages import Encode, Load, Prepare
from mova_core.experts.isolation.patience import Patience
from mova_core.experts.isolation.process import WorkerProcess
from mova_core.experts.isolation.shared import dtype_name, share
from mova_core.experts.protocol import VisionExpert


class IsolatedExpert(VisionExpert):
    """The expert of a card, in a process of its own that the interpreter of its environment runs.

    A stream is copied once on its way there, and tokens once on their way back; what `forward` gives lies in
    memory shared with nobody any more. It has no parameters here; `nbytes` is what the process reports.

    The process ends when nobody holds this object any more, as when the pool evicts it. One that has crashed
    is started again for the next request.

    Args:
        card: of the expert.
        request: what the process is told to build.
        patience: how long its answers may take.

    Raises:
        ExpertLoadError: the environment is not there, or the expert cannot be built in it.
    """

    def __init__(self, card: ExpertCard, request: Load, patience: Patience) -> None:
        super().__init__()
        self.bind(card)
        self._request = request
        self._patience = patience
        self._lock = Lock()
        self._start()

    @classmethod
    def start(
        cls,
        card: ExpertCard,
        source: str,
        *,
        dtype: torch.dtype,
        device: torch.device,
        patience: Patience | None = None,
    ) -> Self:
        """Start the process of a card's expert.

        Args:
            card: of an expert with isolation "process".
            source: the file or folder of its weights; "" for none.
            dtype: of its parameters.
            device: where the process puts them.
            patience: how long answers may take; None as the environment variable MOVA_WORKER_TIMEOUT says.

        Raises:
            ExpertLoadError: the environment is not there, or the expert cannot be built in it.
            ConfigError: MOVA_WORKER_TIMEOUT is no number.
        """
        request = Load(
            card=card.model_dump(mode="json", exclude_defaults=True),
            source=source,
            dtype=dtype_name(dtype),
            device=str(device),
            threads=torch.get_num_threads(),
        )
        return cls(card, request, patience or Patience.from_environment())

    @classmethod
    def from_pretrained(cls, source: str, *, dtype: torch.dtype, device: torch.device) -> Self:
        """Refused: a process is started for a card, by `start`."""
        raise _no_card()

    @classmethod
    def from_config(cls, **tiny: object) -> Self:
        """Refused: a process is started for a card, by `start`."""
        raise _no_card()

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters and buffers in the expert's process."""
        return self._loaded.nbytes

    @property
    def pid(self) -> int:
        """Id of the expert's process."""
        return self._worker.pid

    @property
    def prepared_by(self) -> object:
        """Itself, if its class has a `preprocess` of its own; then nobody shares its streams."""
        return self if self._loaded.prepares else VisionExpert.preprocess

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Prepare pictures here, as the card's stream says; there, if the expert's class does it itself."""
        if not self._loaded.prepares or not images:
            return super().preprocess(images)
        pixels = bytearray(b"".join(image.tobytes() for image in images))
        header, segment = share(torch.frombuffer(pixels, dtype=torch.uint8))
        try:
            _, stream = self._running().prepare(
                Prepare(pixels=header, sizes=tuple(i.size for i in images)), segment
            )
        finally:
            os.close(segment)
        return stream

    def forward(self, stream: Tensor) -> ExpertFeatures:
        """[b, 3, h, w] -> features [b, n, c], on the device of the stream."""
        header, segment = share(stream)
        try:
            answer, tokens = self._running().encode(Encode(stream=header), segment)
        finally:
            os.close(segment)
        return ExpertFeatures(tokens.to(stream.device), answer.grid)  # [b, n, c]

    def close(self) -> None:
        """End the process now; the next request would start it again."""
        self._worker.close()

    def _running(self) -> WorkerProcess:
        with self._lock:
            if self._worker.ended:
                self._start()
            return self._worker

    def _start(self) -> None:
        python = _python(self.card)
        worker = WorkerProcess(python, self.card.id, self._patience)
        try:
            self._loaded = worker.load(self._request)
        except BaseException:
            worker.close()
            raise
        self._worker = worker


def _python(card: ExpertCard) -> Path:
    problem = environment_problem(card)
    if problem:
        raise ExpertLoadError(
            f"the card asks for a process of its own, and the expert {problem}",
            value=str(environment_folder(card)),
            hint=f"Run `{how_to_make(card)}`.",
        )
    return interpreter(environment_folder(card))


def _no_card() -> ExpertLoadError:
    return ExpertLoadError(
        "an expert in a process of its own is started for a card",
        expected="IsolatedExpert.start(card, source, dtype=..., device=...)",
    )
