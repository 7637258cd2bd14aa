"""`mova ask --batch`: answers in the order of the questions, nothing lost, nothing asked twice."""

from __future__ import annotations

import json
import operator
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mova_core.model.assistant import Mova

Run = Callable[..., Any]
COLOURS = {"red.png": (200, 30, 40), "green.png": (10, 180, 60), "blue.png": (20, 40, 220)}
ASKED = [
    {"id": name[:-4], "image": name, "question": question}
    for question in ("What colour is it?", "Where is it, to the left or to the right of the middle?", "Why?")
    for name in COLOURS
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `data/`, which holds three pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (30, 20), colour).save(tmp_path / "data" / name)
    return tmp_path


@pytest.fixture
def ask(mova: Run, tiny: Path) -> Run:
    """Runs `mova ask` with the tiny model and short answers."""
    return lambda *words: mova("ask", *words, "--model", str(tiny), "--max-new-tokens", "3")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many questions each pass of the model answered."""
    sizes: list[int] = []
    whole = Mova.answer

    def answer(self: Mova, conversations: Any, **options: Any) -> Any:
        sizes.append(len(conversations))
        return whole(self, conversations, **options)

    monkeypatch.setattr(Mova, "answer", answer)
    return sizes


def write(rows: list[Any], name: str = "data/q.jsonl") -> str:
    lines = (row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows)
    Path(name).write_bytes(b"".join(line + b"\n" for line in lines))
    return name


def read(name: str = "data/q.answers.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def test_each_line_has_the_answer_it_gets_alone(ask: Run) -> None:
    rows = [*ASKED, {"image": "red.png", "question": "Why?", "experts": ["tiny-blue"]}]
    result = ask("--batch", write(rows), "--batch-size", "4", "--dtype", "float32")
    assert result.code == 0
    assert result.out == "wrote data/q.answers.jsonl: 10 of 10 questions answered\n"
    found = read()
    assert [line["id"] for line in found] == [*(row["id"] for row in ASKED), 10]
    for row, line in zip(rows, found, strict=True):
        own = ["--experts", ",".join(row["experts"])] if "experts" in row else []
        words = (f"data/{row['image']}", str(row["question"]), "--json", "--dtype", "float32", *own)
        alone = json.loads(ask(*words).out)
        (trace,) = alone["images"]
        assert list(line) == ["id", "answer", "route", "router", "probabilities", "gates"]
        assert (line["answer"], line["route"]) == (alone["answer"], trace["route"])
        assert line["probabilities"] == pytest.approx(trace["probabilities"], abs=1e-5)


def test_one_question_may_have_several_pictures_or_none(ask: Run) -> None:
    rows = [
        {"image": ["red.png", "blue.png"], "question": "Which is red?"},
        {"image": [], "question": "Hm?"},
        {"image": None, "question": "Hm?"},
    ]
    assert ask("--batch", write(rows), "--output", "out.jsonl").code == 0
    several, *none = read("out.jsonl")
    assert [trace["route"] for trace in several["images"]][-1] == several["route"]
    assert [line["answer"] for line in none] == [none[0]["answer"]] * 2 and none[0]["route"] == []


@pytest.mark.parametrize(
    ("words", "route"), [(["--experts", "tiny-red"], ["tiny-red"]), (["--router", "none"], [])]
)
def test_a_route_or_router_for_all_that_have_none(ask: Run, words: list[str], route: list[str]) -> None:
    rows = [*ASKED[:2], {**ASKED[2], "experts": ["tiny-green"]}]
    assert ask("--batch", write(rows), *words).code == 0
    assert [line["route"] for line in read()] == [route, route, ["tiny-green"]]


def test_a_bad_line_is_an_error_in_its_place(ask: Run) -> None:
    Path("data/text.png").write_text("no picture")
    bad: dict[str, Any] = {
        "expected a line such as {": b"{not json",
        "expected a line such as": b"\xff\xfe",
        "the line is no question (input should be a valid dictionary": [1, 2],
        "`question`: field required": {"image": "red.png"},
        "`image`: field required": {"question": "Why?", "id": "mine"},
        "`question`: input should be a valid string": {"image": "red.png", "question": 3},
        "the line is longer than": b'"' + b"x" * 3_000_000 + b'"',
        "the question is empty": {"image": "red.png", "question": " "},
        "does not exist": {"image": "nowhere.png", "question": "Why?"},
        "cannot be read": {"image": "text.png", "question": "Why?"},
        "Did you mean tiny-red?": {"image": "red.png", "question": "Why?", "experts": ["tiny-rad"]},
        "the question holds half a character; got \\ud800": b'{"image": "red.png", "question": "\\ud800"}',
    }
    rows = [ASKED[0], *bad.values(), ASKED[1]]
    result = ask("--batch", write(rows))
    assert result.code == 1
    assert result.out.endswith(f": 2 of {len(rows)} questions answered\n")
    assert f'{len(bad)} without an answer; see "error" in data/q.answers.jsonl' in result.err
    first, *wrong, last = read()
    assert first["id"] == "red" and last["id"] == "green" and "error" not in {**first, **last}
    for number, (said, line) in enumerate(zip(bad, wrong, strict=True), start=2):
        assert said in line["error"] and line["answer"] is None
        assert line["id"] == ("mine" if "`image`" in said else number)


def test_empty_lines_and_a_byte_order_mark_do_not_count(ask: Run) -> None:
    write([b"\xef\xbb\xbf" + json.dumps(ASKED[0]).encode(), b"", b"  ", ASKED[1]])
    assert ask("--batch", "data/q.jsonl").code == 0
    assert [line["id"] for line in read()] == ["red", "green"]


def test_nothing_is_asked_twice(ask: Run, counted: list[int]) -> None:
    ask("--batch", write(ASKED))
    first, before = Path("data/q.answers.jsonl").read_bytes(), sum(counted)
    again = ask("--batch", "data/q.jsonl")
    assert before == len(ASKED) and sum(counted) == before
    assert "9 of 9 answers are there already" in again.err
    assert Path("data/q.answers.jsonl").read_bytes() == first


def test_what_changed_is_asked_again(ask: Run, counted: list[int]) -> None:
    rows: list[Any] = [*ASKED, {"image": "late.png", "question": "Why?"}]
    assert ask("--batch", write(rows)).code == 1
    counted.clear()
    Image.new("RGB", (30, 20), "white").save("data/late.png")
    Image.new("RGB", (31, 20), "black").save("data/blue.png")
    rows[0] = {**rows[0], "question": "Which colour?"}
    rows.append({"image": "red.png", "question": "And this?"})
    result = ask("--batch", write(rows[::-1]))
    assert result.code == 0 and "5 of 11 answers are there already" in result.err
    assert sum(counted) == 6  # three about blue, one each that was late, changed, added
    assert [line["id"] for line in read()][-3:] == ["blue", "green", "red"]


def test_other_settings_or_questions_do_not_mix(ask: Run, mova: Run, tiny: Path) -> None:
    write(ASKED[:1])
    ask("--batch", "data/q.jsonl", "--output", "out.jsonl")
    other = ask("--batch", "data/q.jsonl", "--output", "out.jsonl", "--router", "none")
    assert other.code == 2
    assert "the answers so far were made otherwise; got router learned; expected router none" in other.err
    longer = mova("ask", "--batch", "data/q.jsonl", "--output", "out.jsonl", "--model", str(tiny))
    assert "got max_new_tokens 3; expected max_new_tokens 64" in longer.err
    write(ASKED[1:2], "data/others.jsonl")
    others = ask("--batch", "data/others.jsonl", "--output", "out.jsonl")
    assert others.code == 2 and "the output belongs to other questions" in others.err
    assert read("out.jsonl")[0]["id"] == "red"


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_journal_cut_short_is_gone_on_from(ask: Run, counted: list[int], cut: int) -> None:
    ask("--batch", write(ASKED))
    whole = read()
    journal = Path("data/q.answers.jsonl.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = b"damaged\n"
    journal.write_bytes(b"".join(lines)[:-cut])
    counted.clear()
    assert ask("--batch", "data/q.jsonl").code == 0
    assert sum(counted) == 2
    exact = operator.itemgetter("id", "answer", "route", "router")
    for found, before in zip(read(), whole, strict=True):
        assert exact(found) == exact(before)  # the rest is of another batch: close, not the same bits
        assert found["probabilities"] == pytest.approx(before["probabilities"], abs=1e-5)
        assert found["gates"].keys() == before["gates"].keys()
        for id, blocks in before["gates"].items():
            assert found["gates"][id] == pytest.approx(blocks, abs=1e-5)


def test_a_head_cut_short_is_begun_again(ask: Run) -> None:
    Path("data/q.answers.jsonl.journal").write_bytes(b'{"mova_ba')
    assert ask("--batch", write(ASKED[:1])).code == 0


def test_json_says_what_was_done_and_nothing_else(ask: Run) -> None:
    result = ask("--batch", write([*ASKED[:2], b"?"]), "--json")
    told = {"output": "data/q.answers.jsonl", "questions": 3, "answered": 2, "failed": 1}
    assert (result.code, result.err) == (1, "")
    assert json.loads(result.out) == {**told, "there_already": 0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--batch", "none.jsonl"), "there is no such file of questions; got none.jsonl"),
        (("--batch", "-"), "there is no such file of questions; got -"),
        (("--batch", "data"), "there is no such file of questions; got data"),
        (("--batch", "empty.jsonl"), "the file holds no question; got empty.jsonl of 0 lines"),
        (("--batch", "text.jsonl"), "the file holds no question; got text.jsonl of 2 lines"),
        (("--batch", "q.jsonl", "--output", "data"), "the output is a folder; got data"),
        (("--batch", "q.jsonl", "--output", "no/out"), "the folder of the output does not exist; got no;"),
        (("--batch", "q.jsonl", "--output", "text.jsonl"), "the output is there already"),
        (("--batch", "q.jsonl", "--output", "q.jsonl"), "the output is there already"),
        (("--batch", "q.jsonl", "--output", "way"), "this file is in the way: it is no journal"),
        (("--batch", "q.jsonl", "red.png"), "a batch takes its questions from its file; got IMAGE with"),
        (("--batch", "q.jsonl", "red.png", "Why?", "--explain"), "got IMAGE and QUESTION and --explain with"),
        (("red.png",), "a question about a picture is missing; expected IMAGE and QUESTION, or --batch"),
        ((), "a question about a picture is missing"),
        (("red.png", "Why?", "--output", "x"), "--output goes with --batch only"),
    ],
)
def test_errors_are_one_line_and_come_before_any_loading(
    ask: Run, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mova_core.cli.ask.load_model_for_command", None)  # calling it would be a TypeError
    write(ASKED, "q.jsonl")
    Path("empty.jsonl").write_text("\n\n")
    Path("text.jsonl").write_text("[\n]\n")
    Path("way.journal").write_text("dear diary\n")
    result = ask(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ") and said in result.err and result.err.count("\n") == 1


def test_two_runs_do_not_write_one_output(ask: Run) -> None:
    from mova_core.cli.batch.journal import Journal

    with Journal(Path("data/q.answers.jsonl.journal"), {}):
        result = ask("--batch", write(ASKED[:1]))
    assert result.code == 2 and "another run is writing this output" in result.err


WORKER = """
import signal, sys, os
sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(1)
from mova_core.model.assistant import Mova
whole, passes = Mova.answer, []
def answer(self, conversations, **options):
    passes.append(1)
    if len(passes) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, conversations, **options)
Mova.answer = answer
from mova_core.cli.main import main
sys.exit(main(sys.argv[3:]))
"""


def test_a_run_that_is_killed_is_gone_on_from(ask: Run, tiny: Path, counted: list[int]) -> None:
    import mova_tiny

    paths = [str(Path(mova_tiny.__file__).parents[1]), str(tiny.parent / "site")]
    words = [
        "ask",
        "--batch",
        write(ASKED),
        "--batch-size",
        "2",
        "--model",
        str(tiny),
        "--max-new-tokens",
        "3",
    ]
    killed = subprocess.run(
        [sys.executable, "-c", WORKER, *paths, *words], env=dict(os.environ), capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert not Path("data/q.answers.jsonl").exists()
    result = ask("--batch", "data/q.jsonl", "--batch-size", "2")
    assert result.code == 0 and "4 of 9 answers are there already" in result.err
    assert sum(counted) == 5
    resumed = read()
    assert ask("--batch", "data/q.jsonl", "--output", "afresh.jsonl").code == 0
    assert [(x["id"], x["answer"], x["route"]) for x in read("afresh.jsonl")] == [
        (x["id"], x["answer"], x["route"]) for x in resumed
    ]
