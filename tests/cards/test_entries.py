"""Entry points and their owners, read from the files that installers write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mova_core.cards.entries import Entry, entries

GROUP = "toy.group"


def write(site: Any, name: str, metadata: str, entry_points: str) -> None:
    folder: Path = site.root / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(metadata.encode())
    (folder / "entry_points.txt").write_text(entry_points)


def only(name: str) -> Entry:
    (entry,) = [entry for entry in entries(GROUP) if entry.name == name]
    return entry


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_an_owner_is_read_from_the_headers_alone(site: Any, newline: str) -> None:
    lines = [
        "Metadata-Version: 2.1",
        "NAME: Toy_Owner.X",
        "version:3.1",
        "Description-Name: no",
        "Requires-Dist: one>=1",
        "Requires-Dist: two ;",
        "\tpython_version > '3'",
        "",
        "Version: 9",
        "Requires-Dist: three",
    ]
    write(site, "toy_owner_x", newline.join(lines), f"[{GROUP}]\na = b:c\n")
    owner = only("a").owner
    assert (owner.name, owner.version) == ("toy-owner-x", "3.1")
    assert owner.requires == ("one>=1", "two ; python_version > '3'")


def test_an_owner_without_headers_is_unnamed(site: Any) -> None:
    write(site, "toy_none", "", f"[{GROUP}]\na = b:c\n")
    assert (only("a").owner.name, only("a").owner.version, only("a").owner.requires) == ("unnamed", "", ())


def test_what_one_file_says_is_said_by_no_other(site: Any) -> None:
    for name, points in {
        "toy_a": f"[DEFAULT]\nstray = x:y\n[{GROUP}]\na = b:c\n",
        "toy_b": f"[{GROUP}]\nb = b:c\nthis line says nothing\n",
        "toy_c": f"[other]\nx = b:c\n[{GROUP}]\nc = d:e\n",
        "toy_d": f"[other]\n# {GROUP} is not here\ny = b:c\n",
    }.items():
        write(site, name, f"Name: {name}\nVersion: 1\n", points)
    found = {(entry.owner.name, entry.name, entry.value) for entry in entries(GROUP)}
    assert found == {("toy-a", "a", "b:c"), ("toy-b", "toy-b", ""), ("toy-c", "c", "d:e")}
    assert "this line says nothing" in only("toy-b").broken


def test_names_keep_their_case_and_values_their_colons(site: Any) -> None:
    write(site, "toy_case", "Name: toy-case\n", f"[{GROUP}]\nAb = Package:file.toml\n")
    assert only("Ab").value == "Package:file.toml"
