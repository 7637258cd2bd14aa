"""`ensure` against a package index on this machine: the good way, and everything that can go wrong on it."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mova_core.errors import PartsError
from mova_core.model.parts import ConsoleProgress, ensure, part_folder, part_path

Usage = namedtuple("Usage", "total used free")


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def left_in(cache: Path) -> set[str]:
    """Names of all files in the cache, locks apart."""
    return {p.name for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"}


def assert_fetched(folder: Path) -> None:
    found = files_of(folder)
    assert found.pop("part.json")
    assert found == {"weights.bin": bytes(range(256)) * 400, "sub/config.json": b"{}"}


def test_a_part_is_fetched_and_its_archive_is_not_kept(part, cache):
    folder = ensure(part)
    assert folder == cache / "parts" / "tiny" / part.sha256[:12] == part_folder(part) == part_path("tiny")
    assert_fetched(folder)
    assert left_in(cache) == {"part.json", "weights.bin", "config.json"}


def test_what_is_there_needs_no_network(part, index, monkeypatch):
    folder = ensure(part)
    index.requests.clear()
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    assert ensure(part) == ensure(part, thorough=True) == folder
    assert index.requests == []


def test_offline_a_missing_part_is_an_error_that_names_the_command(part, index, monkeypatch):
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    with pytest.raises(PartsError, match="tiny.*mova models pull"):
        ensure(part)
    with pytest.raises(PartsError, match="tiny.*mova models pull"):
        part_path("tiny")
    assert index.requests == []


def test_progress_is_said_with_name_and_size(part):
    written = io.StringIO()
    ensure(part, progress=ConsoleProgress(Console(file=written, width=200)))
    assert "tiny: fetching tiny_part-1.0-py3-none-any.whl (102.8 kB)" in written.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("announced", [True, False])
def test_both_forms_of_the_simple_api_are_read(part, index, as_json, announced):
    index.as_json = as_json
    index.digests = {part.filename: part.sha256} if announced else {}
    assert_fetched(ensure(part))


def test_a_cut_connection_is_resumed_where_it_broke(part, index):
    index.cuts = [1000, 500]
    assert_fetched(ensure(part))
    assert index.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_server_that_cannot_resume_is_asked_again(part, index):
    index.cuts, index.honours_range = [1000], False
    assert_fetched(ensure(part))
    assert index.ranges == [None, "bytes=1000-"]


def test_a_later_call_continues_an_interrupted_one(part, index, cache):
    index.cuts = [1000, 0, 0]
    with pytest.raises(PartsError, match=r"1,000 bytes; expected 102,\d+.*resumes"):
        ensure(part)
    assert not part_folder(part).exists()
    index.requests.clear()
    assert_fetched(ensure(part))
    assert index.ranges == ["bytes=1000-"]


def test_a_damaged_beginning_is_thrown_away(part, index, cache):
    index.cuts = [1000, 0, 0]
    with pytest.raises(PartsError):
        ensure(part)
    [partial] = cache.rglob("*.part")
    partial.write_bytes(b"x" * 1000)
    index.requests.clear()
    assert_fetched(ensure(part))
    assert index.ranges == ["bytes=1000-", None]


def test_no_byte_more_than_announced_is_taken(part, index, wheel):
    index.files[part.filename] = wheel + b"more"
    assert_fetched(ensure(part))


def test_a_file_with_a_wrong_checksum_is_refused_and_removed(part, index, wheel, cache):
    index.files[part.filename] = b"x" + wheel[1:]
    with pytest.raises(PartsError, match=f"checksum.*expected {part.sha256}"):
        ensure(part)
    assert left_in(cache) == set()


def test_an_index_that_announces_another_checksum_is_not_even_asked(part, index):
    index.digests = {part.filename: "0" * 64}
    with pytest.raises(PartsError, match="another file under the name"):
        ensure(part)
    assert index.ranges == []


def test_a_file_that_is_too_short_is_an_error(part, index, wheel, cache):
    index.files[part.filename] = wheel[:-10]
    with pytest.raises(PartsError, match="could not be fetched"):
        ensure(part)
    assert not part_folder(part).exists()


def test_every_index_is_asked_and_named(part, index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.port}/nothing/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"file:///srv/simple {index.url}")
    assert_fetched(ensure(part))

    absent = part.model_copy(update={"filename": "absent.whl", "sha256": "0" * 64})
    with pytest.raises(PartsError) as failure:
        ensure(absent)
    for reason in ("HTTP status 404", "not an HTTP index", "but not this file"):
        assert reason in str(failure.value)


def test_an_index_that_is_not_reached_is_said_so(part, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(PartsError, match=r"127.0.0.1:9/simple \(not reached: ConnectionError\)"):
        ensure(part)


def test_credentials_of_the_index_are_used_for_its_files_and_never_shown(part, index, monkeypatch):
    index.login = "me:secret"
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:secret@"))
    assert_fetched(ensure(part))

    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:wrong@"))
    shutil.rmtree(part_folder(part))
    with pytest.raises(PartsError, match="HTTP status 401") as failure:
        ensure(part)
    assert "wrong" not in str(failure.value)


def test_too_little_space_stops_before_the_first_request(part, index, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 1234))
    with pytest.raises(PartsError, match=r"257,\d+ bytes are needed, 1,234 are free.*MOVA_CACHE"):
        ensure(part)
    assert index.requests == []


@pytest.mark.parametrize("suffix", [".part", ".bin", ".json"], ids=["download", "unpacking", "manifest"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(part, cache, monkeypatch, suffix):
    opened = Path.open

    def open_full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if path.suffix == suffix and set(mode) & set("awx"):
            opened(path, mode, *args, **kwargs).close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(PartsError, match="not enough disk space.*No space left on device.*MOVA_CACHE"):
        ensure(part)
    assert left_in(cache) <= {f"{part.sha256[:12]}-{part.filename}"}  # whole and checked, or not there

    monkeypatch.undo()
    monkeypatch.setenv("MOVA_CACHE", str(cache))
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    with pytest.raises(PartsError):
        ensure(part)


def test_a_cache_that_is_a_file_is_one_line(part, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOVA_CACHE", str(tmp_path / "file"))
    with pytest.raises(PartsError, match="cannot be written.*MOVA_CACHE"):
        ensure(part)


def test_two_at_once_fetch_once(part, index):
    start = threading.Barrier(2)
    folders: list[Path] = []

    def fetch() -> None:
        start.wait()
        folders.append(ensure(part))

    threads = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [part_folder(part)] * 2
    assert len(index.ranges) == 1


def test_a_member_that_is_not_in_the_archive_is_named(part):
    with pytest.raises(PartsError, match="no such member; got tiny_part/other"):
        ensure(part.model_copy(update={"member": "tiny_part/other"}))


def test_a_file_that_is_no_archive_is_an_error(part, index):
    content = b"not a zip" * 100
    index.files[part.filename] = content
    wrong = part.model_copy(
        update={"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    )
    with pytest.raises(PartsError, match="cannot be read"):
        ensure(wrong)


def test_a_failed_conversion_leaves_no_folder_and_keeps_the_archive(part, index):
    broken = part.model_copy(update={"convert": "timm:test_efficientnet", "member": "tiny_part/__init__.py"})
    with pytest.raises(PartsError, match="could not be converted"):
        ensure(broken)
    assert not part_folder(part).exists()
    assert_fetched(ensure(part))
    assert len(index.ranges) == 1
