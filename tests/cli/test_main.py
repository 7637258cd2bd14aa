"""The command line as a whole: help, errors in one line, exit codes, plugins' commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mova_core.cli.main import COMMANDS

Mova = Callable[..., Any]


def test_help_names_every_command_with_its_line(mova: Mova) -> None:
    result = mova("--help")
    assert result.code == 0
    for name, command in COMMANDS.items():
        assert any(line.split()[:1] == [name] and command.help in line for line in result.out.splitlines())


def test_version(mova: Mova) -> None:
    assert mova("--version").out == f"mova-core {version('mova-core')}\n"


def test_without_a_command_the_help_is_shown(mova: Mova) -> None:
    result = mova()
    assert "Commands:" in result.out + result.err


def test_an_unknown_command_offers_the_nearest(mova: Mova) -> None:
    result = mova("expert", "list")
    assert (result.code, result.out) == (2, "")
    assert (
        result.err == "error: no such command; got mova expert; expected mova experts. Try `mova --help`.\n"
    )


def test_an_unknown_option_is_an_error_of_usage(mova: Mova) -> None:
    result = mova("experts", "list", "--colour")
    assert result.code == 2
    assert "--colour" in result.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["list", "--help"], 0, "--status"),
        (["isolate", "--help"], 0, "--share-torch"),
        (["add", "--help"], 0, "--description"),
        (["--help", "list"], 0, "uninstall"),
        (["instal"], 2, "install"),
        ([], 2, "uninstall"),
    ],
)
def test_a_command_of_a_group_is_found_in_whichever_module_it_is(
    mova: Mova, words: list[str], code: int, said: str
) -> None:
    results = [mova("experts", *words) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].code == code
    assert said in results[0].out + results[0].err


def test_our_errors_are_one_line_on_stderr(mova: Mova) -> None:
    result = mova("experts", "describe", "no-such-expert")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1


def test_warnings_about_cards_are_one_line_each(mova: Mova, site: Any, card_toml: Callable[..., str]) -> None:
    package = site.install_expert("toy-warn", card_toml("toy-warn", ("paper =", "papers = 1\npaper =")))
    result = mova("experts", "describe", "toy-warn")
    path = site.root / package / "expert.toml"
    assert result.code == 0
    assert result.err == f"warning: {path}: unknown key `[expert] papers`; did you mean `paper`?\n"


def install_commands(site: Any, name: str, code: str) -> None:
    module = name.replace("-", "_")
    head = "from mova_core.hookspecs import hookimpl\n"
    site.install(name, groups={"mova.hooks": {name: module}}, files={f"{module}.py": head + code})


HELLO = """
def hello(name: str, loud: bool = False) -> None:
    "Greet someone."
    print(name.upper() if loud else name)

@hookimpl
def mova_commands():
    return {"toy-hello": hello}
"""

GROUP = """
import typer
app = typer.Typer()

@app.command()
def one() -> None:
    print("one")

@app.command()
def two() -> None:
    raise KeyboardInterrupt

@hookimpl
def mova_commands():
    return {"toy-group": app}
"""


def test_a_plugin_adds_a_command(mova: Mova, site: Any) -> None:
    install_commands(site, "toy-cmd-a", HELLO)
    assert mova("toy-hello", "you", "--loud").out == "YOU\n"


def test_a_plugin_adds_a_group_and_an_interrupt_ends_with_130(mova: Mova, site: Any) -> None:
    install_commands(site, "toy-cmd-b", GROUP)
    assert mova("toy-group", "one").out == "one\n"
    assert mova("toy-group", "two").code == 130


def test_a_broken_plugin_hides_no_command_of_another(mova: Mova, site: Any) -> None:
    install_commands(site, "toy-cmd-c", HELLO)
    install_commands(site, "toy-cmd-a-broken", "raise RuntimeError('broken')\n")
    assert mova("toy-hello", "you").code == 0


def test_a_command_whose_package_is_missing_says_so(mova: Mova, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pluggy", None)  # an import of it now fails
    for module in ("mova_core.cli.doctor", "mova_core.hookspecs"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    result = mova("doctor")
    assert result.code == 2
    assert result.err.startswith("error: `mova doctor` needs the package pluggy")


def test_a_reader_that_goes_away_causes_no_noise(
    site: Any, card_toml: Callable[..., str], tmp_path: Path
) -> None:
    for number in range(60):  # more than a pipe and a buffer hold
        site.install_expert(f"toy-{number}", card_toml(f"toy-{number}"))
    code = "import sys; from mova_core.cli.main import main; sys.exit(main(['experts', 'list', '--json']))"
    errors = tmp_path / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(site.root)},
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        process.wait(timeout=60)
    assert errors.read_text() == ""
