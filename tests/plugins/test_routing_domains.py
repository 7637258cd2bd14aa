"""The routing corpus of the nano plugin is complete, varied and free of leaks between its domains."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

CORPUS = Path(__file__).parents[2] / "plugins" / "mova-nano" / "mova_nano" / "data" / "routing_domains.yaml"
FIELDS = {"id", "held_out", "looks", "descriptions", "questions"}

# Nearly the words of the shipped experts: training on these would make the open-world figures meaningless.
RESERVED = {"printed_text", "charts", "everyday_objects", "region_areas", "brain_mri"}


@pytest.fixture(scope="module")
def corpus() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CORPUS.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def domains(corpus: dict[str, Any]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = corpus["domains"]
    return listed


def normal(text: str) -> str:
    """Lower case without punctuation, so that near-identical sentences count as the same."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def repeated(texts: list[str]) -> list[str]:
    """Sentences that occur more than once."""
    return [text for text, count in Counter(map(normal, texts)).items() if count > 1]


def outside(texts: list[str], low: int, high: int) -> list[tuple[int, str]]:
    """Sentences whose word count is not within `low` to `high`."""
    return [(len(t.split()), t) for t in texts if not low <= len(t.split()) <= high]


def every(domains: list[dict[str, Any]], field: str) -> list[str]:
    """All sentences under `field`, over all domains."""
    return [text for domain in domains for text in domain[field]]


def test_every_domain_has_exactly_the_agreed_fields(domains: list[dict[str, Any]]) -> None:
    assert len(domains) == 64
    for domain in domains:
        assert set(domain) == FIELDS, domain.get("id")
        assert isinstance(domain["held_out"], bool), domain["id"]
        assert domain["looks"].strip(), domain["id"]
        assert (len(domain["descriptions"]), len(domain["questions"])) == (4, 14), domain["id"]
        assert all(isinstance(t, str) for t in domain["descriptions"] + domain["questions"]), domain["id"]


def test_ids_are_unique(domains: list[dict[str, Any]]) -> None:
    assert repeated([domain["id"] for domain in domains]) == []


def test_descriptions_are_distinct_and_of_catalogue_length(domains: list[dict[str, Any]]) -> None:
    descriptions = every(domains, "descriptions")
    assert repeated(descriptions) == []
    assert outside(descriptions, 20, 40) == []


def test_wordings_of_one_domain_start_differently(domains: list[dict[str, Any]]) -> None:
    for domain in domains:
        assert len({tuple(d.split()[:3]) for d in domain["descriptions"]}) == 4, domain["id"]


def test_no_question_occurs_twice(corpus: dict[str, Any], domains: list[dict[str, Any]]) -> None:
    assert repeated(every(domains, "questions") + corpus["general_questions"]) == []


def test_questions_have_4_to_20_words(domains: list[dict[str, Any]]) -> None:
    assert outside(every(domains, "questions"), 4, 20) == []


def test_questions_that_need_no_expert_are_plenty(corpus: dict[str, Any]) -> None:
    assert len(corpus["general_questions"]) == 60


def test_reserved_domains_and_clocks_are_held_out(domains: list[dict[str, Any]]) -> None:
    held_out = {domain["id"] for domain in domains if domain["held_out"]}
    assert held_out >= RESERVED | {"analogue_clocks"}
    assert 18 <= len(held_out) <= len(domains) // 2
