"""The file of answers: one line for each question, in the order of the questions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mova_core.cli.traces import plain_trace
from mova_core.errors import InputError

if TYPE_CHECKING:
    from mova_core.cli.batch.journal import Journal
    from mova_core.cli.batch.questions import Line
    from mova_core.model.batch import Result


def output_path(questions: Path, given: Path | None) -> Path:
    """Where the answers go: beside the questions, unless told otherwise.

    Raises:
        InputError: if something is there that this command did not write, or no folder is.
    """
    output = given or questions.with_name(f"{questions.stem}.answers.jsonl")
    hint = "Name another --output."
    if output.is_dir():
        raise InputError("the output is a folder", value=str(output), expected="a file", hint=hint)
    if output.exists() and not journal_path(output).exists():
        raise InputError(
            "the output is there already, without the journal of a run that could go on",
            value=str(output),
            expected="a new file",
            hint=f"Move it away. {hint}",
        )
    if not output.parent.is_dir():
        raise InputError(
            "the folder of the output does not exist",
            value=str(output.parent),
            expected="a folder",
            hint=f"Make it: mkdir -p {output.parent}",
        )
    return output


def journal_path(output: Path) -> Path:
    """Where the journal of an output is."""
    return output.with_name(f"{output.name}.journal")


def plain_result(result: Result) -> dict[str, Any]:
    """What is written of a result, but for the id of its question."""
    answer = result.answer
    if answer is None:
        return {"answer": None, "error": str(result.error)}
    traces = [plain_trace(trace) for trace in answer.images]
    last = traces[-1] if traces else {"route": [], "router": "", "probabilities": {}, "gates": {}}
    plain: dict[str, Any] = {"answer": answer.text, **last}
    if len(traces) > 1:
        plain["images"] = traces
    if answer.skipped:
        plain["skipped"] = dict(answer.skipped)
    return plain


def write_output(output: Path, lines: Iterable[Line], journal: Journal) -> int:
    """Writes all answers, the file appearing whole or not at all.

    Returns:
        How many of the lines are errors.

    Raises:
        InputError: if the questions are not those that were answered, or the file cannot be written.
    """
    part, failed = output.with_name(f".{output.name}.part"), 0
    try:
        with part.open("w", encoding="utf-8") as file:
            for line in lines:
                found = _found(line, journal)
                failed += "error" in found
                file.write(json.dumps({"id": line.id, **found}) + "\n")
        part.replace(output)
    except OSError as error:
        raise InputError(
            f"the answers cannot be written: {error.strerror}",
            value=str(output),
            hint=f"They are in {journal.path}; the same command goes on from there.",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return failed


def _found(line: Line, journal: Journal) -> dict[str, Any]:
    if line.asked is None:
        return {"answer": None, "error": line.problem}
    if line.asked.key not in journal:
        raise InputError(
            "the questions or their pictures changed while they were being answered",
            value=f"question {line.id}",
            hint="Run the same command again: it answers what has changed.",
        )
    return journal.result(line.asked.key)
