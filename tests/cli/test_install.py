"""`mova experts search`, `install` and `uninstall`: what is vouched for, planned, and then installed.

Plans are looked at with a uv that writes down how it was called. pip really installs, into an environment of
its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

Mova = Callable[..., Any]
CardText = Callable[..., str]
Make = Callable[..., Path]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32


def entry(id: str, source: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An entry of a JSON index."""
    about = {
        "kind": "expert",
        "id": id,
        "title": "A toy",
        "keywords": ["round things", "Balls"],
        "distribution": f"mova-expert-{id}",
        "homepage": "https://example.org",
        "code_licence": "MIT",
        "weights_licence": "Apache-2.0",
        "source": source,
    }
    return about | changes


def write_index(path: Path, *entries: dict[str, Any]) -> str:
    path.write_text(json.dumps(entries))
    return str(path)


def write_folder_index(folder: Path, *entries: dict[str, Any]) -> str:
    """An index as a folder of TOML files."""
    folder.mkdir()
    for row in entries:
        tables = {"entry": {key: row[key] for key in row if key != "source"}, "source": row["source"]}
        lines = [
            line
            for name, table in tables.items()
            for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()))
        ]
        (folder / f"{row['id']}.toml").write_text("\n".join(lines))
    return str(folder)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


INSTALL = ["pip", "install", "--python", sys.executable]


# search


@pytest.fixture
def toys(tmp_path: Path) -> str:
    folder = {"kind": "folder", "path": "plugins/toy"}
    return write_index(
        tmp_path / "index.json",
        entry("toy-ball", folder),
        entry("toy-chart", folder, keywords=["charts", "OCR"], title="Tables behind charts of balls"),
        entry("toy-any", folder, kind="factory", keywords=["anything"], title="Any encoder"),
    )


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], ["toy-any", "toy-ball", "toy-chart"]),
        (["ball"], ["toy-ball", "toy-chart"]),
        (["BALLS", "chart"], ["toy-chart"]),
        (["round things"], ["toy-ball"]),
        (["ocr"], ["toy-chart"]),
        (["factory"], ["toy-any"]),
        (["seismograms"], []),
    ],
)
def test_a_search_finds_entries_that_have_every_word(
    mova: Mova, toys: str, words: list[str], found: list[str]
) -> None:
    result = mova("experts", "search", *words, "--index", toys, "--json")
    assert (result.code, [row["id"] for row in json.loads(result.out)]) == (0, found)


def test_a_search_shows_what_is_installed(mova: Mova, toys: str, site: Any, card_toml: CardText) -> None:
    site.install_expert("toy-ball", card_toml("toy-ball"))
    lines = mova("experts", "search", "--index", toys).out.splitlines()
    shown = {line.split()[0]: line for line in lines}
    assert "1.0" in shown["toy-ball"]
    assert " no " in shown["toy-chart"]
    assert "Tables behind charts" in shown["toy-chart"]


def test_a_search_without_a_match_says_so(mova: Mova, toys: str) -> None:
    result = mova("experts", "search", "seismograms", "--index", toys)
    assert (result.code, result.out) == (0, f"None of the 3 entries of {toys} has all of: seismograms\n")


def test_the_index_of_a_checkout_is_the_one_beside_the_package(mova: Mova) -> None:
    assert {"clip", "mova-nano"} <= {row["id"] for row in json.loads(mova("experts", "search", "--json").out)}


