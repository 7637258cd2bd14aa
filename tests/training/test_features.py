"""Features on disk: what the encoders gave, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mova_core.errors import ConfigError
from mova_core.experts.pool import ExpertPool
from mova_core.experts.protocol import VisionExpert
from mova_core.model.build import load_base
from mova_core.routing.route import Route
from mova_core.training import features
from mova_core.training.features import FeatureStore, write_features

IDS = ("tiny-blue", "tiny-green", "tiny-red")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD", 4)


@pytest.fixture
def base(tiny: Path) -> VisionExpert:
    return load_base("tiny-base", dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def pool(tiny: Path) -> ExpertPool:
    return ExpertPool.from_ids(IDS)


def samples(count: int) -> Sequence[Any]:
    from mova_tiny.samples import training_set

    return training_set(count)


def write(folder: Path, count: int, base: VisionExpert, pool: ExpertPool, **options: Any) -> FeatureStore:
    options = {"dtype": torch.float32, "tell": lambda message: None} | options
    return write_features(samples(count), folder, base=base, pool=pool, **options)


def test_what_is_stored_is_what_the_encoders_give(tmp_path: Path, base: Any, pool: ExpertPool) -> None:
    store = write(tmp_path, 6, base, pool, extra=0, batch=3)
    for index, sample in enumerate(samples(6)):
        assert torch.equal(store.base(index), base(base.preprocess([sample.image])).tokens[0])
        own = store.experts(index)
        assert set(own) == set(sample.experts)
        for id, found in pool.encode([sample.image], [Route(sample.experts)]).items():
            assert torch.equal(own[id], found.features.tokens[0])


def test_they_are_stored_in_half_the_bytes_unless_told_otherwise(
    tmp_path: Path, base: Any, pool: ExpertPool
) -> None:
    store = write_features(samples(2), tmp_path, base=base, pool=pool, tell=lambda message: None)
    assert store.base(0).dtype == torch.bfloat16


def test_other_experts_are_run_too_the_same_ones_every_time(
    tmp_path: Path, base: Any, pool: ExpertPool
) -> None:
    there = write(tmp_path / "a", 12, base, pool, extra=1, batch=2)
    again = write(tmp_path / "b", 12, base, pool, extra=1, batch=5)
    chosen = [set(there.experts(i)) - set(sample.experts) for i, sample in enumerate(samples(12))]
    assert [len(more) for more in chosen] == [1] * 12 and len(set.union(*chosen)) == 3
    assert all(set(there.experts(i)) == set(again.experts(i)) for i in range(12))
    everything = write(tmp_path / "c", 3, base, pool, extra=9)
    assert all(set(everything.experts(i)) == set(IDS) for i in range(3))


def test_shards_that_are_there_are_not_computed_again(tmp_path: Path, base: Any, pool: ExpertPool) -> None:
    write(tmp_path, 8, base, pool)
    assert base.seen == 8
    store = write(tmp_path, 8, base, pool)
    assert base.seen == 8 and store.base(7).shape == (16, 16)


def test_a_larger_set_adds_what_is_missing(tmp_path: Path, base: Any, pool: ExpertPool) -> None:
    write(tmp_path, 6, base, pool)
    store = write(tmp_path, 9, base, pool)
    assert base.seen == 6 + 5  # the second shard was half full
    fresh = write(tmp_path / "fresh", 9, base, pool)
    for index in range(9):
        assert torch.equal(store.base(index), fresh.base(index))
        assert store.experts(index).keys() == fresh.experts(index).keys()


def test_a_run_that_is_killed_leaves_whole_shards_and_goes_on_from_them(
    tmp_path: Path, base: Any, pool: ExpertPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(message: str) -> None:
        if "8 of" in message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 12, base, pool, tell=die)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "0000000.safetensors",
        "0000004.safetensors",
    ]
    write(tmp_path, 12, base, pool)
    assert base.seen == 12


def test_a_shard_that_was_cut_short_is_computed_again(tmp_path: Path, base: Any, pool: ExpertPool) -> None:
    expected = write(tmp_path, 4, base, pool).base(3).clone()
    shard = tmp_path / "0000000.safetensors"
    data = shard.read_bytes()
    shard.unlink()  # a new file: the old one is mapped into memory
    shard.write_bytes(data[:-50])
    assert torch.equal(write(tmp_path, 4, base, pool).base(3), expected)


class Shifted:
    """The same number of other pictures."""

    def __init__(self, count: int) -> None:
        self.samples = samples(count + 1)

    def __len__(self) -> int:
        return len(self.samples) - 1

    def __getitem__(self, index: int) -> Any:
        return self.samples[index + 1]


@pytest.mark.parametrize("other", ["picture", "dtype", "base", "tiny-red"])
def test_features_of_other_pictures_or_encoders_are_never_taken_for_these(
    other: str, tmp_path: Path, base: Any, pool: ExpertPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 8, base, pool)
    taken, options = samples(8), {"base": base, "pool": pool, "dtype": torch.float32}
    if other == "picture":
        taken = Shifted(8)
    elif other == "dtype":
        options["dtype"] = torch.bfloat16
    elif other == "base":
        newer = base.card.model_copy(update={"title": "Another"})
        monkeypatch.setattr(base, "card", newer)
    else:
        options["pool"] = ExpertPool(
            [c if c.id != other else c.model_copy(update={"title": "Another"}) for c in pool]
        )
    with pytest.raises(ConfigError, match=rf"computed with another {other}.*delete"):
        write_features(taken, tmp_path, tell=lambda message: None, **options)


def test_features_without_the_experts_serve_the_router(tmp_path: Path, base: Any, pool: ExpertPool) -> None:
    write(tmp_path, 8, base, pool)
    write(tmp_path, 8, base, ExpertPool([]))
    assert base.seen == 8
