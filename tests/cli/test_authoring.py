"""`mova experts check` and `add`; `new` is tested with its template in tests/testing."""

from __future__ import annotations

import json
import pickle
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mova_core.cards.discovery import discover
from mova_core.cards.entries import Entry, entries

Mova = Callable[..., Any]
CardText = Callable[..., str]

WORDINGS = (
    'descriptions = ["finds round things", "looks for circles"]',
    'descriptions = ["finds round things", "looks for circles", "knows curves", "sees no corners"]',
)
SMALL = ("parameters = 1200000", "parameters = 0")
MEMORY = ("float32 = 4.8", "float32 = 0.0")
WITHOUT_WEIGHTS = ('["package:weights.safetensors"]', "[]")
COLOURS = ("base", "red", "green", "blue")
NO_WEIGHTS = (WORDINGS, SMALL, MEMORY, WITHOUT_WEIGHTS)

CODE = """
import torch
from torch.nn import functional as F
from mova_core.cards.stream import InputStream
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert

print("a module that prints")

class Expert(VisionExpert):
    def __init__(self):
        super().__init__()
        self.stream = InputStream(
            size=(32, 48), fit="pad", pad_colour=(127, 127, 127), mean=(0.5,) * 3, std=(0.25,) * 3,
            interpolation="bilinear",
        )

    @classmethod
    def from_pretrained(cls, source, *, dtype, device):
        return cls().to(device, dtype)

    @classmethod
    def from_config(cls, **tiny):
        return cls()

    def forward(self, stream):
        cells = F.adaptive_avg_pool2d(stream, (4, 6)).flatten(2).mT
        return ExpertFeatures(cells.repeat(1, 1, 6)[..., :16], (4, 6))
"""


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the fresh interpreters that ask whether listing is light, and whether experts pickle."""
    monkeypatch.setattr("mova_core.testing.listing.imported_by_listing", lambda packages: [])
    monkeypatch.setattr("mova_core.testing.trial._pickles", pickle.dumps)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches off the experts of whoever runs the tests."""
    there = {record.qualified for record in discover()} - {f"mova-tiny/tiny-{name}" for name in COLOURS}
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", ",".join(sorted(there)))


def findings(mova: Mova, *words: str) -> list[str]:
    """What a check of one expert finds; its exit code says whether it found anything."""
    result = mova("experts", "check", *words, "--json")
    report = json.loads(result.out)
    assert result.code == bool(report["findings"])
    assert all(finding["mend"] for finding in report["findings"])
    return [finding["what"] for finding in report["findings"]]


# The static part


@pytest.mark.usefixtures("light")
def test_a_good_card_has_nothing_to_mend(mova: Mova, site: Any, card_toml: CardText) -> None:
    site.install_expert("toy", card_toml("toy", *NO_WEIGHTS))
    result = mova("experts", "check", "toy")
    assert (result.code, result.out) == (0, "1 expert checked: nothing to mend.\n")
    assert findings(mova, "mova-expert-toy/toy") == []


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ((WORDINGS[1], WORDINGS[0]), "2 different descriptions"),
        (("looks for circles", "Finds  round Things"), "3 different descriptions"),
        (("looks for circles", "a toy for circles"), "description 2 names the expert"),
        (('["How many balls are there?"]', "[]"), "no example questions"),
        (('licence = "Apache-2.0"', 'licence = "unknown"'), "`[weights] licence` is no SPDX expression"),
        (('code_licence = "MIT"', 'code_licence = "free"'), "`[expert] code_licence` is no SPDX expression"),
        (("parameters = 0", "parameters = 7000000"), "7,000,000 parameters and 0 sources of weights"),
        (("float32 = 0.0", "float32 = 40.0"), "`[memory_mb] float32` is 40, but 0 parameters take 0.0 MiB"),
        (("float32 = 0.0", "fp32 = 0.0"), "`[memory_mb] fp32` is no dtype of parameters"),
        (("[32, 48]", "[3, 48]"), "`[input] size` is [3, 48]"),
        (("mean = [0.5, 0.5, 0.5]", "mean = [123.7, 116.3, 103.5]"), "`[input]` turns pixels 0 to 255 into"),
        (("std = [0.25, 0.25, 0.25]", "std = [58.4, 57.1, 57.4]"), "`[input]` turns pixels 0 to 255 into"),
        (("grid = [4, 6]", "grid = [64, 6]"), "a grid of 64x6 of a picture of 32x48 pixels"),
    ],
)
def test_what_is_implausible_is_found_with_what_to_mend(
    mova: Mova, site: Any, card_toml: CardText, change: tuple[str, str], what: str
) -> None:
    site.install_expert("toy", card_toml("toy", *NO_WEIGHTS, change))
    result = mova("experts", "check", "toy")
    assert result.code == 1 and what in result.out
    lines = result.out.splitlines()
    assert all(line.startswith("toy: ") and ". Mend: " in line for line in lines[:-1])
    assert lines[-1] == f"1 expert checked: {len(lines) - 1} to mend."


