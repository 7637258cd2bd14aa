from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from mova_core.cards.card import ExpertCard
from mova_core.cards.records import ExpertRecord
from mova_core.errors import (
    ExpertLoadError,
    ExpertRunError,
    InputError,
    PartsError,
    PoolError,
    UnknownExpertError,
)
from mova_core.experts.cache import FeatureCache
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.pool import ExpertPool
from mova_core.experts.weights import read_weights
from mova_core.routing.route import Route

IDS = ("charts", "objects", "text")
MakeCard = Callable[..., ExpertCard]
MakeWorkshop = Callable[..., Any]


def _routes(*chosen: str) -> list[Route]:
    """One route a word: letters c, o, t stand for charts, objects, text; "-" for none."""
    return [Route(tuple(id for letter in word for id in IDS if id[0] == letter)) for word in chosen]


@pytest.fixture
def workshop(make_workshop: MakeWorkshop) -> Any:
    return make_workshop()


@pytest.fixture
def make_pool(make_card: MakeCard, workshop: Any) -> Callable[..., ExpertPool]:
    def make(**options: Any) -> ExpertPool:
        cards = [make_card(id) for id in IDS] + [make_card("base", role="base")]
        return ExpertPool(cards, **{"loader": workshop} | options)

    return make


MakePool = Callable[..., ExpertPool]


def _record(card: ExpertCard, **changes: Any) -> ExpertRecord:
    fields: dict[str, Any] = {"id": card.id, "status": "ok", "card": card, "distribution": "mova-expert-test"}
    return ExpertRecord(**fields | changes)


class TestCards:
    def test_experts_are_offered_in_id_order_and_bases_are_not(self, make_card: MakeCard) -> None:
        pool = ExpertPool([make_card("b"), make_card("z", role="base"), make_card("a")])
        assert [card.id for card in pool] == ["a", "b"] == list(pool.ids)
        assert len(pool) == 2 and [card.id for card in pool.bases] == ["z"]

    def test_an_id_may_come_once(self, make_card: MakeCard) -> None:
        with pytest.raises(PoolError, match="got a; expected each id once"):
            ExpertPool([make_card("a"), make_card("a", role="base")])

    def test_unusable_records_say_why(self, make_card: MakeCard) -> None:
        record = _record(make_card("a"), status="missing-dependency", problem="needs x", hint="pip install x")
        with pytest.raises(PoolError, match=r"'a' cannot be used: needs x; .* pip install x"):
            ExpertPool([record])
        assert ExpertPool([_record(make_card("a"))]).ids == ("a",)

    def test_an_unknown_id_suggests_the_right_one(self, make_pool: MakePool, pictures: list[Any]) -> None:
        with pytest.raises(UnknownExpertError, match="got chart; expected one of .*Did you mean 'charts'"):
            make_pool().encode(pictures[:1], [Route(("chart",))])
        with pytest.raises(UnknownExpertError, match="the pool is empty"):
            ExpertPool([]).encode(pictures[:1], [Route(("chart",))])


