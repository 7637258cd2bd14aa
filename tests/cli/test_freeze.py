"""`mova experts freeze` and `restore`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.cards.lock import LockedDistribution, LockedExpert, PoolLock, differences, parse_lock
from mova_core.cards.origins import ArchiveOrigin, FolderOrigin, GitOrigin, IndexOrigin, origin_of

Mova = Callable[..., Any]
CardText = Callable[..., str]
Make = Callable[..., Path]

COMMIT, OTHER_COMMIT = "0123456789" * 4, "abcdef0123" * 4
DIGEST, OTHER_DIGEST = "ab" * 32, "cd" * 32
INSTALL = ["pip", "install", "--python", sys.executable]


def frozen(mova: Mova) -> dict[str, Any]:
    result = mova("experts", "freeze")
    assert result.code == 0
    lock: dict[str, Any] = json.loads(result.out)
    return lock


def of(lock: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [row for row in lock["distributions"] if row["name"] == name]
    return dict(found)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a test installs is found, so that only that is compared and restored."""
    from mova_core.cards import installed

    everything = installed.installed
    monkeypatch.setattr(
        "mova_core.cards.snapshot.installed",
        lambda: {name: found for name, found in everything().items() if name.startswith("mova-expert-toy-")},
    )


# freezing


def test_a_lock_holds_versions_card_hashes_and_revisions(mova: Mova, site: Any, card_toml: CardText) -> None:
    site.install_expert("toy-f", card_toml("toy-f"))
    described = json.loads(mova("experts", "describe", "toy-f", "--json").out)
    assert of(frozen(mova), "mova-expert-toy-f") == {
        "name": "mova-expert-toy-f",
        "version": "1.0",
        "origin": {"kind": "index"},
        "experts": [{"id": "toy-f", "card_hash": described["card_hash"], "revision": "1"}],
        "models": [],
    }