def test_a_listing_that_imports_an_expert_is_found(
    mova: Mova, site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = site.install_expert("toy", card_toml("toy", *NO_WEIGHTS))
    (site.root / "sitecustomize.py").write_text(f"import {package}, PIL\n")
    monkeypatch.setenv("PYTHONPATH", str(site.root))
    result = mova("experts", "check", "toy")
    assert result.code == 1
    assert f"toy: listing experts imports {package}. Mend: keep a top-level" in result.out
    assert "all experts: listing experts imports PIL" in result.out


@pytest.mark.usefixtures("light")
def test_more_tokens_than_patches_are_found(mova: Mova, site: Any, card_toml: CardText) -> None:
    text = card_toml("toy", *NO_WEIGHTS)
    start, end = text.index("[input]"), text.index("[features]")
    stream = '[input]\nkind = "patches"\nfit = "keep"\npatches = 16\npatch_size = 16\n'
    site.install_expert("toy", text[:start] + stream + text[end:])
    assert findings(mova, "toy") == ["a grid of 4x6 of 16 patches"]


@pytest.mark.usefixtures("light")
def test_weights_that_are_not_here_are_found_with_how_to_get_them(
    mova: Mova, site: Any, card_toml: CardText
) -> None:
    package = site.install_expert("toy", card_toml("toy", WORDINGS))
    result = mova("experts", "check", "toy")
    weights = site.root / package / "weights.safetensors"
    assert f"toy: weights are not on disk. Mend: write {weights}, or pip install" in result.out
    weights.touch()
    assert findings(mova, "toy") == []


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("card", "what"),
    [(None, "invalid-card: package"), ("[expert]\nid = 1", "invalid-card: "), ("api_version = 9", "table")],
)
def test_a_card_that_does_not_read_is_found(mova: Mova, site: Any, card: str | None, what: str) -> None:
    site.install_expert("toy", card)
    (found,) = findings(mova, "toy")
    assert what in found


