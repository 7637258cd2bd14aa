"""Choices that teach a router, and its calibration."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mova_core.errors import ConfigError
from mova_core.experts.pool import ExpertPool
from mova_core.model.assistant import Mova
from mova_core.model.load import load
from mova_core.model.looking import look
from mova_core.model.processing import Turn
from mova_core.routing.calibration import Calibration
from mova_core.routing.prompt import PointwisePrompt
from mova_core.training.choices import Choice, Choices, read_domains
from mova_core.training.features import FeatureStore, write_features
from mova_core.training.router import RouterStage, Seen, calibrate

WORDINGS = {f"tiny-{name}": (f"{name} one", f"{name} two") for name in ("red", "green", "blue")}
DOMAINS = [
    {"descriptions": [f"domain {n} first", f"domain {n} second"], "questions": [f"about {n}?"]}
    for n in range(6)
]


@pytest.fixture
def assistant(tiny: Path) -> Mova:
    return load(tiny, dtype=torch.float32)


@pytest.fixture
def samples(tiny: Path) -> Any:
    from mova_tiny.samples import training_set

    return training_set(12)


def choices(samples: Any, length: int = 300, **changes: Any) -> list[Choice]:
    fields = {"domains": DOMAINS, "general": ["hello?"], "offered": 4, "worded": 0.4, "seed": 0} | changes
    data = Choices(samples, WORDINGS, length=length, **fields)
    assert len(data) == length
    return [data[place] for place in range(length)]


def test_they_depend_on_the_seed_alone(samples: Any) -> None:
    assert choices(samples) == choices(samples)
    assert choices(samples, 20) == choices(samples)[:20]
    assert choices(samples) != choices(samples, seed=1)


def test_each_offers_the_same_number_of_descriptions(samples: Any) -> None:
    for choice in choices(samples):
        assert len(choice.descriptions) == len(choice.useful) == 4


def test_a_share_of_them_has_no_picture(samples: Any) -> None:
    shares = [
        sum(choice.index is None for choice in choices(samples, worded=worded)) / 300
        for worded in (0.0, 0.4, 1.0)
    ]
    assert shares[0] == 0 and shares[1] == pytest.approx(0.4, abs=0.08) and shares[2] == 1
    assert all(choice.index is not None for choice in choices(samples, worded=1.0, domains=[], offered=2))


def test_what_helps_is_what_the_sample_or_the_domain_says(samples: Any) -> None:
    places: Counter[int] = Counter()
    for choice in choices(samples):
        helping = {text for text, useful in zip(choice.descriptions, choice.useful, strict=True) if useful}
        if choice.index is not None:
            sample = samples[choice.index]
            assert choice.question in dict(sample.turns)
            right = {text for id in sample.experts for text in WORDINGS[id]}
        else:
            asked = [n for n in range(6) if choice.question == f"about {n}?"]
            right = {text for n in asked for text in DOMAINS[n]["descriptions"]}
        assert helping == right & set(choice.descriptions)
        assert len(helping) <= 1
        places.update(place for place, useful in enumerate(choice.useful) if useful)
    assert set(places) == {0, 1, 2, 3}  # no place on the list gives the right one away


def test_now_and_then_the_right_one_is_not_on_offer(samples: Any) -> None:
    found = choices(samples)
    needing = [c for c in found if c.index is not None and samples[c.index].experts]
    assert 0 < sum(not any(choice.useful) for choice in needing) < 0.2 * len(needing)


def test_descriptions_come_in_all_wordings(samples: Any) -> None:
    told = {text for choice in choices(samples) for text in choice.descriptions}
    assert {text for texts in WORDINGS.values() for text in texts} <= told


def test_its_loss_counts_each_description_and_the_best_of_them(assistant: Mova) -> None:
    stage = RouterStage(assistant.model, assistant.processor)
    tokens = [torch.zeros(0, assistant.model.config.language_settings.width)] * 2
    some = Choice(None, "why?", ("a", "b"), (True, False))
    none = Choice(None, "who?", ("a", "c"), (False, False))
    with torch.no_grad():
        output = stage(tokens=tokens, choices=[some, none])
        scores = stage.scores(tokens, [some, none])
    assert torch.equal(output["scores"], scores) and scores.shape == (2, 2)
    chance = torch.sigmoid(scores)
    each = -torch.stack([chance[0, 0], 1 - chance[0, 1], *(1 - chance[1])]).log().mean()
    best = -scores[0].softmax(0)[0].log()
    assert output["loss"].item() == pytest.approx((each + 0.5 * best).item(), abs=1e-5)


def test_calibration_makes_the_scores_of_the_helpful_probable(
    assistant: Mova, samples: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stage = RouterStage(assistant.model, assistant.processor)
    generator = torch.Generator().manual_seed(0)

    def scores(tokens: Any, made: Any) -> torch.Tensor:
        useful = torch.tensor([choice.useful for choice in made], dtype=torch.float32)
        return 7 + 3 * useful + torch.randn(useful.shape, generator=generator)

    monkeypatch.setattr(stage, "scores", scores)
    told: list[str] = []
    data = Choices(samples, WORDINGS, DOMAINS, [], length=200, offered=4, worded=1.0, seed=0)
    seen = Seen(assistant.model, assistant.processor, FeatureStore(tmp_path))
    calibrate(stage, data, seen, told.append)
    settings = assistant.model.config.router_settings
    fitted = Calibration(settings.bias, settings.temperature, settings.threshold)
    assert settings.branch == PointwisePrompt().branch
    low, high = fitted.probabilities(torch.tensor([7.0, 10.0]))
    assert low < 0.15 and high > 0.7
    assert told[0].startswith(f"calibrated: bias {settings.bias:.2f}") and "of 800 descriptions" in told[0]


def test_the_router_is_shown_what_it_sees_of_a_picture_when_it_is_asked(
    assistant: Mova, samples: Any, tmp_path: Path
) -> None:
    store = write_features(
        samples,
        tmp_path,
        base=assistant.model.base,
        pool=ExpertPool.from_ids(assistant.pool.ids),
        extra=0,
        dtype=torch.float32,
        tell=lambda message: None,
    )
    found = choices(samples, 12)
    shown = Seen(assistant.model, assistant.processor, store)(found)
    assert {choice.index is None for choice in found} == {True, False}
    for choice, tokens in zip(found, shown, strict=True):
        if choice.index is None:
            assert tokens.shape == (0, assistant.model.config.language_settings.width)
            continue
        looked = look(
            assistant.model,
            assistant.processor,
            assistant.pool,
            [[Turn(choice.question, (samples[choice.index].image,))]],
        )
        assert torch.allclose(tokens, looked.shown(assistant.router)[0], atol=1e-5)


def test_a_router_asks_in_the_words_it_was_trained_with(assistant: Mova) -> None:
    assistant.model.config.router |= {"branch": "{description}?"}
    assert RouterStage(assistant.model, assistant.processor).router.prompt.about("Reads").startswith("Reads?")


class TestDomains:
    TEXT = """
    domains:
      - {descriptions: [a], questions: ["b?"]}
      - {descriptions: [c], questions: ["d?"], held_out: true}
    general_questions: ["hello?"]
    """

    def test_some_are_kept_for_tests(self, tmp_path: Path) -> None:
        (tmp_path / "d.yaml").write_text(self.TEXT)
        for held_out, description in ((False, "a"), (True, "c")):
            (domain,), general = read_domains(tmp_path / "d.yaml", held_out=held_out)
            assert domain["descriptions"] == [description] and general == ["hello?"]

    @pytest.mark.parametrize("text", [None, "", "domains: []", "general_questions: []", "a: [", "- a"])
    def test_a_file_that_is_none_is_named(self, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / "d.yaml").write_text(text)
        with pytest.raises(ConfigError, match="the routing domains cannot be read; got .*d.yaml"):
            read_domains(tmp_path / "d.yaml")