def test_a_branch_of_weights_is_frozen_at_the_commit_on_disk(
    mova: Mova, site: Any, card_toml: CardText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--toy--ball" / "snapshots" / COMMIT).mkdir(parents=True)
    (tmp_path / "models--toy--ball" / "refs").mkdir()
    (tmp_path / "models--toy--ball" / "refs" / "main").write_text(COMMIT)
    changes = (("package:weights.safetensors", "hf:toy/ball"), ('revision = "1"', 'revision = "main"'))
    site.install_expert("toy-hub", card_toml("toy-hub", *changes))
    (expert,) = of(frozen(mova), "mova-expert-toy-hub")["experts"]
    assert (expert["revision"], expert["commit"]) == ("main", COMMIT)


@pytest.mark.parametrize(
    ("direct_url", "origin"),
    [
        (None, IndexOrigin()),
        ("{}", IndexOrigin()),
        ("[", IndexOrigin()),
        ('{"url": "file:///a%20b", "dir_info": {"editable": true}}', FolderOrigin(path="/a b")),
        (
            f'{{"url": "https://e.org/r", "vcs_info": {{"vcs": "git", "commit_id": "{COMMIT}"}}, '
            '"subdirectory": "s"}',
            GitOrigin(url="https://e.org/r", revision=COMMIT, subdirectory="s"),
        ),
        (
            f'{{"url": "https://e.org/t.whl", "archive_info": {{"hash": "sha256={DIGEST}"}}}}',
            ArchiveOrigin(url="https://e.org/t.whl", sha256=DIGEST),
        ),
        (
            f'{{"url": "file:///tmp/t.whl", "archive_info": {{"hashes": {{"sha256": "{DIGEST}"}}}}}}',
            IndexOrigin(sha256=DIGEST),
        ),
        ('{"url": "https://e.org/t.whl", "archive_info": {}}', ArchiveOrigin(url="https://e.org/t.whl")),
    ],
)
def test_an_origin_is_what_the_installer_left(direct_url: str | None, origin: object) -> None:
    assert origin_of(direct_url) == origin


def test_cards_of_ones_own_are_frozen_letter_by_letter(mova: Mova, card_toml: CardText) -> None:
    text = "# mine, \u00fc\r\n" + card_toml("toy-own")
    (Path(os.environ["MOVA_CARD_DIR"]) / "toy-own.toml").write_bytes(text.encode())
    (Path(os.environ["MOVA_CARD_DIR"]) / "toy-bytes.toml").write_bytes(b"\xff")
    result = mova("experts", "freeze")
    assert json.loads(result.out)["cards"] == {"toy-own.toml": text}
    assert "toy-bytes.toml is not in the lock" in result.err
    assert "the package toy_package, which a card of yours names, belongs to no distribution" in result.err


def test_the_code_behind_a_card_of_ones_own_is_frozen_too(mova: Mova, site: Any, card_toml: CardText) -> None:
    site.install("toy-any", groups={}, files={"toy_any/__init__.py": ""})
    card = card_toml("toy-own").replace("toy_package", "toy_any")
    (Path(os.environ["MOVA_CARD_DIR"]) / "toy-own.toml").write_text(card)
    assert of(frozen(mova), "toy-any")["version"] == "1.0"


def test_broken_plugins_are_frozen_by_name_and_said(mova: Mova, site: Any, card_toml: CardText) -> None:
    site.install_expert("toy-whole", card_toml("toy-whole"))
    site.install_expert("toy-lost", None)
    info = site.install("toy-points", groups={}, files={})
    (info / "entry_points.txt").write_text("[mova.experts]\nx\n[[")
    info = site.install("toy-bytes", groups={"mova.hooks": {"toy-bytes": "toy_bytes"}}, files={})
    (info / "METADATA").write_bytes(b"Name: \xff\nVersion: 1\n")
    result = mova("experts", "freeze")
    assert result.code == 0
    lock = json.loads(result.out)
    assert of(lock, "mova-expert-toy-whole")["experts"][0]["card_hash"]
    assert of(lock, "mova-expert-toy-lost")["experts"] == [{"id": "toy-lost"}]
    assert of(lock, "toy-points")["experts"] == [{"id": "toy-points"}]
    assert "warning: toy-lost of mova-expert-toy-lost is invalid-card" in result.err
    assert "its metadata has no proper name" in result.err


def test_a_lock_is_written_whole_or_not_at_all(mova: Mova, tmp_path: Path) -> None:
    path = tmp_path / "new" / "pool.json"
    assert mova("experts", "freeze", str(path)).out.startswith(f"{path}: ")
    assert [file.name for file in path.parent.iterdir()] == ["pool.json"]
    assert json.loads(path.read_text())["format"] == 1
    result = mova("experts", "freeze", str(path.parent))
    assert (result.code, [file.name for file in tmp_path.iterdir()]) == (2, ["new"])
    assert "it cannot be written" in result.err


# locks

locks = st.builds(
    PoolLock,
    mova_core=st.just("0.1.0"),
    distributions=st.lists(
        st.builds(
            LockedDistribution,
            name=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True),
            version=st.just("1.0"),
            origin=st.sampled_from(
                [
                    FolderOrigin(path="/a"),
                    GitOrigin(url="https://e.org/r", revision=COMMIT),
                    ArchiveOrigin(url="https://e.org/t.whl", sha256=DIGEST),
                    IndexOrigin(sha256=DIGEST),
                    IndexOrigin(),
                ]
            ),
            experts=st.lists(
                st.builds(
                    LockedExpert,
                    id=st.text(max_size=5),
                    card_hash=st.sampled_from([None, DIGEST, OTHER_DIGEST]),
                    revision=st.none() | st.text(max_size=5),
                ),
                max_size=3,
                unique_by=lambda expert: expert.id,
            ).map(tuple),
        ),
        max_size=3,
        unique_by=lambda distribution: distribution.name,
    ).map(tuple),
    cards=st.dictionaries(st.from_regex(r"[a-z]+\.toml", fullmatch=True), st.text(max_size=30), max_size=3),
)


@given(locks)
def test_a_lock_reads_as_it_was_written_and_differs_in_nothing_from_itself(lock: PoolLock) -> None:
    again = parse_lock(lock.text(), "lock")
    assert again == lock
    assert differences(lock, again) == []


