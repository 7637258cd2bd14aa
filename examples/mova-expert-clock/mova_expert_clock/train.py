"""Teaches the encoder to read clocks: `python -m mova_expert_clock.train weights.safetensors`.

Notation for tensor shapes:
    b: pictures
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mova_core.experts.streams import stream_tensor
from mova_expert_clock.encoder import STRIDE, ClockEncoder, ClockReader
from mova_expert_clock.expert import SIDE, clock_stream
from mova_expert_clock.faces import STEP, draw_face

CHANNELS = 64


class Faces(Dataset[tuple[Tensor, int, int]]):
    """Drawn clocks: stream, hour, and minute in steps of five.

    Args:
        split: "train" or "test"; no face is in both.
        count: how many.
    """

    def __init__(self, split: str, count: int) -> None:
        self.split, self.count = split, count
        self.stream = clock_stream(SIDE)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        face = draw_face(f"{self.split}/{index}", SIDE)
        return stream_tensor([face.image], self.stream)[0], face.hour, face.minute // STEP


def train(steps: int, batch: int = 64, rate: float = 2e-3) -> ClockReader:
    """A reader after that many steps, each on clocks it has not seen before."""
    torch.manual_seed(0)
    reader = ClockReader(ClockEncoder(CHANNELS), CHANNELS, (SIDE // STRIDE) ** 2)
    optimiser = torch.optim.AdamW(reader.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step, (streams, hours, minutes) in enumerate(DataLoader(Faces("train", steps * batch), batch), 1):
        hour, minute = reader(streams)
        loss = F.cross_entropy(hour, hours) + F.cross_entropy(minute, minutes)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step} of {steps}: loss {loss:.3f}", flush=True)
    return reader.eval()


@torch.no_grad()
def accuracy(reader: ClockReader, count: int = 500) -> tuple[float, float]:
    """Share of unseen clocks whose hour, and whose minute to the nearest five, are read rightly."""
    right = torch.zeros(2)
    for streams, hours, minutes in DataLoader(Faces("test", count), 50):
        hour, minute = reader(streams)
        right += torch.stack([(hour.argmax(1) == hours).sum(), (minute.argmax(1) == minutes).sum()])
    return float(right[0] / count), float(right[1] / count)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Teach the clock expert; write its encoder.")
    parser.add_argument("output", type=Path, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=900, help="of 64 clocks each (default: %(default)s)")
    options = parser.parse_args()
    reader = train(options.steps)
    hour, minute = accuracy(reader)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in reader.encoder.state_dict().items()}
    save_file(state, options.output)
    print(
        f"hour {100 * hour:.1f} %, minute {100 * minute:.1f} % of 500 unseen clocks; wrote {options.output}"
    )


if __name__ == "__main__":
    main()
