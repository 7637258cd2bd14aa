"""What the cache notices about the folders it holds."""

from __future__ import annotations

import os
import shutil

import pytest

from mova_core.errors import PartsError
from mova_core.model.parts import damage, ensure, part_path, stored


def test_an_intact_part_has_no_damage(part):
    folder = ensure(part)
    assert damage(part) == []
    assert stored(part) == stored(part, thorough=True) == folder


def test_a_truncated_file_is_noticed_and_fetched_again(part, index):
    weights = ensure(part) / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert damage(part) == [f"{weights}: 1,000 bytes, expected 102,400"]
    assert stored(part) is None
    with pytest.raises(PartsError):
        part_path("tiny")
    ensure(part)
    assert weights.read_bytes() == whole
    assert not [path for path in weights.parent.parent.iterdir() if path != weights.parent]


def test_a_missing_file_is_noticed(part):
    path = ensure(part) / "sub" / "config.json"
    path.unlink()
    assert damage(part) == [f"{path}: missing"]
    assert stored(part) is None


def test_a_changed_byte_is_noticed_when_content_is_read(part):
    weights = ensure(part) / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(b"\xff" + content[1:])
    assert stored(part) is not None
    assert stored(part, thorough=True) is None
    assert damage(part) == [f"{weights}: content differs from what was stored"]
    assert (ensure(part, thorough=True) / "weights.bin").read_bytes() == content


def test_a_folder_without_a_readable_manifest_is_not_a_part(part):
    folder = ensure(part)
    (folder / "part.json").write_text("{")
    assert stored(part) is None
    assert "no readable part.json" in damage(part)[0]
    assert damage(part.model_copy(update={"id": "other"}))[0].endswith("not there")


def test_another_member_of_the_same_archive_is_not_what_is_there(part):
    ensure(part)
    single = part.model_copy(update={"member": "tiny_part/model/weights.bin"})
    assert stored(single) is None
    assert "another specification" in damage(single)[0]
    assert {path.name for path in ensure(single).iterdir()} == {"weights.bin", "part.json"}


def test_a_folder_may_be_named_with_or_without_a_slash(part):
    assert stored(part.model_copy(update={"member": "tiny_part/model"})) is None
    assert ensure(part) == stored(part.model_copy(update={"member": "tiny_part/model"}))


def test_of_two_versions_the_one_made_last_is_meant_unless_one_is_named(part):
    folder = ensure(part)
    later = folder.with_name("0" * 12)
    shutil.copytree(folder, later)
    os.utime(later / "part.json", (2e9, 2e9))
    assert part_path("tiny") == later
    manifest = (later / "part.json").read_text()
    (later / "part.json").write_text(manifest.replace(part.sha256, "0" * 64))
    assert part_path("tiny", sha256=part.sha256) == folder
    assert part_path("tiny", sha256="0" * 64) == later


def test_files_get_the_permissions_of_ordinary_files(part):
    folder = ensure(part)
    ordinary = folder / "ordinary"
    ordinary.touch()
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {ordinary.stat().st_mode}
