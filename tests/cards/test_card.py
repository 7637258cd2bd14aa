"""The card's schema: what it refuses, what its hash depends on, and that TOML brings it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mova_core.cards.card import ExpertCard
from mova_core.cards.manifest import read_expert_card

TABLES = ("input", "features", "memory_mb", "weights", "options")

words = st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "), min_size=1).filter(
    str.strip
)
ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,12}", fullmatch=True)
counts = st.integers(1, 10_000)
finite = st.floats(-1e3, 1e3, allow_nan=False)
positive = st.floats(1e-3, 1e3, allow_nan=False)

pixels = st.fixed_dictionaries(
    {
        "kind": st.just("pixels"),
        "size": st.tuples(counts, counts),
        "fit": st.sampled_from(["stretch", "crop"]),
        "mean": st.tuples(finite, finite, finite),
        "std": st.tuples(positive, positive, positive),
        "interpolation": st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
    }
)
patches = st.fixed_dictionaries(
    {"kind": st.just("patches"), "fit": st.just("keep"), "patches": counts, "patch_size": counts}
)
cards = st.fixed_dictionaries(
    {
        "api_version": st.just(1),
        "id": ids,
        "role": st.sampled_from(["expert", "base"]),
        "title": words,
        "descriptions": st.lists(words, min_size=1, max_size=4),
        "domains": st.lists(words, max_size=3),
        "factory": st.sampled_from(["package:Expert", "package.module:Expert"]),
        "parameters": st.integers(0, 10**12),
        "code_licence": words,
        "input": st.one_of(pixels, patches),
        "features": st.fixed_dictionaries(
            {"channels": counts, "grid": st.one_of(st.just("dynamic"), st.tuples(counts, counts))}
        ),
        "memory_mb": st.dictionaries(st.sampled_from(["float32", "bfloat16"]), positive, min_size=1),
        "weights": st.fixed_dictionaries(
            {"sources": st.lists(st.sampled_from(["hf:a/b", "package:w.safetensors"])), "licence": words}
        ),
    }
).map(ExpertCard.model_validate)


def as_toml(card: ExpertCard) -> str:
    """The card as a TOML document; JSON's strings, numbers and lists are TOML's as well."""
    data = card.model_dump(mode="json")
    tables: dict[str, dict[str, Any]] = {"expert": {k: v for k, v in data.items() if k not in TABLES}}
    tables |= {name: data[name] for name in TABLES}
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in table.items() if v is not None]
    return "\n".join(lines)


@pytest.mark.filterwarnings("ignore::mova_core.cards.warning.CardWarning")
@given(cards)
def test_a_card_written_as_toml_reads_back_as_itself(
    tmp_path_factory: pytest.TempPathFactory, card: ExpertCard
) -> None:
    path = tmp_path_factory.mktemp("card") / "expert.toml"
    path.write_text(as_toml(card), encoding="utf-8")
    read = read_expert_card(path)
    assert read == card
    assert read.hash == card.hash


@given(cards, st.randoms())
def test_the_order_of_keys_changes_no_hash(card: ExpertCard, random: Any) -> None:
    items = list(card.model_dump().items())
    random.shuffle(items)
    assert ExpertCard.model_validate(dict(items)).hash == card.hash


@given(cards, cards)
def test_cards_differ_exactly_where_their_hashes_do(one: ExpertCard, other: ExpertCard) -> None:
    assert (one == other) == (one.hash == other.hash)


@given(cards, ids)
def test_any_change_of_content_changes_the_hash(card: ExpertCard, id: str) -> None:
    renamed = card.model_copy(update={"id": id})
    assert (renamed.hash == card.hash) == (id == card.id)


@pytest.fixture
def card(tmp_path: Path, card_toml: Any) -> ExpertCard:
    path = tmp_path / "expert.toml"
    path.write_text(card_toml())
    return read_expert_card(path)


def test_a_card_cannot_be_changed(card: ExpertCard) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        card.title = "another"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", "Toy", "lower-case letters"),
        ("id", "-toy", "lower-case letters"),
        ("role", "boss", "'expert' or 'base'"),
        ("title", "  ", "at least 1 character"),
        ("factory", "package.Class", "module:Class"),
        ("parameters", -1, "greater than or equal to 0"),
        ("memory_mb", {}, "at least 1"),
        ("descriptions", (), "'descriptions'"),
        ("api_version", 2, "should be 1"),
        ("colour", "red", "not permitted"),
    ],
)
def test_a_wrong_field_is_refused(card: ExpertCard, field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExpertCard.model_validate(card.model_dump() | {field: value})


def test_a_base_needs_no_description(card: ExpertCard) -> None:
    base = ExpertCard.model_validate(card.model_dump() | {"role": "base", "descriptions": ()})
    assert base.descriptions == ()