def test_the_index_of_a_wheel_is_inside_it_and_its_folders_are_not_here(
    mova: Mova, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "mova_core"
    package.mkdir(parents=True)
    write_folder_index(package / "registry", entry("toy-far", {"kind": "folder", "path": "plugins/toy"}))
    monkeypatch.setattr("mova_core.__file__", str(package / "__init__.py"))
    assert "toy-far" in mova("experts", "search").out
    result = mova("experts", "install", "toy-far", "--yes")
    assert result.code == 2
    assert "mova-expert-toy-far is the folder plugins/toy of the repository of the index" in result.err
    assert "--index CHECKOUT/registry" in result.err


def test_the_wheel_and_the_sdist_take_the_registry_along() -> None:
    import tomllib

    root = Path(__file__).parents[2]
    targets = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"] == {"registry": "mova_core/registry"}
    assert "/registry" in targets["sdist"]["include"]


# indexes that cannot be used


def test_an_index_is_there_and_not_too_large(mova: Mova, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "large.json").write_text(" " * 1_000_001)
    for name, said in {
        "none.json": "the index cannot be read: No such file or directory",
        "empty": "the index has no entries",
        "large.json": "the index is too large",
    }.items():
        result = mova("experts", "search", "--index", str(tmp_path / name))
        assert result.code == 2
        assert result.err.startswith(f"error: {said}; got ") and result.err.count("\n") == 1


class Server(requests.adapters.BaseAdapter):
    """Answers every https request alike."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self.answer = (status, body, headers)

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, body, headers = self.answer
        response.raw, response.url, response.request = io.BytesIO(body), str(request.url), request
        response.headers.update(headers)
        return response

    def close(self) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the web answer with a status, a body and headers."""
    monkeypatch.delenv("MOVA_OFFLINE", raising=False)

    def start(body: bytes, status: int = 200, **headers: str) -> None:
        def session(settings: object) -> requests.Session:
            opened = requests.Session()
            opened.mount("https://", Server(status, body, headers))
            return opened

        monkeypatch.setattr("mova_core.model.parts.web.open_session", session)

    return start


def test_an_index_is_fetched_by_https(mova: Mova, serve: Callable[..., None]) -> None:
    source = {"kind": "git", "url": "https://example.org/r.git", "revision": COMMIT}
    serve(json.dumps([entry("toy-web", source)]).encode())
    assert "toy-web" in mova("experts", "search", "--index", "https://example.org/index.json").out


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (200, b"<html>", {}, "is not valid JSON"),
        (200, b" " * 1_000_001, {}, "the index is too large"),
        (404, b"", {}, "the index cannot be fetched: 404"),
        (302, b"", {"Location": "http://example.org/x"}, "the index has moved"),
    ],
)
def test_a_bad_answer_is_one_line(
    mova: Mova, serve: Callable[..., None], status: int, body: bytes, headers: dict[str, str], said: str
) -> None:
    serve(body, status, **headers)
    result = mova("experts", "search", "--index", "https://user:secret@example.org/index.json")
    assert result.code == 2
    assert said in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize("url", ["http://example.org/i.json", "ftp://example.org/i.json"])
def test_an_index_is_fetched_in_no_other_way(mova: Mova, url: str) -> None:
    result = mova("experts", "search", "--index", url)
    assert result.code == 2
    assert f"the index is not at an https URL; got {url}" in result.err


def test_no_index_is_fetched_offline(mova: Mova, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    result = mova("experts", "search", "--index", "https://example.org/i.json")
    assert result.code == 2
    assert "MOVA_OFFLINE" in result.err


# what is vouched for


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("toy-bal", "expected toy-ball"),
        ("mova-expert-toy-none", "does not vouch for this name"),
        ("numpy", "nothing is fetched by guess"),
        ("numpy>=1", "nothing is fetched by guess"),
        ("numpy==1.*", "nothing is fetched by guess"),
        ("numpy==1,!=1.0", "nothing is fetched by guess"),
        ("--index-url=https://example.org", "No such option"),
        ("https://example.org/toy-1-py3-none-any.whl", "expected NAME @ https://example.org/toy-1"),
        ("git+https://example.org/r.git", "expected git+https://example.org/r.git@REVISION"),
        ("git+https://user@example.org/r.git", "the git URL has no revision"),
        ("git+https://example.org/r.git@", "the git URL has no revision"),
        ("git+ssh://git@example.org/r.git@v1", "expected https://... or git+https://..."),
        ("toy @ http://example.org/toy-1.tar.gz", "expected https://... or git+https://..."),
        ("toy @ git+https://example.org/r.git", "the git URL has no revision"),
        ("./no-such-folder", "there is nothing to install"),
    ],
)
def test_what_nobody_vouches_for_is_refused_and_nothing_is_called(
    mova: Mova, toys: str, uv: Any, text: str, said: str
) -> None:
    result = mova("experts", "install", text, "--index", toys, "--yes")
    assert result.code == 2
    assert said in result.err
    assert uv.calls == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("some-name==1.2.3", "some-name==1.2.3"),
        ("Some_Name[extra]==1.2.3", "Some_Name[extra]==1.2.3"),
        ("toy @ https://example.org/toy-1.tar.gz", "toy @ https://example.org/toy-1.tar.gz"),
        ("toy @ git+https://example.org/r.git@v1", "toy @ git+https://example.org/r.git@v1"),
        (
            "git+https://example.org/r.git@v1#subdirectory=a",
            "git+https://example.org/r.git@v1#subdirectory=a",
        ),
    ],
)
def test_a_full_requirement_is_told_the_installer_as_it_is(
    mova: Mova, toys: str, uv: Any, text: str, told: str
) -> None:
    mova("experts", "install", text, "--index", toys, "--yes")
    assert uv.calls == [[*INSTALL, told]]


