"""Discovery: every status, reached by a distribution that is really installed and really broken."""

from __future__ import annotations

import importlib
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.cards.discovery import card_directory, discover, discover_models, settle
from mova_core.cards.records import USER, ExpertRecord
from mova_core.cards.warning import CardWarning
from mova_core.errors import CardError

CardText = Callable[..., str]


def found(id: str) -> list[ExpertRecord]:
    return [record for record in discover() if record.id == id]


def only(id: str) -> ExpertRecord:
    (record,) = found(id)
    return record


def test_an_installed_expert_is_ok_and_not_imported(site: Any, card_toml: CardText) -> None:
    package = site.install_expert("toy-a", card_toml("toy-a"), code="raise RuntimeError\n")
    record = only("toy-a")
    assert (record.status, record.distribution, record.version) == ("ok", "mova-expert-toy-a", "1.0")
    assert record.qualified == "mova-expert-toy-a/toy-a"
    assert record.card is not None and record.card.id == "toy-a"
    assert record.source == site.root / package / "expert.toml"
    assert record.problem == record.hint == ""
    assert package not in sys.modules


def test_one_distribution_may_bring_several_experts(site: Any, card_toml: CardText) -> None:
    site.install(
        "toy-several",
        groups={"mova.experts": {"toy-b": "toy_several:b.toml", "toy-c": "toy_several:cards/c-1.toml"}},
        files={
            "toy_several/b.toml": card_toml("toy-b", ("toy_package", "toy_several")),
            "toy_several/cards/c-1.toml": card_toml("toy-c", ("toy_package", "toy_several")),
        },
    )
    assert [only(id).status for id in ("toy-b", "toy-c")] == ["ok", "ok"]


@pytest.mark.parametrize("name", ["toy-d", "mova-expert-toy-d/toy-d", " other , toy-d"])
def test_disabled(site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    site.install_expert("toy-d", card_toml("toy-d"))
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CardWarning)
        record = only("toy-d")
    assert record.status == "disabled"
    assert "MOVA_DISABLE_EXPERTS" in record.hint
    assert record.card is not None


def test_disabling_what_is_not_there_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "toy-nowhere")
    with pytest.warns(CardWarning, match="toy-nowhere"):
        discover()