class TestEncode:
    def test_an_expert_sees_only_who_chose_it(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any]
    ) -> None:
        encoded = make_pool().encode(pictures, _routes("t", "c", "-", "ct", "-", "t"))
        assert {id: routed.rows for id, routed in encoded.items()} == {"charts": (1, 3), "text": (0, 3, 5)}
        assert workshop.experts["charts"].batches == [2]
        assert workshop.experts["text"].batches == [3]
        assert workshop.built == ["charts", "text"], "nobody chose objects, so nobody may load it"

    def test_no_expert_chosen_costs_nothing(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any]
    ) -> None:
        assert dict(make_pool().encode(pictures, _routes(*"------"))) == {}
        assert dict(make_pool().encode([], [])) == {}
        assert workshop.built == []

    @settings(max_examples=25, deadline=None)
    @given(routes=st.lists(st.sets(st.sampled_from(IDS)), min_size=1, max_size=6))
    def test_a_batch_is_its_samples_one_by_one(
        self,
        make_card: MakeCard,
        make_workshop: MakeWorkshop,
        pictures: list[Any],
        routes: list[set[str]],
    ) -> None:
        pool = ExpertPool([make_card(id) for id in IDS], loader=make_workshop())
        batch = pool.encode(pictures[: len(routes)], [Route(tuple(route)) for route in routes])
        assert list(batch) == sorted(set().union(*routes))
        for row, route in enumerate(routes):
            alone = pool.encode([pictures[row]], [Route(tuple(route))])
            assert set(alone) == route
            for id, routed in alone.items():
                found = batch[id].features.tokens[batch[id].rows.index(row)]
                torch.testing.assert_close(found, routed.features.tokens[0], rtol=0, atol=1e-6)

    @settings(max_examples=25, deadline=None)
    @given(order=st.permutations([*IDS, "zebra"]), present=st.sets(st.just("zebra")))
    def test_order_and_other_experts_change_no_bit(
        self,
        make_card: MakeCard,
        make_workshop: MakeWorkshop,
        pictures: list[Any],
        order: list[str],
        present: set[str],
    ) -> None:
        routes = _routes("to", "c", "ot", "-", "c", "t")
        reference = ExpertPool([make_card(id) for id in IDS], loader=make_workshop())
        shuffled = ExpertPool(
            [make_card(id) for id in order if id in IDS or id in present], loader=make_workshop()
        )
        expected, found = reference.encode(pictures, routes), shuffled.encode(pictures, routes)
        assert list(found) == list(expected)
        for id in expected:
            assert found[id].rows == expected[id].rows
            assert torch.equal(found[id].features.tokens, expected[id].features.tokens)

    def test_equal_pictures_are_computed_once(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any]
    ) -> None:
        same = [pictures[0], pictures[1], pictures[0].copy()]
        tokens = make_pool().encode(same, _routes("t", "t", "t"))["text"].features.tokens
        assert workshop.experts["text"].batches == [2]
        assert torch.equal(tokens[0], tokens[2]) and not torch.equal(tokens[0], tokens[1])

    def test_equal_streams_are_prepared_once(
        self, make_card: MakeCard, workshop: Any, pictures: list[Any]
    ) -> None:
        other = make_card("charts").input.model_copy(update={"fit": "crop"})
        cards = [make_card("charts"), make_card("text"), make_card("objects", input=other.model_dump())]
        ExpertPool(cards, loader=workshop).encode(pictures[:3], _routes("cto", "to", "t"))
        prepared = {id: expert.prepared for id, expert in workshop.experts.items()}
        assert prepared == {"charts": [1], "objects": [2], "text": [2]}, "text takes row 0 from charts"

    def test_one_encoder_for_every_picture(self, make_pool: MakePool, pictures: list[Any]) -> None:
        pool = make_pool()
        features = pool.encode_all(pictures, "base")
        assert features.tokens.shape == (6, 6, 4) and features.grid == (2, 3)
        with pytest.raises(InputError, match="no image"):
            pool.encode_all([], "base")

    def test_a_base_cannot_be_routed_to(self, make_pool: MakePool, pictures: list[Any]) -> None:
        with pytest.raises(PoolError, match="got base; expected ids of experts"):
            make_pool().encode(pictures[:1], [Route(("base",))])

    def test_each_picture_needs_a_route(self, make_pool: MakePool, pictures: list[Any]) -> None:
        with pytest.raises(PoolError, match="got 1 routes; expected 6"):
            make_pool().encode(pictures, _routes("t"))

    def test_pictures_of_other_modes_are_read_as_rgb(self, make_pool: MakePool) -> None:
        grey, rgb = Image.new("L", (5, 5), 9), Image.new("RGB", (5, 5), (9, 9, 9))
        tokens = make_pool().encode([grey, rgb], _routes("t", "t"))["text"].features.tokens
        assert torch.equal(tokens[0], tokens[1])

    def test_features_can_be_trained_upon(self, make_pool: MakePool, pictures: list[Any]) -> None:
        tokens = make_pool().encode(pictures[:2], _routes("t", "t"))["text"].features.tokens
        head = nn.Linear(4, 1)
        head(tokens).sum().backward()
        assert not tokens.requires_grad and not tokens.is_inference()
        assert head.weight.grad is not None

    def test_autocast_of_the_caller_does_not_reach_experts(
        self, make_pool: MakePool, pictures: list[Any]
    ) -> None:
        expected = make_pool().encode(pictures[:2], _routes("t", "t"))["text"].features.tokens
        with torch.autocast("cpu", torch.bfloat16):
            found = make_pool().encode(pictures[:2], _routes("t", "t"))["text"].features.tokens
        assert torch.equal(found, expected)

    def test_experts_are_placed_frozen_and_in_the_dtype(
        self, make_pool: MakePool, pictures: list[Any]
    ) -> None:
        pool = make_pool(dtype=torch.bfloat16)
        tokens = pool.encode(pictures[:1], _routes("t"))["text"].features.tokens
        expert = pool.expert("text")
        assert tokens.dtype == torch.bfloat16 == next(expert.parameters()).dtype
        assert not expert.training and not any(p.requires_grad for p in expert.parameters())


