"""Reading card files: every error names the file and the key, unknown keys warn."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from mova_core.cards.manifest import IncompatibleCardError, read_document, read_expert_card, read_model_card
from mova_core.cards.warning import CardWarning
from mova_core.errors import CardError

CardText = Callable[..., str]

MODEL = f"""
[model]
id = "toy-model"
title = "A toy model"
checkpoint = "weights"
licence = "Apache-2.0"

[[parts]]
id = "language-model"
title = "A small language model"
package = "toy-weights"
version = "1.0"
filename = "toy_weights-1.0-py3-none-any.whl"
sha256 = "{"0" * 64}"
member = "toy_weights/model.safetensors"
size_bytes = 12
licence = "MIT"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.toml"


def test_a_good_card_reads_without_a_warning(path: Path, card_toml: CardText) -> None:
    path.write_text(card_toml())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = read_expert_card(path)
    assert (card.id, card.features.grid, card.input.size) == ("toy", (4, 6), (32, 48))
    assert card.weights.sources == ("package:weights.safetensors",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("api_version = 1\n", ""), "key `[expert] api_version` is missing"),
        (('title = "A toy"\n', ""), "key `[expert] title` is missing"),
        (("size = [32, 48]\n", ""), "`[input]` is wrong: kind 'pixels' needs 'size'"),
        (("channels = 16\n", ""), "key `[features] channels` is missing"),
        (("[memory_mb]\nfloat32 = 4.8\n", ""), "table `[memory_mb]` is missing"),
        (("float32 = 4.8", "float32 = -1"), "`[memory_mb] float32` is wrong"),
        (("grid = [4, 6]", 'grid = "any"'), "`[features] grid` is wrong"),
        (("grid = [4, 6]", "grid = [4, 0]"), "`[features] grid 2` is wrong"),
        (("mean = [0.5, ", 'mean = ["a", '), "`[input] mean 1` is wrong"),
        (
            ('["package:weights.safetensors"]', '["ftp:x"]'),
            "`[weights] sources 1` is wrong: must be package:FILE",
        ),
        (
            ('"finds round things", "looks', '"finds round things", " ", "looks'),
            "`[expert] descriptions 2` is wrong",
        ),
        (("parameters = 1200000", "features = 3\nparameters = 1"), "key `[expert] features` is misplaced"),
        (("[expert]", "[export]"), "table `[expert]` is missing"),
    ],
)
def test_an_error_names_file_and_key(
    path: Path, card_toml: CardText, change: tuple[str, str], message: str
) -> None:
    path.write_text(card_toml("toy", change))
    with pytest.raises(CardError) as caught:
        read_expert_card(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_counts_the_other_wrong_keys(path: Path, card_toml: CardText) -> None:
    changes = [('title = "A toy"\n', ""), ("channels = 16\n", ""), ('licence = "Apache-2.0"\n', "")]
    path.write_text(card_toml("toy", *changes))
    with pytest.raises(CardError, match=r"title` is missing \(and 2 more\)"):
        read_expert_card(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[expert", "is not valid TOML"),
        (b"\xff\xfe[expert]", "is not UTF-8 text"),
        (b"", "`[expert]` is missing"),
        (b"expert = 3", "`[expert]` is missing"),
    ],
)
def test_a_file_that_is_no_card_is_named(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(CardError) as caught:
        read_expert_card(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


values = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values))
def test_any_document_reads_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(tomli_w.dumps(document | {"expert": document}), encoding="utf-8")
    read = read_document(path, "expert")
    assert read == document | {"expert": document}
    assert list(read["expert"]) == [*tomllib.loads(path.read_text(encoding="utf-8"))["expert"]]


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(CardError, match="No such file") as caught:
        read_expert_card(path)
    assert str(path) in str(caught.value)


def test_a_card_of_another_contract_is_told_apart_before_its_keys_are_read(path: Path) -> None:
    path.write_text('[expert]\napi_version = 2\nfuture = "keys"\n')
    with pytest.raises(IncompatibleCardError, match="api_version = 2; expected 1"):
        read_expert_card(path)


@pytest.mark.parametrize(
    ("change", "key", "nearest"),
    [
        (('paper = "', 'papers = "x"\npaper = "'), "`[expert] papers`", "`paper`"),
        (("channels = 16", "channels = 16\nchanels = 16"), "`[features] chanels`", "`channels`"),
        (("[memory_mb]", "[weight]\n[memory_mb]"), "`[weight]`", "`weights`"),
    ],
)
def test_an_unknown_key_warns_with_the_nearest_known_one(
    path: Path, card_toml: CardText, change: tuple[str, str], key: str, nearest: str
) -> None:
    path.write_text(card_toml("toy", change))
    with pytest.warns(CardWarning) as caught:
        card = read_expert_card(path)
    assert card.id == "toy"
    assert [str(warning.message) for warning in caught] == [
        f"{path}: unknown key {key}; did you mean {nearest}?"
    ]


def test_an_unknown_key_far_from_all_others_warns_without_a_guess(path: Path, card_toml: CardText) -> None:
    path.write_text(card_toml("toy", ("paper =", "zzz = 1\npaper =")))
    with pytest.warns(CardWarning, match=r"unknown key `\[expert\] zzz`$"):
        read_expert_card(path)


def test_a_description_that_names_the_expert_warns(path: Path, card_toml: CardText) -> None:
    path.write_text(card_toml("toy", ("looks for circles", "the Toy looks for circles")))
    with pytest.warns(CardWarning, match="description 2 names the expert"):
        read_expert_card(path)


def test_a_word_that_merely_contains_the_id_is_no_name(path: Path, card_toml: CardText) -> None:
    path.write_text(card_toml("toy", ("looks for circles", "looks for toys")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_expert_card(path)


def test_a_model_card_reads_with_its_parts(path: Path) -> None:
    path.write_text(MODEL)
    card = read_model_card(path)
    part = card.part("language-model")
    assert part is not None
    assert (card.id, card.checkpoint, part.convert, part.size_bytes) == ("toy-model", "weights", "none", 12)
    assert card.part("another") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('sha256 = "0', 'sha256 = "x', "`[[parts]] 1 sha256` is wrong: must be 64"),
        ('checkpoint = "weights"', 'checkpoint = "../weights"', "`[model] checkpoint` is wrong"),
        ('member = "toy', 'member = "/toy', "`[[parts]] 1 member` is wrong"),
        ('filename = "toy', 'filename = "a/toy', "`[[parts]] 1 filename` is wrong"),
        ("size_bytes = 12", "size_bytes = 0", "`[[parts]] 1 size_bytes` is wrong"),
        ("[model]", "[modell]", "table `[model]` is missing"),
    ],
)
def test_a_wrong_model_card_names_file_and_key(path: Path, old: str, new: str, message: str) -> None:
    path.write_text(MODEL.replace(old, new))
    with pytest.raises(CardError) as caught:
        read_model_card(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_two_parts_may_not_share_a_name(path: Path) -> None:
    path.write_text(MODEL + MODEL[MODEL.index("[[parts]]") :])
    with pytest.raises(CardError, match="repeated: language-model"):
        read_model_card(path)


def test_an_unknown_key_of_a_part_warns_with_its_place(path: Path) -> None:
    path.write_text(MODEL + 'convertt = "none"\n')
    with pytest.warns(CardWarning, match=r"`\[\[parts\]\] 1 convertt`; did you mean `convert`\?"):
        read_model_card(path)
