"""Batches: which questions and routes are drawn, and what of a conversation is learned."""

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
from mova_core.training.batches import Collator, Drawn, DrawnSamples
from mova_core.training.config import RouteSettings
from mova_core.training.features import FeatureStore, write_features

COUNT = 12


@pytest.fixture
def assistant(tiny: Path) -> Mova:
    return load(tiny, dtype=torch.float32)


@pytest.fixture
def samples(tiny: Path) -> Any:
    from mova_tiny.samples import training_set

    return training_set(COUNT)


@pytest.fixture
def store(assistant: Mova, samples: Any, tmp_path: Path) -> FeatureStore:
    return write_features(
        samples,
        tmp_path / "features",
        base=assistant.model.base,
        pool=ExpertPool.from_ids(assistant.pool.ids),
        dtype=torch.float32,
        tell=lambda message: None,
    )


@pytest.fixture
def collator(assistant: Mova, store: FeatureStore) -> Collator:
    return Collator(store, assistant.processor, assistant.model.text_encoder)


def drawn(samples: Any, store: FeatureStore, length: int, *, seed: int = 0, **shares: float) -> list[Drawn]:
    routes = RouteSettings(**{"none": 0.0, "added": 0.0, "other": 0.0} | shares)
    data = DrawnSamples(samples, store, length, 2, routes, seed)
    assert len(data) == length
    return [data[place] for place in range(length)]


def essence(draws: list[Drawn]) -> list[Any]:
    return [(each.index, each.turns, each.route) for each in draws]


def test_draws_depend_on_the_seed_alone(samples: Any, store: FeatureStore) -> None:
    shares = {"none": 0.2, "added": 0.3, "other": 0.2}
    there = essence(drawn(samples, store, 60, **shares))
    assert there == essence(drawn(samples, store, 60, **shares))
    assert there[:20] == essence(drawn(samples, store, 20, **shares))
    assert there != essence(drawn(samples, store, 60, seed=1, **shares))


def test_every_pass_meets_every_sample_and_draws_anew(samples: Any, store: FeatureStore) -> None:
    draws = drawn(samples, store, 5 * COUNT, none=0.5)
    passes = [draws[start : start + COUNT] for start in range(0, len(draws), COUNT)]
    for each in passes:
        assert sorted(draw.index for draw in each) == list(range(COUNT))
    assert len({tuple(sorted(str(essence([d])) for d in each)) for each in passes}) > 1


def test_questions_are_some_of_the_samples_own(samples: Any, store: FeatureStore) -> None:
    draws = drawn(samples, store, 100)
    assert {len(draw.turns) for draw in draws} == {1, 2}
    for draw in draws:
        assert len(set(draw.turns)) == len(draw.turns) and set(draw.turns) <= set(samples[draw.index].turns)


def test_a_batch_asks_equally_much_of_every_sample(samples: Any, store: FeatureStore) -> None:
    numbers = [[len(draw.turns) for draw in batch] for batch in batches(samples, store, size=4)]
    assert all(len(set(each)) == 1 for each in numbers)
    assert {each[0] for each in numbers} == {1, 2}


def test_batches_are_put_together_anew_in_every_pass(samples: Any, store: FeatureStore) -> None:
    sets = [frozenset(draw.index for draw in batch) for batch in batches(samples, store, size=4)]
    assert len(set(sets)) >= len(sets) - 3


def batches(samples: Any, store: FeatureStore, *, size: int) -> list[list[Drawn]]:
    data = DrawnSamples(samples, store, 20 * size, 2, RouteSettings(), 0, size)
    return [[data[place] for place in range(start, start + size)] for start in range(0, len(data), size)]