def test_incompatible(site: Any, card_toml: CardText) -> None:
    site.install_expert("toy-e", card_toml("toy-e", ("api_version = 1", "api_version = 7")))
    record = only("toy-e")
    assert record.status == "incompatible"
    assert "api_version = 7" in record.problem
    assert "Update mova-core" in record.hint


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('title = "A toy"\n', ""), "`[expert] title` is missing"),
        (('id = "toy-f"', 'id = "toy-g"'), "another id than its entry point"),
        (("[expert]", "[expert"), "not valid TOML"),
    ],
)
def test_invalid_card(site: Any, card_toml: CardText, change: tuple[str, str], problem: str) -> None:
    site.install_expert("toy-f", card_toml("toy-f", change))
    record = only("toy-f")
    assert record.status == "invalid-card"
    assert problem in record.problem
    assert record.hint == "pip install --upgrade --force-reinstall --no-deps mova-expert-toy-f"
    assert record.source is not None
    assert record.card is None


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("toy_gone:expert.toml", "package toy_gone is not there"),
        ("toy_here:expert.toml", "package toy_here has no file expert.toml"),
        ("toy_here", "wrong form"),
        ("toy_here.inner:expert.toml", "wrong form"),
        (":expert.toml", "wrong form"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_an_invalid_card(site: Any, value: str, problem: str) -> None:
    site.install(
        "toy-lost",
        groups={"mova.experts": {"toy-h": value}},
        files={"toy_here/__init__.py": "raise RuntimeError", "toy_here/inner/expert.toml": ""},
    )
    record = only("toy-h")
    assert record.status == "invalid-card"
    assert problem in record.problem
    assert "toy_here" not in sys.modules


def test_entry_points_that_cannot_be_read_hide_no_other_distribution(site: Any, card_toml: CardText) -> None:
    info = site.install("toy-garbled", groups={}, files={})
    (info / "entry_points.txt").write_text("[mova.experts]\nthis line says nothing\n")
    site.install_expert("toy-i", card_toml("toy-i"))
    assert only("toy-i").status == "ok"
    record = only("toy-garbled")
    assert record.status == "invalid-card"
    assert "entry points cannot be read" in record.problem


@pytest.mark.parametrize(
    ("requirement", "named"),
    [
        ("toy-not-installed>=2", "toy-not-installed>=2"),
        ("pydantic>=999", "pydantic>=999"),
        ("a b c", "a b c"),
    ],
)
def test_missing_dependency_of_the_distribution(
    site: Any, card_toml: CardText, requirement: str, named: str
) -> None:
    site.install_expert("toy-j", card_toml("toy-j"), requires=["pydantic>=2", requirement])
    record = only("toy-j")
    assert record.status == "missing-dependency"
    assert record.problem == f"needs {named}"
    assert record.hint == f'pip install "{named}"'
    assert record.card is not None


def test_requirements_of_extras_and_other_systems_are_not_missed(site: Any, card_toml: CardText) -> None:
    requires = ['toy-none; extra == "all"', 'toy-none; sys_platform == "toy-os"']
    site.install_expert("toy-k", card_toml("toy-k"), requires=requires)
    assert only("toy-k").status == "ok"


def test_what_is_installed_after_a_discovery_is_seen_by_the_next(site: Any, card_toml: CardText) -> None:
    card = card_toml("toy-later", ("toy_package.code", "toy_code.code"))
    site.install_expert("toy-later", card, requires=["toy-needed>=2"])
    assert only("toy-later").problem == "needs toy-needed>=2"
    site.install("toy-needed", groups={}, files={}, version="2.1")
    importlib.invalidate_caches()
    assert only("toy-later").problem == "needs the package toy_code"
    site.install("toy-code", groups={}, files={"toy_code/__init__.py": ""})
    importlib.invalidate_caches()
    assert only("toy-later").status == "ok"


@pytest.mark.parametrize("version", ["1.9", "", "no version"])
def test_a_version_that_does_not_fit_or_is_none_misses_the_requirement(
    site: Any, card_toml: CardText, version: str
) -> None:
    site.install_expert("toy-old", card_toml("toy-old"), requires=["toy-needed>=2"])
    info = site.install("toy-needed", groups={}, files={})
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-needed\nVersion: {version}\n")
    assert only("toy-old").status == "missing-dependency"


def test_conflict_of_two_distributions(site: Any, card_toml: CardText) -> None:
    for distribution in ("toy-one", "toy-two"):
        site.install_expert("toy-l", card_toml("toy-l"), distribution=distribution)
    one, two = found("toy-l")
    assert (one.status, two.status) == ("conflict", "conflict")
    assert "toy-two" in one.problem and "toy-one" in two.problem
    assert "toy-one/toy-l" in one.hint


def test_disabling_one_of_two_ends_the_conflict(
    site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch
) -> None:
    for distribution in ("toy-one", "toy-two"):
        site.install_expert("toy-l", card_toml("toy-l"), distribution=distribution)
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "toy-one/toy-l")
    assert [record.status for record in found("toy-l")] == ["disabled", "ok"]


def test_a_broken_namesake_takes_nothing_from_the_one_that_works(site: Any, card_toml: CardText) -> None:
    site.install_expert("toy-m", None, distribution="toy-broken")
    site.install_expert("toy-m", card_toml("toy-m"), distribution="toy-whole")
    assert [record.status for record in found("toy-m")] == ["invalid-card", "ok"]