@pytest.mark.parametrize("name", ["toy-git", "mova-expert-toy-git"])
@pytest.mark.parametrize(
    "source",
    [
        {"kind": "git", "url": "https://example.org/r.git", "subdirectory": "plugins/a b"},
        {"kind": "folder", "repository": "https://example.org/r.git", "path": "plugins/a b"},
    ],
    ids=["git", "folder-elsewhere"],
)
def test_an_entry_is_installed_from_its_commit(
    mova: Mova, tmp_path: Path, uv: Any, source: dict[str, Any], name: str
) -> None:
    index = write_index(tmp_path / "i.json", entry("toy-git", source | {"revision": COMMIT}))
    mova("experts", "install", name, "--index", index, "--yes")
    url = f"git+https://example.org/r.git@{COMMIT}#subdirectory=plugins/a%20b"
    assert uv.calls == [[*INSTALL, f"mova-expert-toy-git @ {url}"]]


def test_a_folder_of_a_checkout_is_relative_to_the_index(
    mova: Mova, tmp_path: Path, uv: Any, card_toml: CardText, write_project: Make
) -> None:
    folder = write_project(tmp_path / "check out" / "plugins" / "toy", "toy-near", card_toml("toy-near"))
    source = {"kind": "folder", "path": "plugins/toy"}
    index = write_folder_index(tmp_path / "check out" / "registry", entry("toy-near", source))
    mova("experts", "install", "toy-near", "--index", index, "--yes")
    assert uv.calls == [[*INSTALL, f"mova-expert-toy-near @ {folder.as_uri()}"]]


def test_what_an_entry_needs_of_the_index_comes_from_there_too(
    mova: Mova, tmp_path: Path, uv: Any, site: Any, card_toml: CardText
) -> None:
    source = {"kind": "git", "url": "https://example.org/r.git", "revision": COMMIT}
    index = write_index(
        tmp_path / "i.json",
        entry("toy-top", source, needs=["toy-mid"]),
        entry("toy-mid", source, needs=["toy-low", "toy-top", "toy-here"]),
        entry("toy-low", source),
        entry("toy-here", source),
        entry("toy-lost", source, needs=["toy-none"]),
    )
    site.install_expert("toy-here", card_toml("toy-here"))
    mova("experts", "install", "toy-top", "--index", index, "--yes")
    url = f"git+https://example.org/r.git@{COMMIT}"
    assert uv.calls == [[*INSTALL, *(f"mova-expert-toy-{id} @ {url}" for id in ("top", "mid", "low"))]]
    result = mova("experts", "install", "toy-lost", "--index", index, "--yes")
    assert (result.code, len(uv.calls)) == (2, 1)
    assert "entry toy-lost of " in result.err and "got toy-none" in result.err


def test_names_are_told_once(mova: Mova, tmp_path: Path, uv: Any) -> None:
    source = {"kind": "git", "url": "https://example.org/r.git", "revision": COMMIT}
    index = write_index(tmp_path / "i.json", entry("toy-twice", source))
    mova("experts", "install", "toy-twice", "mova-expert-toy-twice", "--index", index, "--yes")
    assert len(uv.calls) == 1


# the plan and the question


def test_without_a_terminal_it_must_be_agreed_to_beforehand(mova: Mova, toys: str, uv: Any) -> None:
    result = mova("experts", "install", "toy==1", "--index", toys)
    assert result.code == 2
    assert "install toy==1\n  from the package index, its files not vouched for" in result.out
    assert f"$ {uv.folder}/uv pip install --python {sys.executable} toy==1" in result.out
    assert result.err == "error: there is no terminal to ask at. Repeat the command with --yes to do this.\n"
    assert uv.calls == []


