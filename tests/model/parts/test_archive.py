"""Archives are taken apart only as far as they behave."""

from __future__ import annotations

import io
import stat
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import PartsError
from mova_core.model.parts.archive import extract

ROOM = 1 << 20


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def target_in(folder: Path) -> Path:
    target = folder / "target"
    target.mkdir()
    return target


@pytest.mark.parametrize(("make", "name"), [(zipped, "a.whl"), (zipped, "a.zip"), (tarred, "a.tar.gz")])
def test_a_folder_gives_its_content_and_a_file_itself(tmp_path, make, name):
    entries = {"pkg/m/a.bin": b"a", "pkg/m/sub/b.bin": b"b", "pkg/model.bin": b"c", "pkg/mm": b"d"}
    archive, target = make(tmp_path / name, entries), target_in(tmp_path)
    extract(archive, "pkg/m", target, limit=ROOM)
    extract(archive, "pkg/model.bin", target, limit=ROOM)
    found = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == {"a.bin": b"a", "sub/b.bin": b"b", "model.bin": b"c"}


@pytest.mark.parametrize("name", ["pkg/../../evil", "pkg//etc/evil", "pkg/..\\evil", "pkg/C:/evil", "pkg/.."])
@pytest.mark.parametrize(("make", "kind"), [(zipped, "a.whl"), (tarred, "a.tar.gz")])
def test_a_path_that_leaves_the_folder_is_refused_before_anything_is_written(tmp_path, name, make, kind):
    archive, target = make(tmp_path / kind, {"pkg/good": b"", name: b"evil"}), target_in(tmp_path)
    with pytest.raises(PartsError, match="leaves its folder"):
        extract(archive, "pkg", target, limit=ROOM)
    assert list(target.iterdir()) == []


def test_hostile_entries_elsewhere_do_no_harm(tmp_path):
    archive = zipped(tmp_path / "a.whl", {"pkg/good": b"good", "../evil": b"evil"})
    extract(archive, "pkg", target_in(tmp_path), limit=ROOM)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"a.whl", "good"}


PIECES = st.sampled_from(["..", ".", "", "a", "b", "C:", "~", "x\\y"])


@given(st.lists(st.lists(PIECES, max_size=4), max_size=4))
def test_whatever_the_names_nothing_is_written_outside_the_target(places):
    entries = {"/".join(["pkg", *pieces]): b"x" for pieces in places}
    with tempfile.TemporaryDirectory() as folder:
        archive, target = zipped(Path(folder, "a.zip"), entries), Path(folder, "1/2/3/4/target")
        target.mkdir(parents=True)
        with suppress(PartsError, OSError):  # refused, or names that exclude each other: "a" and "a/b"
            extract(archive, "pkg", target, limit=ROOM)
        written = {path for path in Path(folder).rglob("*") if path.is_file()}
        assert all(path.is_relative_to(target) for path in written - {archive})


def test_links_are_refused(tmp_path):
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("pkg/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(PartsError, match="link"):
        extract(path, "pkg", target_in(tmp_path), limit=ROOM)

    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("pkg/link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(PartsError, match="link"):
        extract(path, "pkg", tmp_path / "target", limit=ROOM)


def test_a_member_that_unpacks_to_too_much_is_refused_unopened(tmp_path):
    archive, target = zipped(tmp_path / "a.whl", {"pkg/bomb": bytes(10 * ROOM)}), target_in(tmp_path)
    assert archive.stat().st_size < ROOM / 50
    with pytest.raises(PartsError, match="too large unpacked; got 10,485,760 bytes"):
        extract(archive, "pkg", target, limit=ROOM)
    assert list(target.iterdir()) == []


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path):
    honest = zipped(tmp_path / "a.whl", {"pkg/file": b"x" * 5000}).read_bytes()
    announced, claimed = (5000).to_bytes(4, "little"), (50).to_bytes(4, "little")
    assert honest.count(announced) == 2  # the local header and the directory at the end
    (tmp_path / "a.whl").write_bytes(honest.replace(announced, claimed))
    target = target_in(tmp_path)
    with pytest.raises(PartsError):
        extract(tmp_path / "a.whl", "pkg", target, limit=ROOM)
    assert sum(path.stat().st_size for path in target.rglob("*")) <= 50


@pytest.mark.parametrize("name", ["a.whl", "a.tar.gz"])
def test_a_broken_archive_is_an_error(tmp_path, name):
    make = zipped if name == "a.whl" else tarred
    content = make(tmp_path / name, {"pkg/file": bytes(range(256)) * 64}).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(PartsError, match="cannot be read"):
        extract(tmp_path / name, "pkg", target_in(tmp_path), limit=ROOM)