def test_a_distribution_on_the_path_twice_is_one(
    site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install_expert("toy-n", card_toml("toy-n"))
    monkeypatch.syspath_prepend(str(site.root) + "/.")
    assert only("toy-n").status == "ok"


def test_cards_of_the_user(card_toml: CardText) -> None:
    (card_directory() / "mine.toml").write_text(card_toml("toy-o", ("toy_package.code", "json.decoder")))
    (card_directory() / "broken.toml").write_text("[expert]")
    (card_directory() / "notes.txt").write_text("no card")
    mine, broken = only("toy-o"), only("broken")
    assert (mine.status, mine.distribution, mine.version) == ("ok", USER, "")
    assert (broken.status, broken.hint) == ("invalid-card", f"Correct {card_directory() / 'broken.toml'}.")


def test_a_card_of_the_user_without_its_package_misses_a_dependency(card_toml: CardText) -> None:
    (card_directory() / "mine.toml").write_text(card_toml("toy-p"))
    record = only("toy-p")
    assert record.status == "missing-dependency"
    assert record.problem == "needs the package toy_package"


def test_two_cards_of_the_user_with_one_id_say_which_files(card_toml: CardText) -> None:
    for name in ("a.toml", "b.toml"):
        (card_directory() / name).write_text(card_toml("toy-q", ("toy_package", "json")))
    one, two = found("toy-q")
    assert one.status == two.status == "conflict"
    assert "a.toml" in one.hint and "b.toml" in one.hint


def test_a_card_directory_that_is_not_there_warns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOVA_CARD_DIR", str(tmp_path / "nowhere"))
    with pytest.warns(CardWarning, match="MOVA_CARD_DIR names .*nowhere"):
        discover()


def test_strict_mode_raises_for_a_problem_and_not_for_what_is_switched_off(
    site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install_expert("toy-r", card_toml("toy-r", ("channels = 16\n", "")))
    monkeypatch.setenv("MOVA_STRICT_PLUGINS", "1")
    with pytest.raises(CardError, match="mova-expert-toy-r/toy-r is invalid-card"):
        discover()
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "toy-r")
    assert only("toy-r").status == "disabled"


statuses = st.sampled_from(["ok", "ok", "disabled", "invalid-card", "missing-dependency"])
records = st.lists(
    st.builds(
        ExpertRecord,
        id=st.sampled_from("abc"),
        status=statuses,
        distribution=st.sampled_from(["one", "two", "user"]),
        source=st.integers(0, 5).map(lambda number: Path(f"{number}.toml")),
    ),
    max_size=8,
    unique_by=lambda record: (record.id, record.distribution, record.source),
)


@given(records, st.randoms())
def test_the_order_of_discovery_changes_nothing(records: list[ExpertRecord], order: random.Random) -> None:
    shuffled = list(records)
    order.shuffle(shuffled)
    assert settle(shuffled) == settle(records)


@given(records)
def test_after_settling_an_id_is_ok_at_most_once_and_nothing_is_lost(records: list[ExpertRecord]) -> None:
    settled = settle(records)
    usable = [record.id for record in settled if record.status == "ok"]
    assert len(usable) == len(set(usable))
    assert len(settled) == len(records)
    assert {r.id for r in records if r.status == "ok"} == {
        r.id for r in settled if r.status in ("ok", "conflict")
    }


MODEL = """
[model]
id = "toy-model"
title = "A toy model"
checkpoint = "weights"
licence = "MIT"
"""


def install_model(site: Any, files: dict[str, str], name: str = "toy-model") -> None:
    site.install("toy-models", groups={"mova.models": {name: "toy_models:model.toml"}}, files=files)


def test_a_model_is_found_with_its_checkpoint(site: Any) -> None:
    install_model(site, {"toy_models/model.toml": MODEL, "toy_models/weights/config.json": "{}"})
    (record,) = [record for record in discover_models() if record.id == "toy-model"]
    assert (record.status, record.distribution, record.parts) == ("ok", "toy-models", ())
    assert record.checkpoint == site.root / "toy_models" / "weights"


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"toy_models/model.toml": MODEL}, "`[model] checkpoint` is not there"),
        ({"toy_models/model.toml": MODEL.replace("title", "titel")}, "`[model] title` is missing"),
        ({"toy_models/model.toml": MODEL.replace("toy-model", "other")}, "another id"),
        ({"toy_models/__init__.py": ""}, "has no file model.toml"),
    ],
)
@pytest.mark.filterwarnings("ignore::mova_core.cards.warning.CardWarning")
def test_a_broken_model_is_listed_with_its_problem(site: Any, files: dict[str, str], problem: str) -> None:
    install_model(site, files)
    (record,) = [record for record in discover_models() if record.id == "toy-model"]
    assert record.status == "invalid-card"
    assert problem in record.problem
