"""Where weights are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from mova_core.cards.weights import Source, locate


@pytest.mark.parametrize(
    "source",
    [
        "package:weights/a.safetensors",
        "part:nano/base",
        "hf:owner/name",
        "file:~/a.pth",
        "https://host/a.bin",
    ],
)
def test_sources_of_each_kind_are_understood(source: str) -> None:
    assert TypeAdapter(Source).validate_python(source) == source


@pytest.mark.parametrize(
    "source", ["", "owner/name", "hf:name", "part:nano", "package:/etc/x", "http://host/a"]
)
def test_other_sources_are_refused(source: str) -> None:
    with pytest.raises(ValidationError, match="must be package:FILE"):
        TypeAdapter(Source).validate_python(source)


def test_package_files_lie_beside_the_card(tmp_path: Path) -> None:
    assert locate("package:a.bin", beside=tmp_path) is None
    (tmp_path / "a.bin").touch()
    assert locate("package:a.bin", beside=tmp_path) == tmp_path / "a.bin"
    assert locate("package:a.bin") is None


def test_files_of_this_machine(tmp_path: Path) -> None:
    assert locate(f"file:{tmp_path}") == tmp_path
    assert locate(f"file:{tmp_path}/none") is None


def test_hub_repositories_are_found_by_branch_and_by_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    snapshot = folder / "snapshots" / "c0ffee"
    assert locate("hf:owner/name") is None
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("c0ffee")
    assert locate("hf:owner/name") == snapshot
    assert locate("hf:owner/name", revision="c0ffee") == snapshot
    assert locate("hf:owner/name", revision="another") is None
