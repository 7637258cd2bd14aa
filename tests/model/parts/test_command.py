"""`mova models`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mova_core.cards.models import ModelCard
from mova_core.cards.records import ModelRecord
from mova_core.cli import models
from mova_core.errors import PartsError
from mova_core.model.parts import fetch, part_folder, stored

Run = Callable[..., Result]


@pytest.fixture
def run(part, monkeypatch) -> Run:
    """Runs `mova models ...` where the models `small` (of one part) and `broken` are installed."""
    card = ModelCard(id="small", title="A small model", checkpoint="model", licence="MIT", parts=(part,))
    records = [
        ModelRecord(id="broken", status="invalid-card", problem="key missing", hint="Reinstall broken."),
        ModelRecord(id="small", status="ok", card=card, distribution="mova-small", version="1.0"),
    ]
    monkeypatch.setattr(models, "discover_models", lambda: records)
    monkeypatch.setattr(fetch, "discover_models", lambda: records)

    return lambda *arguments: CliRunner().invoke(models.app, arguments)


def test_pull_says_what_it_fetches_and_under_which_licence(run, part):
    result = run("pull", "small")
    assert result.exit_code == 0
    assert "tiny: A tiny part, MIT, to fetch, 102.8 kB" in result.stderr
    assert "all 1 parts are in" in result.stdout and "1 fetched (102.8 kB)" in result.stdout
    assert stored(part)


def test_pull_again_fetches_nothing(run, index):
    run("pull", "small")
    index.requests.clear()
    assert "nothing to fetch" in run("pull", "small").stdout
    assert index.requests == []


def test_pull_mends_what_verify_finds(run, part):
    run("pull", "small")
    assert run("verify", "small").stdout == "tiny: ok\n"
    weights = part_folder(part) / "weights.bin"
    weights.write_bytes(b"\xff" + weights.read_bytes()[1:])
    result = run("verify", "small")
    assert isinstance(result.exception, PartsError)
    assert f"{weights}: content differs" in result.stdout
    assert "`mova models pull small`" in str(result.exception)
    assert run("pull", "small").exit_code == 0
    assert run("verify", "small").exit_code == 0


def test_list_as_json_tells_each_part(run, part):
    [broken, small] = json.loads(run("list", "--json").stdout)
    assert (broken["status"], broken["problem"], broken["parts"]) == ("invalid-card", "key missing", [])
    assert (small["id"], small["status"], small["licence"]) == ("small", "ok", "MIT")
    expected = {"id": "tiny", "licence": "MIT", "size_bytes": part.size_bytes, "on_disk": False}
    assert expected.items() <= small["parts"][0].items()
    run("pull", "small")
    assert json.loads(run("list", "--json").stdout)[1]["parts"][0]["on_disk"] is True


def test_list_for_people(run):
    shown = run("list").stdout
    assert "A small model" in shown and "102.8 kB" in shown and "invalid-card: key missing" in shown


def test_without_models_list_says_how_to_get_one(run, monkeypatch):
    monkeypatch.setattr(models, "discover_models", list)
    assert "pip install" in run("list").stdout


def test_an_unknown_or_broken_model_is_one_line(run):
    assert str(run("pull", "smal").exception).startswith(
        "no installed model has this name; got smal; expected small"
    )
    assert (
        str(run("verify", "broken").exception)
        == "model broken is invalid-card: key missing. Reinstall broken."
    )


def test_offline_the_model_to_pull_is_named(run, part, monkeypatch):
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    assert "`mova models pull small`" in str(run("pull", "small").exception)
