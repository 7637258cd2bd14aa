"""Every case runs at a tiny size, and says what it should."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.batch import BatchCase
from benchmarks.commands import write_cards
from benchmarks.measure import peak_since, race, start_of_peak
from benchmarks.models import Arithmetic
from benchmarks.results import Result, Row, show, write
from benchmarks.sizes import FULL, QUICK, ROUTES, Sizes
from mova_core.cards.discovery import discover

TINY = Sizes(
    width=16,
    heads=2,
    grid=(4, 4),
    depth=1,
    text_layers=1,
    out=8,
    question=5,
    experts={id: (8, (2, 3)) for id in FULL.experts},
    routing_layers=1,
    routing_width=64,
    routing_tokens=4,
    rounds=1,
    routing_rounds=1,
    processes=1,
    cards=3,
)


@pytest.mark.parametrize("case", ["adapter", "bfloat16", "batch", "routing"])
def test_a_case_gives_rows_that_can_be_written(case, tmp_path):
    rows = command.run([case], TINY)
    write(rows, tmp_path / "results.json")
    entries = json.loads((tmp_path / "results.json").read_text())
    assert all(set(entry) == {"name", "ratio", "of_limit", "seconds", "peak_mb"} for entry in entries)
    assert entries and all(entry["ratio"] > 0 and entry["seconds"] > 0 for entry in entries)


def test_routing_takes_no_more_steps_than_allowed():
    listwise, pointwise = command.run(["routing"], TINY)
    assert int(listwise.note.split()[0]) <= 4
    assert int(pointwise.note.split()[0]) == 0


def test_quick_sizes_leave_bfloat16_out():
    assert command.run(["bfloat16"], replace(TINY, bfloat16=QUICK.bfloat16)) == []


def test_an_unknown_case_is_refused_with_the_known_ones():
    with pytest.raises(Exception, match="no case speed; there are start-up, routing"):
        command.main(only=["speed"])


def test_routes_have_one_and_a_half_experts_on_average():
    assert sum(map(len, ROUTES)) == 1.5 * FULL.batch == 1.5 * len(ROUTES)
    assert {id for route in ROUTES for id in route} == set(FULL.experts)


def test_the_batch_is_worked_on_alike_by_both():
    torch.manual_seed(0)
    case = BatchCase(replace(TINY, reference_batch=8))
    with torch.inference_mode():
        torch.testing.assert_close(case.own(), case.reference(), atol=2e-5, rtol=2e-5)


def test_arithmetic_is_that_of_the_method():
    w, n, out, hidden = FULL.width, 48 * 48, FULL.out, int(FULL.width * 8 / 3)
    attention = 2 * n * 4 * w**2 + 4 * n**2 * w
    block = attention + 2 * n * 3 * w * hidden
    halved = 2 * (n // 4) * (w * out + out**2)
    pointwise, depthwise = 2 * (n + n // 4) * 2 * w**2, 2 * (n + n // 4) * 9 * w
    expected = 3 * block + halved + pointwise + depthwise
    # Gates and squeeze-and-excitation read one token each.
    assert Arithmetic(FULL).adapter(()) == pytest.approx(expected, rel=1e-3)


def test_contenders_take_turns_and_are_warmed_up_first():
    ran: list[str] = []
    timed = race({name: lambda name=name: ran.append(name) for name in "ab"}, rounds=2)
    assert "".join(ran) == "ababab"
    assert {name: len(seconds) for name, seconds in timed.seconds.items()} == {"a": 2, "b": 2}


def test_the_median_of_several_is_that_of_their_sums():
    timed = race({"a": lambda: None, "b": lambda: None}, rounds=1)
    timed.seconds["a"][:], timed.seconds["b"][:] = [1.0, 5.0, 2.0], [9.0, 1.0, 3.0]
    assert timed.median("a", "b") == 6.0


def test_peak_memory_is_that_of_what_was_freed_again():
    if (held := start_of_peak()) is None:
        pytest.skip("this system does not tell the peak")
    torch.ones(50, 2**20)  # 200 MB
    assert 180 < peak_since(held) < 400


def test_the_table_says_what_missed_its_target(capsys):
    rows = [
        Row(Result("fast", 2.0, 1.5, 0.1, 3.0), (1.3, None), "a note"),
        Row(Result("slow", 1.0, None, 0.2, None), (1.3, None)),
    ]
    show(rows, Console(width=100))
    lines = capsys.readouterr().out.splitlines()
    fast, slow = (next(line for line in lines if line.strip().startswith(name)) for name in ("fast", "slow"))
    assert "missed" in slow and "missed" not in fast
    assert any("fast: a note" in line for line in lines)


def test_the_cards_of_the_large_pool_can_be_used(tmp_path, monkeypatch):
    write_cards(tmp_path / "many", 3)
    monkeypatch.setenv("MOVA_CARD_DIR", str(tmp_path / "many"))
    found = [record for record in discover() if record.id.startswith("card-")]
    assert [record.status for record in found] == ["ok"] * 3
