"""The curated index: every entry of this repository, and what a wrong one is told."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from mova_core.cards.manifest import read_expert_card, read_model_card
from mova_core.cards.registry import RegistryEntry, parse_registry, read_registry
from mova_core.cards.sources import FolderSource
from mova_core.cards.warning import CardWarning
from mova_core.errors import CardError

ROOT = Path(__file__).parents[2]
REGISTRY = ROOT / "registry"
README = (REGISTRY / "README.md").read_text()
EXAMPLE = README.split("```toml\n")[1].split("```")[0]
HEAD = EXAMPLE.partition("[source]")[0]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32


def read_one(folder: Path, text: str) -> RegistryEntry:
    (folder / "my-expert.toml").write_text(text)
    (entry,) = read_registry(folder)
    return entry


def test_every_entry_of_this_repository_is_valid_and_none_is_lost() -> None:
    ids = [entry.id for entry in read_registry(REGISTRY)]
    assert ids == sorted(path.stem for path in REGISTRY.glob("*.toml"))


def of_this_repository() -> list[Any]:
    entries = [entry for entry in read_registry(REGISTRY) if isinstance(entry.source, FolderSource)]
    return [pytest.param(entry, entry.source, id=entry.id) for entry in entries]


@pytest.mark.parametrize(("entry", "source"), of_this_repository())
def test_an_entry_of_this_repository_agrees_with_the_card_in_its_folder(
    entry: RegistryEntry, source: FolderSource
) -> None:
    project = tomllib.loads((ROOT / source.path / "pyproject.toml").read_text())["project"]
    assert project["name"] == entry.distribution
    assert project["license"] == entry.code_licence
    known = {other.distribution: other.id for other in read_registry(REGISTRY)}
    needed = {Requirement(text).name for text in project["dependencies"]}
    assert {known[name] for name in needed & known.keys()} == set(entry.needs)
    if entry.kind == "factory":
        assert "mova.experts" not in project.get("entry-points", {})
        return
    group = "mova.models" if entry.kind == "model" else "mova.experts"
    package, _, file = project["entry-points"][group][entry.id].partition(":")
    path = ROOT / source.path / package / file
    if entry.kind == "model":
        model = read_model_card(path)
        assert (model.title, model.licence) == (entry.title, entry.weights_licence)
        return
    card = read_expert_card(path)
    told = (card.id, card.role, card.title, card.code_licence, card.weights.licence)
    assert told == (entry.id, entry.kind, entry.title, entry.code_licence, entry.weights_licence)


def test_every_plugin_of_this_repository_has_an_entry() -> None:
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml")}
    assert folders <= {entry.distribution for entry in read_registry(REGISTRY)}


def test_the_example_of_the_readme_is_a_whole_entry(tmp_path: Path) -> None:
    entry = read_one(tmp_path, EXAMPLE)
    assert entry.distribution == "mova-expert-my-expert"
    stated = tomllib.loads(EXAMPLE)
    assert {*stated["entry"], "source", "needs"} == RegistryEntry.model_fields.keys()


@pytest.mark.parametrize("key", sorted(RegistryEntry.model_fields.keys() - {"source", "needs"}))
def test_a_missing_key_is_named_with_the_file(tmp_path: Path, key: str) -> None:
    lines = [line for line in HEAD.splitlines() if not line.startswith(f"{key} ")]
    source = EXAMPLE.removeprefix(HEAD)
    with pytest.raises(CardError, match=rf"my-expert.toml: key `\[entry\] {key}` is missing"):
        read_one(tmp_path, "\n".join(lines) + "\n" + source)


def test_an_entry_without_a_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"table `\[source\]` is missing"):
        read_one(tmp_path, HEAD)


def test_a_file_is_named_after_its_id(tmp_path: Path) -> None:
    (tmp_path / "another.toml").write_text(EXAMPLE)
    with pytest.raises(CardError, match="expected my-expert.toml"):
        read_registry(tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "folder", "path": "plugins/mine"},
        {"kind": "folder", "path": "mine", "repository": "https://example.org/r.git", "revision": COMMIT},
        {"kind": "git", "url": "https://example.org/r.git", "revision": COMMIT},
        {"kind": "git", "url": "https://example.org/r.git", "revision": COMMIT, "subdirectory": "a/b"},
        {"kind": "index", "requirement": "mova-expert-my-expert==1.2", "sha256": [DIGEST, DIGEST]},
    ],
    ids=lambda source: "-".join(source),
)
def test_a_source_reads_the_same_from_toml_and_from_json(tmp_path: Path, source: dict[str, Any]) -> None:
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in source.items())
    entry = read_one(tmp_path, f"{HEAD}[source]\n{table}\n")
    assert entry.source.model_dump(mode="json", exclude_none=True) == source
    row = tomllib.loads(HEAD)["entry"] | {"source": source}
    assert parse_registry(json.dumps([row]), "index.json") == [entry]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("path = 'a'", r"key `\[source\] kind` is missing"),
        ("kind = 'pypi'", r"`\[source\] kind` is wrong; got pypi; expected 'folder', 'git', 'index'"),
        ("kind = 'folder'", r"key `\[source\] path` is missing"),
        ("kind = 'folder'\npath = '../outside'", r"`\[source\] path` is wrong: .*inside its folder"),
        ("kind = 'folder'\npath = '/etc'", r"`\[source\] path` is wrong"),
        ("kind = 'folder'\npath = 'a'\nrepository = 'https://e.org/r'", "go together"),
        ("kind = 'git'\nurl = 'https://e.org/r'", r"key `\[source\] revision` is missing"),
        ("kind = 'git'\nurl = 'https://e.org/r'\nrevision = 'main'", "a full commit"),
        (f"kind = 'git'\nurl = 'http://e.org/r'\nrevision = '{COMMIT}'", "an https URL"),
        (f"kind = 'git'\nurl = 'https://u:p@e.org/r'\nrevision = '{COMMIT}'", "an https URL without user"),
        (f"kind = 'git'\nurl = 'ssh://e.org/r'\nrevision = '{COMMIT}'", "an https URL"),
        (f"kind = 'index'\nrequirement = 'mova-expert-my-expert>=1'\nsha256 = ['{DIGEST}']", "name==version"),
        (f"kind = 'index'\nrequirement = 'another==1'\nsha256 = ['{DIGEST}']", "is of another"),
        ("kind = 'index'\nrequirement = 'mova-expert-my-expert==1'\nsha256 = []", "at least 1 item"),
        ("kind = 'index'\nrequirement = 'mova-expert-my-expert==1'\nsha256 = ['no']", "64 lower-case"),
    ],
)
def test_a_wrong_source_is_refused_by_its_key(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises(CardError, match=said) as raised:
        read_one(tmp_path, f"{HEAD}[source]\n{source}\n")
    assert "my-expert.toml" in str(raised.value)


def test_a_key_of_another_kind_of_source_is_unknown(tmp_path: Path) -> None:
    text = f"{HEAD}[source]\nkind = 'folder'\npath = 'a'\nurl = 'https://example.org'\n"
    with pytest.warns(CardWarning, match=r"unknown key `\[source\] url`"):
        read_one(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"entries": []}', "expected a JSON list"),
        ("[1]", "expected a JSON list"),
        ("[{}]", "index.json, entry 1: key .* is missing"),
        ('[{"id": "x", "source": "pypi"}]', "index.json, entry 1"),
    ],
)
def test_a_wrong_json_index_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(CardError, match=said):
        parse_registry(text, "index.json")


def test_a_json_index_names_each_id_once() -> None:
    stated = tomllib.loads(EXAMPLE)
    row = stated["entry"] | {"source": stated["source"]}
    with pytest.raises(CardError, match="several entries of one id; got my-expert"):
        parse_registry(json.dumps([row, row]), "index.json")