class TestCached:
    def test_a_second_question_runs_nothing(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any]
    ) -> None:
        cache = FeatureCache(10**6)
        pool = make_pool(cache=cache)
        first = pool.encode(pictures[:3], _routes("t", "t", "c"))
        again = pool.encode(pictures[:3], _routes("tc", "t", "c"))
        assert workshop.experts["text"].batches == [2]
        assert workshop.experts["charts"].batches == [1, 1], "only the picture that charts had not seen"
        assert torch.equal(again["text"].features.tokens, first["text"].features.tokens)
        assert torch.equal(again["charts"].features.tokens[1], first["charts"].features.tokens[0])
        assert (cache.stats.hits, cache.stats.misses) == (3, 4)

    def test_cached_features_need_no_expert(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any]
    ) -> None:
        pool = make_pool(cache=FeatureCache(10**6))
        pool.encode_all(pictures, "base")
        pool.unload("base")
        pool.encode_all(pictures[2:4], "base")
        assert workshop.built == ["base"] and pool.loaded == ()

    def test_changing_what_was_given_does_not_change_the_cache(
        self, make_pool: MakePool, pictures: list[Any]
    ) -> None:
        pool = make_pool(cache=FeatureCache(10**6))
        first = pool.encode_all(pictures[:1], "base").tokens
        kept = first.clone()
        first.zero_()
        pool.encode_all(pictures[:1], "base").tokens.zero_()
        assert torch.equal(pool.encode_all(pictures[:1], "base").tokens, kept)

    def test_revision_and_dtype_part_entries(
        self, make_card: MakeCard, workshop: Any, pictures: list[Any]
    ) -> None:
        cache = FeatureCache(10**6)
        new = {"sources": (), "revision": "r2", "licence": "Apache-2.0"}
        for card, dtype in [
            (make_card("text"), torch.float32),
            (make_card("text", weights=new), torch.float32),
            (make_card("text"), torch.bfloat16),
        ]:
            ExpertPool([card], loader=workshop, cache=cache, dtype=dtype).encode_all(pictures[:1], "text")
        assert cache.stats.hits == 0 and cache.stats.entries == 3


class TestMemory:
    ONE = 4 * 3 * 4  # bytes of a counting expert

    def test_the_expert_used_longest_ago_makes_room(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any]
    ) -> None:
        told: list[str] = []
        pool = make_pool(memory_budget=2 * self.ONE, progress=told.append)
        pool.encode(pictures[:1], _routes("ct"))
        pool.encode(pictures[:1], _routes("c"))
        pool.encode(pictures[:1], _routes("o"))
        assert pool.loaded == ("charts", "objects") and pool.loaded_bytes == 2 * self.ONE
        pool.encode(pictures[:1], _routes("t"))
        assert pool.loaded == ("objects", "text")
        assert workshop.built == ["charts", "text", "objects", "text"]
        assert "evicting text to make room for objects" in told
        assert any(line.startswith("loading charts") for line in told)

    def test_what_is_held_elsewhere_takes_no_room_and_stays(
        self, make_pool: MakePool, workshop: Any, make_card: Any, pictures: list[Any]
    ) -> None:
        held = workshop(make_card("base"))
        pool = make_pool(memory_budget=self.ONE, held={"base": held})
        for chosen in "ct":
            pool.encode_all(pictures[:1], "base")
            pool.encode(pictures[:1], _routes(chosen))
        assert pool.expert("base") is held and held.batches == [1, 1]
        assert pool.loaded == ("text",) and pool.loaded_bytes == self.ONE
        assert workshop.built == ["base", "charts", "text"]

    def test_no_budget_evicts_nothing(self, make_pool: MakePool, pictures: list[Any]) -> None:
        pool = make_pool()
        pool.encode(pictures[:1], _routes("cto"))
        assert pool.loaded == IDS

    def test_an_expert_beyond_the_budget_is_refused_before_it_is_loaded(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any]
    ) -> None:
        pool = make_pool(memory_budget=self.ONE - 1)
        with pytest.raises(PoolError, match="'text' alone exceeds the pool's memory budget"):
            pool.encode(pictures[:1], _routes("t"))
        assert workshop.built == []

    def test_a_card_that_understates_is_found_out(
        self, make_card: MakeCard, workshop: Any, pictures: list[Any]
    ) -> None:
        card = make_card("text", memory_mb={"float32": 1e-9})
        pool = ExpertPool([card], loader=workshop, memory_budget=self.ONE - 1)
        with pytest.raises(PoolError, match="alone exceeds"):
            pool.encode(pictures[:1], _routes("t"))
        assert pool.loaded == ()

    def test_a_dtype_the_card_does_not_list_counts_parameters(
        self, make_card: MakeCard, workshop: Any, pictures: list[Any]
    ) -> None:
        card = make_card("text", memory_mb={"float32": 10.0**6})
        pool = ExpertPool([card], loader=workshop, memory_budget=self.ONE, dtype=torch.bfloat16)
        pool.encode(pictures[:1], _routes("t"))
        assert pool.loaded_bytes == self.ONE // 2


def _no_key() -> None:
    raise KeyError("key")