@given(locks, locks)
def test_what_is_there_besides_is_no_difference(lock: PoolLock, more: PoolLock) -> None:
    names = {distribution.name for distribution in lock.distributions}
    others = tuple(other for other in more.distributions if other.name not in names)
    both = lock.model_copy(
        update={"distributions": lock.distributions + others, "cards": {**more.cards, **lock.cards}}
    )
    assert differences(lock, both) == []
    lacking = differences(both, lock)
    assert bool(lacking) == bool(others or more.cards.keys() - lock.cards.keys())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no lock that this version can read"),
        ("[]", "is no lock that this version can read"),
        ('{"format": 2, "mova_core": "1"}', "format: "),
        ('{"format": 1}', "mova_core: Field required"),
        ('{"mova_core": "1", "cards": {"../../x.toml": ""}}', "the name of a *.toml file, without a folder"),
        ('{"mova_core": "1", "cards": {"x.py": ""}}', "the name of a *.toml file, without a folder"),
        (
            '{"mova_core": "1", "distributions": [{'
            '"name": "--index-url", "version": "1", "origin": {"kind": "index"}}]}',
            "distributions.0.name: ",
        ),
        (
            '{"mova_core": "1", "distributions": [{'
            '"name": "a", "version": "1 --x", "origin": {"kind": "index"}}]}',
            "distributions.0.version: ",
        ),
        (
            '{"mova_core": "1", "distributions": [{'
            '"name": "a", "version": "1", "origin": {"kind": "hope"}}]}',
            "distributions.0.origin: ",
        ),
        (" " * 10_000_001, "the lock is too large"),
    ],
)
def test_a_wrong_lock_is_refused_in_one_line(mova: Mova, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "pool.json"
    path.write_text(text)
    result = mova("experts", "restore", str(path), "--yes")
    assert result.code == 2
    assert said in result.err and result.err.count("\n") == 1


def test_a_lock_that_is_not_there_is_said(mova: Mova, tmp_path: Path) -> None:
    result = mova("experts", "restore", str(tmp_path / "none.json"))
    assert result.code == 2
    assert "the lock cannot be read: No such file or directory" in result.err


# restoring


@pytest.fixture
def lock_of(mova: Mova, tmp_path: Path) -> Callable[..., str]:
    """Freezes this environment into a file, with changes to its JSON, and gives the path."""

    def write(change: Callable[[dict[str, Any]], object] = lambda lock: None) -> str:
        lock = frozen(mova)
        change(lock)
        path = tmp_path / "pool.json"
        path.write_text(json.dumps(lock))
        return str(path)

    return write


def lacking(origin: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Adds to a lock a distribution that is not installed here."""
    row = {"name": "mova-expert-toy-lack", "version": "2.0", "origin": origin}
    return lambda lock: lock["distributions"].append(row)


def test_an_environment_restores_itself_without_doing_anything(
    mova: Mova, lock_of: Callable[..., str], uv: Any, site: Any, card_toml: CardText
) -> None:
    site.install_expert("toy-same", card_toml("toy-same"))
    site.install_expert("toy-broken", None)
    result = mova("experts", "restore", lock_of())
    assert (result.code, uv.calls) == (0, [])
    assert result.out.startswith("This pool is the one of ")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("origin", "told"),
    [
        (
            {"kind": "git", "url": "https://e.org/r", "revision": COMMIT, "subdirectory": "s"},
            f"mova-expert-toy-lack @ git+https://e.org/r@{COMMIT}#subdirectory=s",
        ),
        (
            {"kind": "archive", "url": "https://e.org/t.whl", "sha256": DIGEST},
            f"mova-expert-toy-lack @ https://e.org/t.whl#sha256={DIGEST}",
        ),
        ({"kind": "index"}, "mova-expert-toy-lack==2.0"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_what_is_not_here_is_installed_from_where_it_was_and_what_stays_is_said(
    mova: Mova, lock_of: Callable[..., str], uv: Any, origin: dict[str, Any], told: str
) -> None:
    result = mova("experts", "restore", lock_of(lacking(origin)), "--yes")
    assert uv.calls == [[*INSTALL, told]]
    assert result.code == 1
    assert "differs: mova-expert-toy-lack: 2.0 in the lock, not installed\n" in result.out


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    "origin",
    [
        {"kind": "git", "url": "ssh://git@e.org/r", "revision": COMMIT},
        {"kind": "git", "url": "http://e.org/r", "revision": COMMIT},
        {"kind": "archive", "url": "http://e.org/t.whl"},
        {"kind": "folder", "path": "/no/such/folder"},
    ],
    ids=lambda origin: origin.get("url", "folder"),
)
def test_what_cannot_be_taken_from_where_it_was_is_refused_before_anything_is_done(
    mova: Mova, lock_of: Callable[..., str], uv: Any, origin: dict[str, Any]
) -> None:
    result = mova("experts", "restore", lock_of(lacking(origin)), "--yes")
    assert (result.code, uv.calls) == (2, [])
    assert result.err.count("\n") == 1


@pytest.mark.usefixtures("alone")
def test_a_folder_that_is_elsewhere_here_is_found_by_the_index(
    mova: Mova, lock_of: Callable[..., str], uv: Any, write_project: Make, tmp_path: Path, card_toml: CardText
) -> None:
    folder = write_project(tmp_path / "plugins" / "toy", "toy-lack", card_toml("toy-lack"), "2.0")
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "toy-lack.toml").write_text(
        '[entry]\nkind = "expert"\nid = "toy-lack"\ntitle = "A toy"\nkeywords = ["toy"]\n'
        'distribution = "mova-expert-toy-lack"\nhomepage = "https://e.org"\ncode_licence = "MIT"\n'
        'weights_licence = "MIT"\n[source]\nkind = "folder"\npath = "plugins/toy"\n'
    )
    lock = lock_of(lacking({"kind": "folder", "path": "/no/such/folder"}))
    mova("experts", "restore", lock, "--index", str(tmp_path / "registry"), "--yes")
    assert uv.calls == [[*INSTALL, f"mova-expert-toy-lack @ {folder.as_uri()}"]]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "3.0"}, "mova-expert-toy-d: 3.0 in the lock, 1.0 here"),
        (
            {"origin": {"kind": "git", "url": "https://e.org/r", "revision": COMMIT}},
            f"mova-expert-toy-d: commit {COMMIT} in the lock, commit {OTHER_COMMIT} here",
        ),
        (
            {"experts": [{"id": "toy-d", "card_hash": DIGEST, "revision": "7"}]},
            f"expert toy-d: card sha256 {DIGEST[:12]}... in the lock, sha256",
        ),
        (
            {"experts": [{"id": "toy-d", "card_hash": DIGEST, "revision": "7"}]},
            "expert toy-d: weights of revision 7 in the lock, 1 here",
        ),
        ({"experts": [{"id": "toy-more"}]}, "expert toy-more: not here"),
    ],
)
def test_what_is_here_otherwise_is_replaced_and_compared(
    mova: Mova,
    lock_of: Callable[..., str],
    uv: Any,
    site: Any,
    card_toml: CardText,
    change: dict[str, Any],
    said: str,
) -> None:
    site.install_expert("toy-d", card_toml("toy-d"))
    vcs = {"url": "https://e.org/r", "vcs_info": {"vcs": "git", "commit_id": OTHER_COMMIT}}
    info = site.root / "mova_expert_toy_d-1.0.dist-info"
    (info / "direct_url.json").write_text(json.dumps(vcs))
    lock = lock_of(lambda lock: of(lock, "mova-expert-toy-d") and lock["distributions"][0].update(change))
    result = mova("experts", "restore", lock, "--yes")
    assert result.code == 1
    assert f"differs: {said}" in result.out
    (call,) = uv.calls
    assert call[:-1] == [*INSTALL, "--reinstall-package", "mova-expert-toy-d"]


def test_another_mova_core_is_a_difference_that_restoring_leaves_alone(
    mova: Mova, lock_of: Callable[..., str], uv: Any
) -> None:
    result = mova("experts", "restore", lock_of(lambda lock: lock.update(mova_core="9.9")))
    assert (result.code, uv.calls) == (1, [])
    assert "differs: mova-core: 9.9 in the lock, " in result.out


def test_what_the_lock_does_not_know_is_noted_only(
    mova: Mova, lock_of: Callable[..., str], uv: Any, site: Any, card_toml: CardText
) -> None:
    lock = lock_of()
    site.install_expert("toy-extra", card_toml("toy-extra"))
    result = mova("experts", "restore", lock)
    assert (result.code, uv.calls) == (0, [])
    assert "note: mova-expert-toy-extra is installed and not in the lock." in result.out


def test_cards_of_ones_own_are_restored_and_present_ones_kept(
    mova: Mova, lock_of: Callable[..., str], card_toml: CardText
) -> None:
    folder = Path(os.environ["MOVA_CARD_DIR"])
    new, old = card_toml("toy-own") + "# \u00fc\r\n", card_toml("toy-own") + "# another\n"
    (folder / "toy-own.toml").write_text(old)
    cards = {"toy-own.toml": new, "toy-two.toml": card_toml("toy-two")}
    lock = lock_of(lambda lock: lock.update(cards=cards))
    refused = mova("experts", "restore", lock)
    assert (refused.code, (folder / "toy-own.toml").read_text()) == (2, old)
    assert (
        f"write the card {folder}/toy-own.toml, the present one is kept as toy-own.toml.before" in refused.out
    )

    assert mova("experts", "restore", lock, "--yes").code == 0
    assert {path.name: path.read_bytes().decode() for path in folder.iterdir()} == {
        **cards,
        "toy-own.toml.before": old,
    }


def test_a_frozen_pool_comes_back_on_another_machine_among_broken_plugins(
    environment: Any, write_wheel: Make, write_project: Make, tmp_path: Path, card_toml: CardText
) -> None:
    wheel = write_wheel(tmp_path / "wheels", "toy-wheel", card_toml("toy-wheel"))
    folder = write_project(tmp_path / "toy", "toy-folder", card_toml("toy-folder"))
    local = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
        "MOVA_CARD_DIR": str(tmp_path / "cards"),
    }
    (tmp_path / "cards").mkdir()
    environment.add_broken_plugins()

    def mova(*arguments: str) -> str:
        done = environment.mova("experts", *arguments, **local)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    mova("install", str(wheel), str(folder), "--yes")
    lock = tmp_path / "pool.json"
    mova("freeze", str(lock))
    assert of(json.loads(lock.read_text()), "mova-expert-toy-folder")["origin"]["path"] == str(folder)
    mova("uninstall", "toy-wheel", "mova-expert-toy-folder", "--yes")
    assert not list(environment.packages.glob("mova_expert_toy_*"))

    assert "This pool is the one of" in mova("restore", str(lock), "--yes")
    assert json.loads(mova("freeze")) == json.loads(lock.read_text())