@pytest.mark.parametrize(("answer", "code", "calls"), [("y\n", 0, 1), ("n\n", 1, 0), ("\n", 1, 0)])
def test_at_a_terminal_it_asks(
    mova: Mova,
    toys: str,
    uv: Any,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    calls: int,
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    result = mova("experts", "install", "toy==1", "--index", toys)
    assert (result.code, len(uv.calls)) == (code, calls)
    assert ("Nothing was changed." in result.out) == (code == 1)


def test_a_failing_installer_is_one_line(mova: Mova, toys: str, uv: Any) -> None:
    uv.then("exit 3")
    result = mova("experts", "install", "toy==1", "--index", toys, "--yes")
    assert result.code == 2
    assert "this command failed with exit code 3; got " in result.err and result.err.count("\n") == 1


def test_what_is_installed_is_replaced_and_only_that(
    mova: Mova, toys: str, uv: Any, site: Any, card_toml: CardText
) -> None:
    site.install_expert("toy-old", card_toml("toy-old"))
    result = mova("experts", "install", "mova-expert-toy-old==2", "--index", toys, "--yes")
    assert "replace mova-expert-toy-old 1.0 by mova-expert-toy-old==2" in result.out
    replace = ["--reinstall-package", "mova-expert-toy-old"]
    assert uv.calls == [[*INSTALL, *replace, "mova-expert-toy-old==2"]]


def test_pip_is_forced_to_replace_and_spares_what_is_needed(
    mova: Mova,
    toys: str,
    tmp_path: Path,
    site: Any,
    card_toml: CardText,
    write_project: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    site.install_expert("toy-old", card_toml("toy-old"))
    pip = f"  $ {sys.executable} -m pip install"
    out = mova("experts", "install", "mova-expert-toy-old==1.0", "toy==2", "--index", toys).out
    assert (
        f"{pip} --force-reinstall --no-deps mova-expert-toy-old==1.0\n{pip} mova-expert-toy-old==1.0 toy==2\n"
        in out
    )
    folder = write_project(tmp_path / "toy", "toy-old", card_toml("toy-old"))
    out = mova("experts", "install", str(folder), "--index", toys).out
    assert f"{pip} {folder}\n" in out and "--force" not in out  # pip builds a folder anew by itself


def test_offline_nothing_is_fetched_and_what_is_here_is_built_with_what_is_here(
    mova: Mova,
    toys: str,
    uv: Any,
    tmp_path: Path,
    card_toml: CardText,
    write_project: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOVA_OFFLINE", "1")
    result = mova("experts", "install", "toy==1", "--index", toys, "--yes")
    assert (result.code, uv.calls) == (2, [])
    assert "this would be fetched, and MOVA_OFFLINE is set; got toy==1" in result.err
    folder = write_project(tmp_path / "toy", "toy-off", card_toml("toy-off"))
    mova("experts", "install", str(folder), "--index", toys, "--yes")
    assert uv.calls == [[*INSTALL, "--offline", "--no-build-isolation", str(folder)]]


def test_after_installing_it_says_what_a_listing_shows(
    mova: Mova, toys: str, uv: Any, tmp_path: Path, site: Any, card_toml: CardText, write_wheel: Make
) -> None:
    site.install_expert("toy-broken", None)
    with zipfile.ZipFile(write_wheel(tmp_path / "wheels", "toy-new", card_toml("toy-new"))) as wheel:
        wheel.extractall(tmp_path / "made")
    uv.then(f"cp -r {tmp_path}/made/. {site.root}")
    result = mova("experts", "install", "mova-expert-toy-new==1.0", "--index", toys, "--yes")
    assert result.code == 0
    (line,) = [line for line in result.out.splitlines() if line.startswith("toy-new ")]
    assert " ok " in line and "mova-expert-toy-new 1.0" in line
    assert "toy-broken" not in result.out


def test_an_expert_that_cannot_be_used_ends_with_1(
    mova: Mova, toys: str, uv: Any, tmp_path: Path, site: Any, card_toml: CardText, write_wheel: Make
) -> None:
    card = card_toml("toy-bad", ("api_version = 1", "api_version = 9"))
    with zipfile.ZipFile(write_wheel(tmp_path / "wheels", "toy-bad", card)) as wheel:
        wheel.extractall(tmp_path / "made")
    uv.then(f"cp -r {tmp_path}/made/. {site.root}")
    result = mova("experts", "install", "mova-expert-toy-bad==1.0", "--index", toys, "--yes")
    assert result.code == 1
    assert "incompatible" in result.out


# uninstalling


UNINSTALL = ["pip", "uninstall", "--python", sys.executable]


@pytest.fixture
def two_in_one(site: Any, card_toml: CardText) -> str:
    """A distribution with two experts, of which one is broken."""
    card = card_toml("toy-a").replace("toy_package", "toy_two")
    site.install(
        "toy-two",
        groups={"mova.experts": {"toy-a": "toy_two:a.toml", "toy-b": "toy_two:none.toml"}},
        files={"toy_two/__init__.py": "", "toy_two/code.py": "class Expert: ...", "toy_two/a.toml": card},
    )
    return "toy-two"


@pytest.mark.parametrize("name", ["toy-two", "Toy_Two", "toy-a", "toy-b", "toy-two/toy-b"])
def test_what_goes_with_a_distribution_is_named(
    mova: Mova, two_in_one: str, uv: Any, site: Any, name: str
) -> None:
    uv.then(f"rm -r {site.root}/toy_two*")
    result = mova("experts", "uninstall", name, "--yes")
    assert result.code == 0, result.err
    assert "uninstall toy-two 1.0, and with it expert toy-a, expert toy-b\n" in result.out
    assert uv.calls == [[*UNINSTALL, "toy-two"]]
    assert result.out.endswith("Uninstalled toy-two.\n")


def test_what_is_still_there_afterwards_is_an_error(mova: Mova, two_in_one: str, uv: Any) -> None:
    result = mova("experts", "uninstall", two_in_one, "--yes")
    assert result.code == 2
    assert "still installed; got toy-two" in result.err


@pytest.mark.parametrize("name", ["numpy", "mova-core", "pip", "toy-ab"])
def test_only_distributions_of_experts_are_uninstalled(
    mova: Mova, two_in_one: str, uv: Any, name: str
) -> None:
    result = mova("experts", "uninstall", name, "--yes")
    assert (result.code, uv.calls) == (2, [])
    assert "no installed distribution of experts has or brings this name" in result.err


def test_a_card_of_ones_own_is_deleted_not_uninstalled(mova: Mova, uv: Any, card_toml: CardText) -> None:
    path = Path(os.environ["MOVA_CARD_DIR"]) / "toy-own.toml"
    path.write_text(card_toml("toy-own"))
    result = mova("experts", "uninstall", "toy-own", "--yes")
    assert (result.code, uv.calls) == (2, [])
    assert f"To be rid of it, delete {path}." in result.err


def test_an_id_that_two_bring_is_ambiguous(mova: Mova, uv: Any, site: Any, card_toml: CardText) -> None:
    for distribution in ("toy-one", "toy-other"):
        site.install_expert("toy-both", card_toml("toy-both"), distribution=distribution)
    result = mova("experts", "uninstall", "toy-both", "--yes")
    assert result.code == 2
    assert "expected toy-one or toy-other" in result.err


# really, by pip


def test_a_folder_is_installed_and_uninstalled_among_broken_plugins(
    environment: Any, tmp_path: Path, card_toml: CardText, write_project: Make
) -> None:
    environment.add_broken_plugins()
    write_project(tmp_path / "plugins" / "toy", "toy-real", card_toml("toy-real"))
    source = {"kind": "folder", "path": "plugins/toy"}
    index = write_folder_index(tmp_path / "registry", entry("toy-real", source))
    done = environment.mova("experts", "install", "toy-real", "--index", index, "--yes", MOVA_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(line.startswith("toy-real ") and " ok " in line for line in done.stdout.splitlines())
    assert (environment.packages / "mova_expert_toy_real" / "expert.toml").is_file()

    done = environment.mova("experts", "uninstall", "toy-real", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (environment.packages / "mova_expert_toy_real").exists()


def test_a_pinned_file_is_installed_and_another_of_its_name_is_not(
    environment: Any, tmp_path: Path, card_toml: CardText, write_wheel: Make
) -> None:
    wheel = write_wheel(tmp_path / "wheels", "toy-pinned", card_toml("toy-pinned"))
    local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent)}
    requirement = "mova-expert-toy-pinned==1.0"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for sha256, code in ((DIGEST, 2), (digest, 0)):
        source = {"kind": "index", "requirement": requirement, "sha256": [sha256]}
        index = write_index(tmp_path / "i.json", entry("toy-pinned", source))
        done = environment.mova("experts", "install", "toy-pinned", "--index", index, "--yes", **local)
        assert done.returncode == code, done.stdout + done.stderr
        assert (environment.packages / "mova_expert_toy_pinned").exists() == (code == 0)
    assert f"sha256 {digest[:12]}..." in done.stdout
