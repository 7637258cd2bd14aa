"""From names to records and code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from mova_core.cards.discovery import discover
from mova_core.cards.records import ExpertRecord
from mova_core.cards.resolve import checked, find_expert, import_factory, usable_expert
from mova_core.errors import CardError, ExpertLoadError, UnknownExpertError

CardText = Callable[..., str]


def record(id: str, status: Any = "ok", distribution: str = "one") -> ExpertRecord:
    return ExpertRecord(id, status, distribution=distribution, problem="it is so", hint="Do that.")


def test_an_expert_is_found_by_id_and_by_distribution() -> None:
    chart, text = record("chart"), record("text")
    assert find_expert("chart", [text, chart]) is chart
    assert find_expert("one/text", [text, chart]) is text


def test_an_unknown_name_offers_the_nearest_and_a_command() -> None:
    with pytest.raises(UnknownExpertError) as caught:
        find_expert("nano-chrat", [record("nano-chart"), record("sam")])
    assert "got nano-chrat; expected nano-chart." in str(caught.value)
    assert "`mova experts list`" in str(caught.value)


def test_of_two_rivals_only_the_qualified_name_resolves() -> None:
    one, two = record("chart", "conflict"), record("chart", "conflict", "two")
    with pytest.raises(CardError, match="expected one of one/chart, two/chart"):
        find_expert("chart", [one, two])
    assert usable_expert("two/chart", [one, two]) is two


def test_a_broken_namesake_is_no_rival() -> None:
    broken, whole = record("chart", "invalid-card"), record("chart", "ok", "two")
    assert usable_expert("chart", [broken, whole]) is whole
    assert find_expert("one/chart", [broken, whole]) is broken


@pytest.mark.parametrize("status", ["disabled", "incompatible", "invalid-card", "missing-dependency"])
def test_an_expert_that_cannot_be_used_says_why_and_what_to_do(status: str) -> None:
    with pytest.raises(ExpertLoadError, match=f"expert chart is {status}: it is so. Do that."):
        usable_expert("chart", [record("chart", status)])


@pytest.fixture
def installed(site: Any, card_toml: CardText) -> Callable[[str], ExpertRecord]:
    """Installs an expert with that code and gives its record."""

    def install(code: str) -> ExpertRecord:
        site.install_expert("toy-code", card_toml("toy-code"), code=code)
        return next(record for record in discover() if record.id == "toy-code")

    return install


def test_the_factory_is_imported_on_demand(installed: Callable[[str], ExpertRecord]) -> None:
    record = installed("class Expert:\n    answer = 42\n")
    assert record.card is not None
    assert "mova_expert_toy_code" not in sys.modules
    assert import_factory(record.card).answer == 42  # type: ignore[attr-defined]
    assert checked(record) is record


@pytest.mark.parametrize(
    ("code", "status", "problem", "cause"),
    [
        ("raise RuntimeError('no luck')", "import-failed", "RuntimeError: no luck", RuntimeError),
        ("import sys\nsys.exit(3)", "import-failed", "SystemExit: 3", SystemExit),
        ("class Expert(:", "import-failed", "SyntaxError", SyntaxError),
        ("Expert = 3", "import-failed", "has no class Expert", None),
        ("import toy_absent", "missing-dependency", "No module named 'toy_absent'", ModuleNotFoundError),
    ],
)
def test_a_factory_that_cannot_be_imported_has_its_status_and_chains_the_cause(
    installed: Callable[[str], ExpertRecord],
    code: str,
    status: str,
    problem: str,
    cause: type[BaseException] | None,
) -> None:
    record = installed(code)
    assert record.status == "ok" and record.card is not None
    after = checked(record)
    assert after.status == status
    assert problem in after.problem
    assert after.hint
    with pytest.raises(ExpertLoadError, match="expert toy-code") as caught:
        import_factory(record.card)
    assert type(caught.value.__cause__) is (cause or type(None))


def test_checking_keeps_what_a_module_prints_out_of_stdout(
    installed: Callable[[str], ExpertRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    checked(installed("print('hello')\nclass Expert: ...\n"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err