@pytest.mark.usefixtures("light")
def test_all_installed_experts_are_checked_but_disabled_ones(
    mova: Mova, site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install_expert("toy-off", card_toml("toy-off"))
    site.install_expert("toy-on", card_toml("toy-on"))
    monkeypatch.setenv("MOVA_DISABLE_EXPERTS", "toy-off")
    report = json.loads(mova("experts", "check", "--json").out)
    assert "toy-on" in report["experts"] and "toy-off" not in report["experts"]
    assert {f["expert"] for f in report["findings"]} >= {"toy-on"}


@pytest.mark.usefixtures("light")
def test_a_card_file_is_checked_where_it_lies(mova: Mova, card_toml: CardText, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = card_toml("toy", *NO_WEIGHTS, ("toy_package.code:Expert", "mova_nano.experts:NanoExpert"))
    path.write_text(text)
    assert findings(mova, str(path)) == []
    path.write_text(text.replace("channels = 16", "channels = 0"))
    (found,) = findings(mova, str(path))
    assert found.startswith("invalid-card: ") and "channels" in found


def project(folder: Path, card: str, entry: str = 'toy = "toy_package:expert.toml"') -> Path:
    package = folder / "src" / "toy_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "code.py").write_text(CODE)
    (package / "expert.toml").write_text(card)
    (folder / "pyproject.toml").write_text(f'[project.entry-points."mova.experts"]\n{entry}\n')
    return folder


@pytest.mark.usefixtures("light")
def test_a_project_is_checked_without_being_installed(
    mova: Mova, card_toml: CardText, tmp_path: Path
) -> None:
    folder = project(tmp_path, card_toml("toy", *NO_WEIGHTS))
    assert findings(mova, str(folder), "--load") == []


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ('other = "toy_package:expert.toml"', "the card says id toy, its entry point other"),
        ('toy = "toy_package:none.toml"', "none.toml is not there"),
        ('toy = "toy_package.sub:expert.toml"', "entry point toy has the wrong form"),
        ("toy = 3", "entry point toy has the wrong form"),
    ],
)
def test_a_project_with_a_wrong_entry_point_is_found(
    mova: Mova, card_toml: CardText, tmp_path: Path, entry: str, what: str
) -> None:
    (found,) = findings(mova, str(project(tmp_path, card_toml("toy", *NO_WEIGHTS), entry)))
    assert what in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "error: neither a card nor a project; got "),
        ("[project", "pyproject.toml cannot be read: "),
        ("project = 1", "names no expert; expected a table [project.entry-points"),
        ('[project]\nname = "x"\n', "names no expert; expected a table [project.entry-points"),
    ],
)
def test_a_folder_that_is_no_project_is_refused(
    mova: Mova, tmp_path: Path, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    result = mova("experts", "check", str(tmp_path))
    assert (result.code, result.out) == (2, "")
    assert said in result.err and result.err.count("\n") == 1


def test_an_unknown_expert_is_refused(mova: Mova) -> None:
    result = mova("experts", "check", "nano-chort")
    assert result.code == 2 and "no expert has this id; got nano-chort; expected nano-chart" in result.err


# --load


def test_an_expert_that_keeps_its_promises_has_nothing_to_mend(
    mova: Mova, site: Any, card_toml: CardText
) -> None:
    site.install_expert("toy", card_toml("toy", *NO_WEIGHTS), code=CODE)
    result = mova("experts", "check", "toy", "--load", "--json")
    assert result.code == 0 and json.loads(result.out)["findings"] == []
    assert "a module that prints" in result.err


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("import torch\n", "import toy_nowhere\n", "cannot be built small: "),
        (
            "return cls()\n\n",
            "raise ValueError('no sizes')\n\n",
            "cannot be built small: ValueError: no sizes",
        ),
        ("return cls().to(device, dtype)", "raise OSError('gone')", "cannot be loaded: OSError: gone"),
        (
            "def forward(self, stream):",
            "def forward(self, stream):\n        stream = stream - stream.mean()",
            "it breaks the promise that a batch equals its pictures one by one: ",
        ),
        (
            "def forward(self, stream):",
            "def forward(self, stream):\n        stream = stream + torch.rand(())",
            "it breaks the promise that the same picture gives the same features: ",
        ),
        (
            "def forward(self, stream):",
            "def forward(self, stream):\n        stream = stream * 0",
            "it breaks the promise that features depend on the picture: all pictures have the same",
        ),
        ("[..., :16]", "[..., :15]", "it breaks the promise that it gives the features of its card: "),
        ("self.stream =", "self.name = lambda: 0; self.stream =", "it pickles to another process: "),
    ],
)
def test_a_broken_promise_is_found_with_what_the_code_said(
    mova: Mova, site: Any, card_toml: CardText, old: str, new: str, what: str
) -> None:
    assert old in CODE
    site.install_expert("toy", card_toml("toy", *NO_WEIGHTS), code=CODE.replace(old, new))
    found = findings(mova, "toy", "--load")
    assert [each for each in found if what in each], found
    assert all("\n" not in each for each in found)


# --route


