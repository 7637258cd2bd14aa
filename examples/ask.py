"""Ask mova-nano about a picture, and see which experts it called and how much each of them counted.

Run it as `python examples/ask.py [IMAGE QUESTION]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mova_core
from mova_core.errors import MovaError

IMAGE = Path(__file__).parent / "images" / "brain.png"
QUESTION = "In which plane was this brain cut?"


def main(image: str | Path = IMAGE, question: str = QUESTION) -> None:
    """Ask one question and print how its answer came about."""
    mova = mova_core.load("mova-nano")
    answer = mova.ask(image, question)

    print(f"question    {question}")
    for expert, probability in answer.route.probabilities.items():
        chosen = "chosen" if expert in answer.route.experts else ""
        print(f"{expert:<15} helps with probability {probability:.2f}  {chosen}")
    for expert, gates in answer.images[-1].gates.items():
        shown = ", ".join(f"{gate:.2f}" for gate in gates)
        print(f"{expert:<15} had these gate weights in the blocks of the adapter: {shown}")
    print(f"answer      {answer.text}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except MovaError as error:
        sys.exit(f"error: {error}")
