"""Commands in fresh processes: how soon `mova` answers, and what asking many questions at once saves.

A command with a time allowed has the ratio of that time to the time it took.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.progress import PROGRESS
from benchmarks.results import Result, Row
from benchmarks.sizes import Sizes

MOVA = Path(sys.executable).with_name("mova")
HELP_BEYOND, LIST, LIST_MANY = 0.050, 0.300, 0.600
"""Seconds allowed: for help beyond a bare typer program, for listing what is installed, for many cards."""

PICTURES = Path(__file__).parents[1] / "examples" / "images"
SHOWN = ("brain.png", "coffee.jpg", "coins.png", "astronaut.jpg")
ASKED = ("What is shown here?", "Is there a cup in the picture?", "What colour is it?", "How many are there?")

BARE = """
import typer

app = typer.Typer()


@app.command()
def greet(name: str) -> None:
    print(name)


@app.command()
def leave() -> None:
    print("bye")


app()
"""

CARD = """
[expert]
api_version = 1
id = "{id}"
role = "expert"
title = "A card"
descriptions = ["finds round things in photographs"]
factory = "mova_expert_timm.expert:TimmExpert"
parameters = 1200000
code_licence = "Apache-2.0"

[input]
size = [224, 224]
fit = "pad"
pad_colour = [127, 127, 127]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
interpolation = "bilinear"

[features]
channels = 192
grid = [14, 14]

[memory_mb]
float32 = 4.8

[weights]
sources = []
revision = "1"
licence = "Apache-2.0"
"""


def start_up(sizes: Sizes) -> Iterator[Row]:
    """`mova --help` and `mova experts list`, each against the time allowed."""
    with TemporaryDirectory() as folder:
        bare, few, many = (Path(folder, name) for name in ("bare.py", "few", "many"))
        bare.write_text(BARE)
        few.mkdir()
        write_cards(many, sizes.cards)
        ran = run_in_turn(
            {
                "bare": ([sys.executable, str(bare), "--help"], few),
                "help": ([str(MOVA), "--help"], few),
                "list": ([str(MOVA), "experts", "list"], few),
                "many": ([str(MOVA), "experts", "list"], many),
            },
            rounds=sizes.processes,
        )
    allowed = {"help": statistics.median(ran["bare"]) + HELP_BEYOND, "list": LIST, "many": LIST_MANY}
    names = {
        "help": "mova --help",
        "list": "mova experts list",
        "many": f"mova experts list, {sizes.cards:,} cards",
    }
    for key, name in names.items():
        seconds = statistics.median(ran[key])
        result = Result(name, allowed[key] / seconds, None, seconds, None)
        note = f"{allowed[key] - HELP_BEYOND:.3f} s for a bare typer program" if key == "help" else ""
        yield Row(result, (1.0, None), note or f"{allowed[key]:.3f} s allowed")


def ask_batch(sizes: Sizes) -> Iterator[Row]:
    """`mova ask --batch` on mova-nano, against one `mova ask` for each question.

    There is no row if no question is to be asked, or if the command fails, as without mova-nano's parts.
    """
    pairs = [(PICTURES / name, question) for question in ASKED for name in SHOWN][: sizes.asked]
    if not pairs:
        return
    with TemporaryDirectory() as folder:
        cards, lines = Path(folder, "cards"), Path(folder, "questions.jsonl")
        cards.mkdir()
        asked = [{"image": str(image.resolve()), "question": question} for image, question in pairs]
        lines.write_text("".join(json.dumps(one) + "\n" for one in asked))
        first, last = ([str(MOVA), "ask", str(image), question] for image, question in (pairs[0], pairs[-1]))
        together = [str(MOVA), "ask", "--batch", str(lines)]
        commands = {"first": (first, cards), "last": (last, cards), "together": (together, cards)}
        try:
            ran = run_in_turn(commands, rounds=1, warm_up=False)
        except subprocess.CalledProcessError as error:
            PROGRESS.say(f"left out: {error.stderr.decode().strip()}")
            return
    seconds, single = ran["together"][0] / len(pairs), (ran["first"][0] + ran["last"][0]) / 2
    yield Row(
        Result("mova ask --batch, per question", single / seconds, None, seconds, None),
        (3.0, None),
        f"{len(pairs)} questions; one by one a question takes {single:.2f} s, the mean of two; one round",
    )
    yield _loaded(pairs)


def _loaded(pairs: Sequence[tuple[Path, str]]) -> Row:
    """What a batch saves where the model is loaded already, and no features are kept from call to call."""
    import mova_core
    from mova_core.model.batch import Request, answer_all

    PROGRESS.say("one loaded model")
    mova = mova_core.load("mova-nano", cache_bytes=0)
    for id in mova.pool.ids:
        mova.pool.expert(id)
    mova.ask(*pairs[0])
    requests = [Request(question, (image,)) for image, question in pairs]
    seconds: list[float] = []
    for ask in (lambda: [mova.ask(*pair) for pair in pairs], lambda: [*answer_all(mova, requests)]):
        begin = time.perf_counter()
        ask()
        seconds.append((time.perf_counter() - begin) / len(pairs))
    single, together = seconds
    return Row(
        Result("a batch, the model loaded", single / together, None, together, None),
        note=f"one by one a question takes {single:.2f} s; one round",
    )


def run_in_turn(
    commands: Mapping[str, tuple[Sequence[str], Path]], *, rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run commands in turn.

    Args:
        commands: by name, a command and the card directory it is given.
        rounds: how often each is timed.
        warm_up: run each once before.

    Raises:
        subprocess.CalledProcessError: one of them fails.
    """
    ran: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + warm_up):
        PROGRESS.say(f"round {number + 1} of {rounds + warm_up}")
        for name, (command, cards) in commands.items():
            one = run(command, cards)
            if number >= warm_up:
                ran[name].append(one)
    return ran


def run(command: Sequence[str], cards: Path) -> float:
    """Seconds that a command takes, with a card directory of its own."""
    environment = os.environ | {"MOVA_CARD_DIR": str(cards), "MOVA_OFFLINE": "1"}
    begin = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return time.perf_counter() - begin


def write_cards(folder: Path, count: int) -> None:
    """Write cards of experts that need no code of their own."""
    folder.mkdir()
    for number in range(count):
        id = f"card-{number:04}"
        (folder / f"{id}.toml").write_text(CARD.format(id=id))