@pytest.mark.usefixtures("light", "alone")
def test_routing_is_measured_with_the_models_own_router(
    mova: Mova, tiny: Path, site: Any, card_toml: CardText, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mova_core.model.routers import PointwiseRouter
    from mova_core.routing.route import Route

    def by_words(
        self: PointwiseRouter, images: list[Any], questions: list[str], pool: list[Any]
    ) -> list[Route]:
        """Whose description shares the question's first word; the pool is all that is installed."""
        first = questions[0].split()[0].lower()
        return [Route(tuple(c.id for c in pool if first in c.descriptions[0].split())) for _ in images]

    monkeypatch.setattr(PointwiseRouter, "route", by_words)
    for name, word, questions in (
        ("toy-a", "alpha", ["Alpha 1?", "Beta 2?", "Beta 3?", "Gamma 4?"]),
        ("toy-b", "beta", ["Beta 5?"]),
        ("toy-c", "gamma", []),
    ):
        change = (WORDINGS[1], WORDINGS[1].replace("finds", word))
        asked = ('["How many balls are there?"]', json.dumps(questions))
        site.install_expert(name, card_toml(name, *NO_WEIGHTS, change, asked))
    rows = json.loads(mova("experts", "check", "--route", "--model", str(tiny), "--json").out)["routing"]
    found = {row["expert"]: row for row in rows if row["expert"].startswith("toy-")}
    a, b, c = found["toy-a"], found["toy-b"], found["toy-c"]
    assert a["own"] == {"chosen": 1, "asked": 4, "share": 0.25}
    assert (a["confused_with"], a["confused"]) == ("toy-b", 2)
    assert (b["own"]["share"], b["others"]["chosen"], b["confused_with"]) == (1.0, 2, None)
    assert c["own"] == {"chosen": 0, "asked": 0, "share": None}
    assert b["others"]["asked"] == a["others"]["asked"] + 3


@pytest.mark.usefixtures("light", "alone")
def test_the_table_of_routing(mova: Mova, tiny: Path, site: Any, card_toml: CardText) -> None:
    """The tiny model's router decides as it likes; what it decides is counted and shown."""
    site.install_expert("toy", card_toml("toy", *NO_WEIGHTS))
    result = mova("experts", "check", "toy", "--route", "--model", str(tiny))
    assert result.code == 0
    assert "asked of an even grey picture" in result.out
    head, row = result.out.splitlines()[-2:]
    for column in ("ID", "OWN QUESTIONS", "OTHERS' QUESTIONS", "CHOSEN IN ITS PLACE"):
        assert column in head
    assert row.startswith("toy ") and "of 1)" in row
    assert "asking " in result.err


@pytest.mark.usefixtures("light")
def test_an_unknown_model_is_one_line(mova: Mova, site: Any, card_toml: CardText) -> None:
    site.install_expert("toy", card_toml("toy", *NO_WEIGHTS))
    result = mova("experts", "check", "toy", "--route", "--model", "mova-nono")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: no such model; got mova-nono")


# add

PROVIDER = """
from mova_core.errors import ConfigError
from mova_core.hookspecs import hookimpl

@hookimpl
def mova_card(source, id, descriptions, example_questions, title):
    scheme, _, name = source.partition(":")
    if scheme != "timm":
        return None
    if name == "none":
        raise ConfigError("timm has no such network", value=name, hint="Run `timm list`.")
    if name == "crash":
        return 1 / 0
    return {
        "expert": {
            "api_version": 1, "id": id or name, "role": "expert", "title": title or name, "paper": None,
            "descriptions": descriptions, "example_questions": tuple(example_questions),
            "factory": "mova_nano.experts:NanoExpert", "parameters": 0, "code_licence": "Apache-2.0",
        },
        "input": {
            "size": (32, 32), "fit": "stretch", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            "pad_colour": None,
        },
        "features": {"channels": 0 if name == "wrong" else 8, "grid": (2, 2)},
        "memory_mb": {"float32": 0.0},
        "weights": {"sources": [], "licence": "Apache-2.0"},
    }
"""
WORDS = ("--description", 'Sees "shapes".', "--description", "Knows\nforms.", "--question", "What is it?")


@pytest.fixture
def cards(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's card directory, not made yet, and a plugin that makes cards of `timm:`."""
    site.install(
        "toy-provider", groups={"mova.hooks": {"toy": "toy_provider"}}, files={"toy_provider.py": PROVIDER}
    )
    monkeypatch.setenv("MOVA_CARD_DIR", str(tmp_path / "mine" / "cards"))
    monkeypatch.setattr("mova_core.hookspecs.entries", lambda group: _only_toys(group))
    return tmp_path / "mine" / "cards"


def _only_toys(group: str) -> Iterator[Entry]:
    """The entry points of this test, and none of what is installed beside it."""
    return (entry for entry in entries(group) if entry.owner.name.startswith("toy-"))


def test_a_card_is_written_and_the_expert_is_there(mova: Mova, cards: Path) -> None:
    result = mova("experts", "add", "timm:vit-toy", *WORDS, "--title", "Toy")
    assert result.code == 0
    path = cards / "vit-toy.toml"
    first, *following = result.out.splitlines()
    assert first == f"wrote {path}"
    assert [line.removeprefix("next").strip() for line in following] == [
        "mova experts describe vit-toy",
        "mova experts check vit-toy --load",
        'mova route IMAGE "What is it?" --pool installed',
    ]
    assert list(cards.iterdir()) == [path]
    expert = tomllib.loads(path.read_text())["expert"]
    assert expert["descriptions"] == ['Sees "shapes".', "Knows\nforms."] and "paper" not in expert
    details = json.loads(mova("experts", "describe", "vit-toy", "--json").out)
    assert (details["status"], details["title"], details["distribution"]) == ("ok", "Toy", "user")
    assert details["card"]["example_questions"] == ["What is it?"]


def test_an_id_can_be_given_and_a_card_is_replaced_only_on_demand(mova: Mova, cards: Path) -> None:
    assert mova("experts", "add", "timm:x", "--id", "shapes", *WORDS).code == 0
    path = cards / "shapes.toml"
    before = path.read_bytes()
    again = ("experts", "add", "timm:x", "--id", "shapes", "--title", "New", *WORDS)
    refused = mova(*again)
    assert refused.code == 2 and "there is a card of this id" in refused.err and "--force" in refused.err
    assert path.read_bytes() == before
    assert mova(*again, "--force").code == 0
    assert b"New" in path.read_bytes()


def test_the_id_of_an_installed_expert_is_refused_even_with_force(
    mova: Mova, cards: Path, site: Any, card_toml: CardText
) -> None:
    site.install_expert("toy", card_toml("toy"))
    result = mova("experts", "add", "timm:toy", *WORDS, "--force")
    assert result.code == 2
    assert "mova-expert-toy brings an expert of this id; got toy" in result.err and "--id" in result.err
    assert not cards.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("timm:none", *WORDS), "error: timm has no such network; got none. Run `timm list`."),
        (
            ("timm:crash", *WORDS),
            "error: plugin toy makes no card of this source: mova_card failed: ZeroDivision",
        ),
        (("timm:wrong", *WORDS), "`[features] channels` is wrong"),
        (("timm:x", "--id", "../x", *WORDS), "`[expert] id` is wrong"),
        (("timm:x", "--description", " "), "error: a description or question is blank"),
        (("hf:owner/name", *WORDS), "pip install mova-expert-transformers"),
        (("timm:", *WORDS), "error: no such source; got timm:"),
        (("nowhere", *WORDS), "expected timm:NAME, hf:OWNER/NAME, or a folder of weights"),
        (("https://example.org/x", *WORDS), "error: no such source"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_leaves_nothing(
    mova: Mova, cards: Path, words: tuple[str, ...], said: str
) -> None:
    result = mova("experts", "add", *words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err and result.err.count("\n") == 1
    assert not cards.exists()


def test_a_folder_is_named_to_plugins_by_its_absolute_path(
    mova: Mova, cards: Path, site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
    from mova_core.errors import ConfigError
    from mova_core.hookspecs import hookimpl

    @hookimpl
    def mova_card(source):
        raise ConfigError("asked for", value=source)
    """
    site.install("toy-asked", groups={"mova.hooks": {"a-first": "toy_asked"}}, files={"toy_asked.py": code})
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    for given in ("weights", "./weights", "file:weights"):
        assert f"got file:{tmp_path / 'weights'}" in mova("experts", "add", given, *WORDS).err


def test_a_provider_that_fails_hides_no_other(mova: Mova, cards: Path, site: Any) -> None:
    code = "from mova_core.hookspecs import hookimpl\n@hookimpl\ndef mova_card(source):\n    return 1 / 0\n"
    site.install(
        "toy-broken", groups={"mova.hooks": {"a-first": "toy_broken"}}, files={"toy_broken.py": code}
    )
    assert mova("experts", "add", "timm:vit-toy", *WORDS).code == 0
    assert (cards / "vit-toy.toml").is_file()


def test_a_card_directory_that_cannot_be_written_is_one_line(mova: Mova, cards: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = mova("experts", "add", "timm:vit-toy", *WORDS)
    assert result.code == 2 and "vit-toy.toml cannot be written" in result.err
