"""From a file of questions to a file of answers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mova_core.cli.batch.journal import Journal
from mova_core.cli.batch.output import journal_path, output_path, plain_result, write_output
from mova_core.cli.batch.progress import shown_progress
from mova_core.cli.batch.questions import EXAMPLE, Asked, QuestionFile
from mova_core.cli.routes import choose_router
from mova_core.errors import InputError

if TYPE_CHECKING:
    from mova_core.model.assistant import Mova
    from mova_core.model.batch import Request


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What the command line says about a batch.

    Args:
        questions: the file of questions.
        output: the file of answers; None for one beside the questions.
        checkpoint: directory of the model.
        router: name of the router.
        experts: a route for all lines without one of their own.
        max_new_tokens: bound of an answer's length.
        batch_size: the most questions in one pass; None for what suits a CPU.
        numbers: what the model computes in, by the names of the options.
        quiet: no progress on stderr, and JSON as the last word.
    """

    questions: Path
    output: Path | None
    checkpoint: Path
    router: str
    experts: tuple[str, ...] | None
    max_new_tokens: int
    batch_size: int | None
    numbers: Mapping[str, str]
    quiet: bool


@dataclass(frozen=True, slots=True)
class _Count:
    questions: int
    there: int
    left: int


def answer_file(options: BatchOptions, load: Callable[[], Mova]) -> bool:
    """Answers what is not answered yet, and writes the file of answers.

    Args:
        options: what the command line says.
        load: loads the model; called if there is anything to ask.

    Returns:
        Whether every question has an answer.

    Raises:
        InputError: for files that cannot be used; said before anything is loaded.
    """
    questions = QuestionFile(options.questions, options.experts)
    output = output_path(options.questions, options.output)
    with Journal(journal_path(output), _settings(options)) as journal:
        count = _count(questions, journal)
        if count.there and not options.quiet:
            print(f"{count.there:,} of {count.questions:,} answers are there already", file=sys.stderr)
        if count.left:
            try:
                _answer(options, questions, journal, count, load())
            except KeyboardInterrupt:
                print(f"stopped; the same command goes on from {journal.path}", file=sys.stderr)
                raise
        failed = write_output(output, questions, journal)
    _report(options, output, count, failed)
    return not failed


def _count(questions: QuestionFile, journal: Journal) -> _Count:
    lines = there = left = known = 0
    for line in questions:
        lines += 1
        if line.asked is not None:
            known += line.asked.key in journal
            answered = journal.answers(line.asked.key)
            there, left = there + answered, left + (not answered)
    if not there and not left:
        raise InputError(
            "the file holds no question",
            value=f"{questions.path} of {lines:,} lines",
            expected="JSON Lines, one question a line",
            hint=f"Such as: {EXAMPLE}",
        )
    if len(journal) and not known:
        raise InputError(
            "the output belongs to other questions",
            value=str(journal.path),
            expected=f"answers to {questions.path}",
            hint=f"Name another --output, or delete {journal.path} to begin again.",
        )
    return _Count(lines, there, left)


def _answer(
    options: BatchOptions, questions: QuestionFile, journal: Journal, count: _Count, mova: Mova
) -> None:
    from mova_core.model.batch import BATCH_SIZE, answer_all

    router = choose_router(options.router, mova)
    keys: dict[int, str] = {}  # of the questions under way
    results = answer_all(
        mova,
        _requests(questions, journal, keys),
        router=router,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size or BATCH_SIZE,
        routed=lambda number: progress.routed(number),
    )
    with shown_progress(count.left, quiet=options.quiet) as progress:
        for result in results:
            journal.add(keys.pop(result.place), plain_result(result))
            progress.done()


def _requests(questions: QuestionFile, journal: Journal, keys: dict[int, str]) -> Iterator[Request]:
    from mova_core.model.batch import Request

    place = 0
    for asked in _asked(questions):
        if not journal.answers(asked.key):
            keys[place] = asked.key
            yield Request(asked.question, asked.images, asked.experts)
            place += 1


def _asked(questions: QuestionFile) -> Iterator[Asked]:
    return (line.asked for line in questions if line.asked is not None)


def _settings(options: BatchOptions) -> dict[str, str | int]:
    """All that answers depend on besides the questions."""
    digest = hashlib.sha256((options.checkpoint / "config.json").read_bytes())
    for weights in sorted(options.checkpoint.glob("router/*.safetensors")):
        digest.update(weights.read_bytes())  # small, and not in the fingerprint that config.json holds
    return {
        "model": digest.hexdigest()[:16],
        "router": options.router,
        "max_new_tokens": options.max_new_tokens,
        **options.numbers,
    }


def _report(options: BatchOptions, output: Path, count: _Count, failed: int) -> None:
    answered = count.questions - failed
    if options.quiet:
        told = {"output": str(output), "questions": count.questions, "answered": answered}
        print(json.dumps({**told, "failed": failed, "there_already": count.there}))
        return
    print(f"wrote {output}: {answered:,} of {count.questions:,} questions answered")
    if failed:
        print(f'{failed:,} without an answer; see "error" in {output}', file=sys.stderr)