@pytest.mark.parametrize(
    "shares", [{"none": 0.3, "added": 0.2, "other": 0.1}, {}, {"none": 1.0}, {"added": 1.0}, {"other": 1.0}]
)
def test_routes_have_the_shares_asked_for(
    samples: Any, store: FeatureStore, shares: dict[str, float]
) -> None:
    kinds: Counter[str] = Counter()
    for draw in drawn(samples, store, 1200, **shares):
        own, route = samples[draw.index].experts, draw.route
        assert set(route) <= set(store.experts(draw.index))
        if not own:
            continue  # a route of none is its own
        kind = "own" if route == own else "none" if not route else "added" if own[0] in route else "other"
        assert len(route) == {"own": 1, "none": 0, "added": 2, "other": 1}[kind]
        kinds[kind] += 1
    expected = {"none": 0.0, "added": 0.0, "other": 0.0} | shares
    expected["own"] = 1 - sum(expected.values())
    for kind, share in expected.items():
        assert kinds[kind] / kinds.total() == pytest.approx(share, abs=0.05), kind


def test_answers_and_their_stop_marks_are_learned_and_nothing_else(
    samples: Any, collator: Collator, assistant: Mova
) -> None:
    one = Drawn(0, samples[0], samples[0].turns[:1], ())
    two = Drawn(1, samples[1], samples[1].turns, ())
    batch = collator([one, two])
    for row, draw in enumerate((one, two)):
        ids, told = batch["input_ids"][row], batch["labels"][row]
        learned = told != -100
        assert torch.equal(told[learned], ids[learned])
        text = assistant.processor.tokenizer.decode(told[learned])
        assert text == "".join(f" {answer}<|im_end|>\n" for _, answer in draw.turns)
        assert (ids == assistant.processor.image_token_id).sum() == assistant.processor.image_tokens
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist(), reverse=True)


def test_training_reads_what_asking_writes(samples: Any, collator: Collator, assistant: Mova) -> None:
    from mova_core.model.processing import Turn

    ((question, answer), _) = samples[0].turns
    batch = collator([Drawn(0, samples[0], ((question, answer),), ())])
    asked = assistant.processor([[Turn(question, (samples[0].image,))]])
    length = asked["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][:, :length], asked["input_ids"])
    text = assistant.model.encode_text(asked["text_input_ids"], asked["text_attention_mask"])
    assert torch.equal(batch["text_features"], text)
    torch.testing.assert_close(batch["base_features"], assistant.model.encode_base(asked["pixel_values"]))


def test_features_go_to_the_rows_that_chose_them(
    samples: Any, store: FeatureStore, collator: Collator
) -> None:
    draws = [Drawn(i, samples[i], samples[i].turns, tuple(store.experts(i))) for i in (0, 1, 2)]
    experts = collator(draws)["experts"]
    assert list(experts) == sorted(experts)
    for id, routed in experts.items():
        rows = [row for row, draw in enumerate(draws) if id in draw.route]
        assert routed["rows"].tolist() == rows
        for row, tokens in zip(rows, routed["tokens"], strict=True):
            assert torch.equal(tokens, store.experts(draws[row].index)[id])


def test_words_stand_on_their_cells(samples: Any, store: FeatureStore, assistant: Mova) -> None:
    words = ("blue", "green", "red")
    collator = Collator(store, assistant.processor, assistant.model.text_encoder, words)
    batch = collator([Drawn(i, samples[i], samples[i].turns, ()) for i in range(3)])
    assert "input_ids" not in batch and batch["targets"].shape == (3, 4, 3)
    for row in range(3):
        for place, word in enumerate(words):
            share = samples[row].words.get(word)
            expected = torch.zeros(4) if share is None else torch.from_numpy(share).flatten()
            assert torch.equal(batch["targets"][row, :, place], expected)


def test_features_that_are_missing_are_an_error(
    samples: Any, store: FeatureStore, collator: Collator
) -> None:
    absent = next(iter({"tiny-red", "tiny-green", "tiny-blue"} - set(store.experts(3))))
    with pytest.raises(ConfigError, match=f"data.features: .* got {absent} of sample 3"):
        collator([Drawn(3, samples[3], samples[3].turns, (absent,))])