def _broken(make_workshop: MakeWorkshop, failure: Callable[[], object]) -> Any:
    """A workshop whose `objects` cannot be built."""
    whole = make_workshop()

    def build(id: str) -> Any:
        if id == "objects":
            failure()
        return whole.build(id)

    return make_workshop(build)


class TestFailures:
    def test_a_corrupt_weight_file_chains_the_cause(
        self, make_pool: MakePool, make_workshop: MakeWorkshop, pictures: list[Any], tmp_path: Path
    ) -> None:
        path = tmp_path / "w.safetensors"
        path.write_bytes(b"rubbish")
        pool = make_pool(loader=_broken(make_workshop, lambda: read_weights(path)))
        with pytest.raises(ExpertLoadError, match="'objects' could not be loaded: weight file") as caught:
            pool.encode(pictures[:1], _routes("o"))
        assert isinstance(caught.value.__cause__, ExpertLoadError)
        assert "\n" not in str(caught.value)

    def test_foreign_errors_while_loading_name_the_expert(
        self, make_pool: MakePool, make_workshop: MakeWorkshop, pictures: list[Any]
    ) -> None:
        pool = make_pool(loader=_broken(make_workshop, _no_key))
        with pytest.raises(ExpertLoadError, match="'objects' could not be loaded; got KeyError"):
            pool.encode(pictures[:1], _routes("o"))

    def test_the_way_out_survives(
        self, make_pool: MakePool, make_workshop: MakeWorkshop, pictures: list[Any]
    ) -> None:
        def absent() -> None:
            raise PartsError("absent", hint="Run `mova models pull nano`.")

        pool = make_pool(loader=_broken(make_workshop, absent))
        with pytest.raises(ExpertLoadError, match="absent. Run `mova models pull nano`"):
            pool.expert("objects")

    def test_a_routed_expert_that_fails_can_be_skipped_and_is_named(
        self, make_pool: MakePool, make_workshop: MakeWorkshop, pictures: list[Any]
    ) -> None:
        pool = make_pool(loader=_broken(make_workshop, _no_key), on_expert_error="skip")
        encoded = pool.encode(pictures[:2], _routes("ot", "o"))
        assert list(encoded) == ["text"]
        assert list(encoded.skipped) == ["objects"] and "KeyError" in encoded.skipped["objects"]
        with pytest.raises(ExpertLoadError):
            pool.encode_all(pictures[:1], "objects")
        with pytest.raises(UnknownExpertError):
            pool.encode(pictures[:1], [Route(("unknown",))])

    @pytest.mark.parametrize("step", ["preprocess", "forward"])
    def test_a_failing_run_names_the_expert(
        self, step: str, make_card: MakeCard, counting_expert: Any, pictures: list[Any]
    ) -> None:
        def fail(*_: object) -> Tensor:
            raise RuntimeError("out of\nluck")

        failing = type("Failing", (counting_expert,), {step: fail})
        pool = ExpertPool([make_card("text")], loader=lambda card: failing(0))
        with pytest.raises(
            ExpertRunError, match="'text' failed on 2 pictures; got RuntimeError: out of luck"
        ):
            pool.encode(pictures[:2], _routes("t", "t"))

    def test_a_broken_promise_is_an_error(
        self, make_pool: MakePool, workshop: Any, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = make_pool()
        wrong = ExpertFeatures(torch.zeros(1, 6, 9), (2, 3))
        monkeypatch.setattr(pool.expert("text"), "forward", lambda stream: wrong)
        with pytest.raises(ExpertRunError, match="'text' .*got 9 channels; expected 4"):
            pool.encode(pictures[:1], _routes("t"))

    def test_grids_that_differ_within_a_batch_are_refused(
        self, make_card: MakeCard, make_workshop: MakeWorkshop, pictures: list[Any]
    ) -> None:
        card = make_card("text", features={"channels": 4, "grid": "dynamic"})
        pool = ExpertPool([card], loader=make_workshop(), cache=FeatureCache(10**6))
        pool.encode(pictures[:1], _routes("t"))
        other = ExpertFeatures(torch.zeros(1, 6, 4), (3, 2))
        pool.expert("text").forward = lambda stream: other  # type: ignore[method-assign]
        with pytest.raises(ExpertRunError, match="different grids"):
            pool.encode(pictures[:2], _routes("t", "t"))

    def test_a_wrong_number_of_prepared_rows_is_refused(
        self, make_card: MakeCard, counting_expert: Any, pictures: list[Any]
    ) -> None:
        def one_row(self: object, images: Sequence[Image.Image]) -> Tensor:
            return torch.zeros(1, 3, 12, 18)

        short = type("Short", (counting_expert,), {"preprocess": one_row})
        pool = ExpertPool([make_card("text")], loader=lambda card: short(0))
        with pytest.raises(ExpertRunError, match="'text' prepared a wrong number of rows; got 1"):
            pool.encode(pictures[:2], _routes("t", "t"))
