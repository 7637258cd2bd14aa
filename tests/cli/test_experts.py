"""`mova experts`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest

from mova_core.cards.records import Status

Mova = Callable[..., Any]
CardText = Callable[..., str]


def rows(mova: Mova, *options: str) -> dict[str, dict[str, Any]]:
    result = mova("experts", "list", "--json", *options)
    assert result.code == 0
    return {f"{row['distribution']}/{row['id']}": row for row in json.loads(result.out)}


def test_the_json_of_a_listing_says_what_is_known(mova: Mova, site: Any, card_toml: CardText) -> None:
    site.install_expert("toy-json", card_toml("toy-json"))
    row = rows(mova)["mova-expert-toy-json/toy-json"]
    assert row["input"] | {"size": [32, 48], "fit": "pad", "kind": "pixels"} == row["input"]
    del row["input"]
    assert row == {
        "id": "toy-json",
        "role": "expert",
        "status": "ok",
        "distribution": "mova-expert-toy-json",
        "version": "1.0",
        "title": "A toy",
        "output": {"channels": 16, "grid": [4, 6]},
        "parameters": 1_200_000,
        "licence": {"code": "MIT", "weights": "Apache-2.0"},
        "problem": None,
        "hint": None,
    }


@pytest.fixture
def one_of_each(site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expert in every status there is."""
    site.install_expert("toy-ok", card_toml("toy-ok"))
    site.install_expert("toy-disabled", card_toml("toy-disabled"))
    site.install_expert(
        "toy-incompatible", card_toml("toy-incompatible", ("api_version = 1", "api_version = 9"))
    )
    site.install_expert("toy-invalid-card", None)
    site.install_expert("toy-missing-dependency", card_toml("toy-missing-dependency"), requires=["toy-none"])
    site.install_expert("toy-import-failed", card_toml("toy-import-failed"), code="1 / 0")
    for distribution in ("toy-one", "toy-two"):
        site.install_expert("toy-conflict", card_toml("toy-conflict"), distribution=distribution)
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "toy-disabled")


@pytest.mark.usefixtures("one_of_each")
def test_every_status_is_listed_with_its_problem_and_its_way_out(mova: Mova) -> None:
    toys = [row for row in rows(mova, "--check").values() if row["id"].startswith("toy-")]
    assert {row["status"] for row in toys} == set(get_args(Status))
    for row in toys:
        assert row["id"] == f"toy-{row['status']}"
        assert bool(row["problem"]) == bool(row["hint"]) == (row["status"] != "ok")


@pytest.mark.usefixtures("one_of_each")
def test_a_listing_without_check_imports_no_code(mova: Mova) -> None:
    assert rows(mova)["mova-expert-toy-import-failed/toy-import-failed"]["status"] == "ok"


@pytest.mark.usefixtures("one_of_each")
@pytest.mark.parametrize("status", get_args(Status))
def test_a_listing_can_be_narrowed_to_a_status(mova: Mova, status: str) -> None:
    found = rows(mova, "--check", "--status", status)
    assert f"toy-{status}" in {row["id"] for row in found.values()}
    assert {row["status"] for row in found.values()} == {status}


def test_an_unknown_status_is_refused_with_those_there_are(mova: Mova) -> None:
    result = mova("experts", "list", "--status", "fine")
    assert result.code == 2
    assert "got fine; expected ok, disabled, " in result.err


@pytest.mark.usefixtures("one_of_each")
def test_the_table_shows_each_expert_and_below_it_the_problems(mova: Mova) -> None:
    out = mova("experts", "list").out
    (line,) = [line for line in out.splitlines() if line.startswith("toy-ok ")]
    for cell in (
        "expert",
        "mova-expert-toy-ok 1.0",
        "32x48 px, pad",
        "16 on 4x6",
        "1.2 M",
        "MIT, Apache-2.0",
    ):
        assert cell in line
    assert (
        'toy-missing-dependency (mova-expert-toy-missing-dependency): needs toy-none. pip install "toy-none"'
        in out
    )


def test_patches_and_dynamic_grids_have_their_own_words(mova: Mova, site: Any, card_toml: CardText) -> None:
    text = card_toml("toy-patches", ("grid = [4, 6]", 'grid = "dynamic"'))
    start, end = text.index("[input]"), text.index("[features]")
    stream = '[input]\nkind = "patches"\nfit = "keep"\npatches = 2025\npatch_size = 16\n'
    site.install_expert("toy-patches", text[:start] + stream + text[end:])
    out = mova("experts", "list").out
    assert "2025 patches of 16 px, keep" in out
    assert "16 on dynamic" in out


def test_an_empty_listing_says_where_cards_are_looked_for(mova: Mova) -> None:
    assert (
        "No experts of status conflict are installed" in mova("experts", "list", "--status", "conflict").out
    )


def test_a_description_holds_the_whole_card_and_all_that_the_router_is_told(
    mova: Mova, site: Any, card_toml: CardText
) -> None:
    package = site.install_expert("toy-told", card_toml("toy-told"))
    details = json.loads(mova("experts", "describe", "toy-told", "--json").out)
    assert details["router_is_told"] == ["finds round things", "looks for circles"]
    assert details["card"]["memory_mb"] == {"float32": 4.8}
    assert details["source"].endswith(f"{package}/expert.toml")
    assert len(details["card_hash"]) == 64
    page = mova("experts", "describe", "mova-expert-toy-told/toy-told").out
    for words in ("looks for circles", "How many balls", "arXiv 0000.00000", details["card_hash"], "4.8 MiB"):
        assert words in page


def test_a_description_says_whether_weights_are_on_disk_and_how_to_get_them(
    mova: Mova, site: Any, card_toml: CardText
) -> None:
    sources = '["hf:toy-owner/none", "part:toy-model/base", "package:weights.safetensors"]'
    change = ('["package:weights.safetensors"]', sources)
    package = site.install_expert("toy-weights", card_toml("toy-weights", change))
    states = json.loads(mova("experts", "describe", "toy-weights", "--json").out)["weights"]
    assert [state["path"] for state in states] == [None, None, None]
    assert [state["fetch"] for state in states] == [
        "hf download toy-owner/none --revision 1",
        "mova models pull toy-model",
        "pip install --force-reinstall --no-deps mova-expert-toy-weights",
    ]
    weights = site.root / package / "weights.safetensors"
    weights.touch()
    assert str(weights) in mova("experts", "describe", "toy-weights").out


def test_an_expert_without_a_readable_card_is_described_by_its_problem(mova: Mova, site: Any) -> None:
    site.install_expert("toy-nothing", None)
    result = mova("experts", "describe", "toy-nothing")
    assert result.code == 0
    assert "has no file expert.toml" in result.out
