"""What goes where: laws that hold for models and devices of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import ConfigError
from mova_core.model.gpus import RUNTIME, parse_gpus, parse_size
from mova_core.model.placement import Device, Item, MemoryPlan, Sizes, place

BYTES = st.integers(0, 1000)


@st.composite
def sizes(draw: st.DrawFn) -> Sizes:
    count = draw(st.integers(1, 6))
    names = ["embed", *(f"layers.{n}" for n in range(count)), "norm", "head"]
    tied = draw(st.booleans())
    weights = [0 if tied and name == "head" else draw(BYTES) for name in names]
    return Sizes(
        dtype="bfloat16",
        quantization=draw(st.sampled_from([None, "4bit"])),
        language=tuple(map(Item, names, weights)),
        layers=frozenset(name for name in names if name.startswith("layers.")),
        tied="head" if tied else "",
        resident=(Item("adapter", draw(BYTES)), Item("base", draw(BYTES))),
        experts={f"expert-{n}": draw(BYTES) for n in range(draw(st.integers(0, 5)))},
        most=draw(st.integers(1, 3)),
        cache_per_layer=draw(st.integers(0, 50)),
        work=Item("work", draw(BYTES)),
        vision=Item("vision", draw(BYTES)),
        features=Item("features", draw(BYTES)),
    )


DEVICES = st.lists(st.integers(0, 8000), min_size=1, max_size=4).map(
    lambda found: tuple(Device(f"cuda:{n}", size, own=10) for n, size in enumerate(found))
)


@given(sizes(), DEVICES)
def test_every_piece_has_one_place(parts: Sizes, devices: tuple[Device, ...]) -> None:
    plan = place("toy", parts, devices)
    placed = [piece for share in plan.shares for piece in share.pieces] + list(plan.offloaded)
    assert sorted(p.name for p in placed) == sorted(p.name for p in parts.language)
    mapped = plan.device_map
    if mapped is None:
        assert not plan.offloaded
        assert len([share for share in plan.shares if share.pieces]) == 1
    else:
        assert list(mapped) == [piece.name for piece in parts.language]


@given(sizes(), DEVICES)
def test_a_conversation_passes_each_device_once(parts: Sizes, devices: tuple[Device, ...]) -> None:
    plan = place("toy", parts, devices)
    where = plan.device_map or {}
    order = [where[piece.name] for piece in parts.language[1:] if where and piece.name != parts.tied]
    known = ["cpu", *(device.name for device in devices)]
    assert order == sorted(order, key=known.index)
    assert where.get("embed", devices[0].name) == devices[0].name
    if parts.tied:
        assert where.get(parts.tied, devices[0].name) == devices[0].name


@given(sizes(), DEVICES)
def test_layers_never_overfill_a_device(parts: Sizes, devices: tuple[Device, ...]) -> None:
    plan = place("toy", parts, devices)
    for share in plan.shares:
        movable = [p for p in share.pieces if p.name not in ("embed", parts.tied)]
        assert share.free >= 0 or not movable


@given(sizes(), DEVICES)
def test_what_runs_is_what_the_budget_holds(parts: Sizes, devices: tuple[Device, ...]) -> None:
    plan = place("toy", parts, devices)
    assert sum(parts.experts[id] for id in plan.together) <= plan.budget
    assert {id for id in parts.experts if parts.experts[id] > plan.budget} == set(plan.never)
    for route in plan.routes:
        assert route.nbytes == sum(parts.experts[id] for id in route.experts)
        others = [size for id, size in parts.experts.items() if id not in route.experts]
        assert all(size <= min(parts.experts[id] for id in route.experts) for size in others)
        assert route.together == (route.nbytes <= plan.budget)
    if plan.fits:
        assert not plan.offloaded and not plan.never


@given(sizes(), st.integers(0, 500))
def test_it_fits_on_one_device_from_the_size_on_that_is_named(parts: Sizes, more: int) -> None:
    needed = place("toy", parts, (Device("cuda:0", 0, own=10),)).needed
    assert place("toy", parts, (Device("cuda:0", needed + more, own=10),)).fits
    if needed:
        assert not place("toy", parts, (Device("cuda:0", needed - 1, own=10),)).fits


@given(sizes(), DEVICES)
def test_layers_give_way_to_experts_that_could_not_run(parts: Sizes, devices: tuple[Device, ...]) -> None:
    plan = place("toy", parts, devices)
    if plan.never and parts.quantization is None:
        movable = [p for p in plan.shares[0].pieces if p.name not in ("embed", parts.tied)]
        assert not movable


def test_on_the_processor_what_has_no_room_stays_on_disk() -> None:
    plan = place("toy", toy(), (Device("cpu", 399),))
    assert plan.elsewhere == "disk"
    # A layer that comes in needs room, for which another one gives way.
    assert plan.device_map == {"embed": "cpu", "layers.0": "disk", "layers.1": "disk", "head": "cpu"}
    assert plan.arguments == {
        "device": None,
        "dtype": "float32",
        "device_map": plan.device_map,
        "quantization": None,
        "memory_budget": plan.budget,
    }


def toy() -> Sizes:
    nothing = Item("nothing", 0)
    return Sizes(
        dtype="float32",
        quantization=None,
        language=tuple(Item(name, 100) for name in ("embed", "layers.0", "layers.1", "head")),
        layers=frozenset({"layers.0", "layers.1"}),
        tied="",
        resident=(),
        experts={},
        most=3,
        cache_per_layer=0,
        work=nothing,
        vision=nothing,
        features=nothing,
    )


@pytest.mark.parametrize(
    ("text", "bytes_each"),
    [
        ("24GB", [24 * 10**9]),
        ("24GiB", [24 * 2**30]),
        ("24576MB", [24576 * 10**6]),
        ("24576 mib", [24576 * 2**20]),
        ("2x24GB", [24 * 10**9] * 2),
        ("1.5gb, 2 x 80GB", [15 * 10**8, 80 * 10**9, 80 * 10**9]),
    ],
)
def test_gpus_are_read_as_they_are_written(text: str, bytes_each: list[int]) -> None:
    found = parse_gpus(text)
    assert [device.nbytes for device in found] == bytes_each
    assert [device.name for device in found] == [f"cuda:{n}" for n in range(len(found))]
    assert {device.own for device in found} == {RUNTIME}


@pytest.mark.parametrize(
    "text",
    ["", ",", "24", "GB", "24TB", "-24GB", "0GB", "0x24GB", "24GB,", "24GB 24GB", "2x", "x24GB", "1e3GB"]
    + ["65x1GB", "99999999999x1GB", "24GBx2", "two"],
)
def test_what_are_no_gpus_is_said_with_examples(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_gpus(text)
    assert str(caught.value).partition("such as ")[2].startswith(("24GB, 24GiB", "1.5GB"))


@pytest.mark.parametrize("text", ["2x1GB", "", "1", "0MB", "much"])
def test_what_is_no_size_is_said_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="no size of memory.*1.5GB or 900MiB"):
        parse_size(text)


def test_a_plan_of_nothing_but_a_base_has_no_routes() -> None:
    plan: MemoryPlan = place("toy", toy(), (Device("cuda:0", 1000),))
    assert plan.fits and plan.routes == () and plan.together == () and plan.budget == 600
