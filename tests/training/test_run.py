"""Whole runs: each stage trains its own weights and no others, learns, and goes on after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mova_core.errors import ConfigError, MovaError
from mova_core.model.load import load
from mova_core.training import router as router_module
from mova_core.training.batches import Collator, Drawn
from mova_core.training.config import TrainConfig
from mova_core.training.router import RouterStage
from mova_core.training.run import run
from mova_core.training.stage import AlignStage, SftStage

STAGES = {"align": AlignStage, "sft": SftStage, "router": RouterStage}
LORA = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj", "up_proj", "down_proj"]}


def silent(message: str) -> None:
    """Hears of progress and keeps it."""


def weights(model: Path) -> dict[str, Any]:
    """All weights of a checkpoint, by group: core, packs by expert, LoRAs."""
    found = {
        str(path.relative_to(model).with_suffix("")): {k: v.tolist() for k, v in load_file(path).items()}
        for path in model.rglob("*.safetensors")
    }
    assert "core" in found and "packs/tiny-red" in found
    return found


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def losses(config: TrainConfig) -> list[float]:
    """What the trainer logged, every ten steps."""
    state = Path(config.output) / "checkpoints" / f"checkpoint-{config.steps}" / "trainer_state.json"
    return [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps teach a router too little to be calibrated."""
    monkeypatch.setattr(router_module, "calibrate", lambda *_: None)


@pytest.mark.usefixtures("uncalibrated")
@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("sft", {"core", "packs/tiny-red", "packs/tiny-green", "packs/tiny-blue", "answer/adapter_model"}),
        ("router", {"router/adapter_model"}),
    ],
)
def test_a_stage_trains_its_own_weights_only(
    make_config: Callable[..., TrainConfig], tiny: Path, stage: str, trained: set[str]
) -> None:
    model = run(make_config(stage, steps=3), tell=silent)
    assert changed(weights(tiny), weights(model)) == trained
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (tiny, model))
    assert (before["fingerprint"] == after["fingerprint"]) == (stage == "router")


def test_a_run_is_told_of_and_gives_a_model_that_answers(
    make_config: Callable[..., TrainConfig], tiny: Path
) -> None:
    from mova_tiny.samples import sample

    told: list[str] = []
    config = make_config("align")
    model = run(config, tell=told.append)
    assert model == Path(config.output) / "model"
    assert told[0] == "align: 8 samples, 2 steps of 4" and told[-1] == f"wrote {model}"
    answer = load(model).ask(sample(0).image, "What colour is it?", experts=["tiny-red"], max_new_tokens=2)
    assert set(answer.images[0].gates) == {"tiny-red"}


def test_steps_take_samples_in_order_and_ask_equally_much_of_those_of_a_batch(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Sequence[Drawn]] = []
    collate = Collator.__call__

    def watched(self: Collator, batch: Sequence[Drawn]) -> dict[str, Any]:
        taken.append(batch)
        return collate(self, batch)

    monkeypatch.setattr(Collator, "__call__", watched)
    config = make_config("align", steps=6, turns=2)
    run(config, tell=silent)
    assert [len(batch) for batch in taken] == [config.batch] * 6
    assert all(len({len(drawn.turns) for drawn in batch}) == 1 for batch in taken)
    passes = [drawn.index for batch in taken for drawn in batch]
    assert [sorted(passes[start : start + 8]) for start in (0, 8, 16)] == [list(range(8))] * 3


def test_aligning_a_new_model_learns_what_is_where(make_config: Callable[..., TrainConfig]) -> None:
    rates = {"adapter": 1e-2}
    once = weights(run(make_config("align", steps=1, learning_rates=rates), tell=silent))
    config = make_config("align", steps=40, save_every=40, learning_rates=rates)
    learned = weights(run(config, tell=silent))
    first, *_, last = losses(config)
    assert last < 0.7 * first
    assert changed(once, learned) == {"core", "packs/tiny-red", "packs/tiny-green", "packs/tiny-blue"}


def test_four_samples_are_learned_by_heart(make_config: Callable[..., TrainConfig], tiny_home: Path) -> None:
    from mova_tiny.build import recipe
    from mova_tiny.samples import sample

    config = make_config(
        "sft",
        start=None,
        model=recipe(tiny_home)["model"],
        loras={"answer": {"rank": 8}},
        learning_rates={"adapter": 1e-2, "answer": 1e-2},
        routes={"none": 0, "added": 0, "other": 0},
        steps=80,
        save_every=80,
    )
    config.data.arguments["size"] = 4
    assistant = load(run(config, tell=silent))
    first, *_, last = losses(config)
    assert last < 0.2 * first
    for each in map(sample, range(4)):
        for question, answer in each.turns:
            found = assistant.ask(each.image, question, experts=each.experts, max_new_tokens=6)
            assert found.text == answer


def test_a_router_learns_which_experts_help(make_config: Callable[..., TrainConfig], tiny: Path) -> None:
    told: list[str] = []
    config = make_config("router", steps=80, batch=8, save_every=80)
    model = run(config, tell=told.append)
    first, *_, last = losses(config)
    assert last < 0.8 * first
    assert told[-2].startswith("calibrated: bias ")
    router = json.loads((model / "config.json").read_text())["router"]
    assert router["temperature"] > 0 and router != json.loads((tiny / "config.json").read_text())["router"]


class Killed(BaseException):
    """The end of a process, as far as a test can have it."""


@pytest.mark.usefixtures("uncalibrated")
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_goes_on_to_the_very_same_weights(
    make_config: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    # There is nothing to go on from yet, so this one starts.
    whole = run(make_config(stage, steps=4, output=str(tmp_path / "whole")), resume=True, tell=silent)
    config = make_config(stage, steps=4)
    passes = 0
    forward = STAGES[stage].forward

    def die_in_the_fourth_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == 4:
            raise Killed
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(STAGES[stage], "forward", die_in_the_fourth_step)
        with pytest.raises(Killed):
            run(config, tell=silent)
    assert not (Path(config.output) / "model").exists()
    # A checkpoint that was being written when the process died does not count.
    (Path(config.output) / "checkpoints" / "checkpoint-3").mkdir()
    for _ in range(2):  # the second time there is nothing left to do
        resumed = run(config, resume=True, tell=silent)
        assert changed(weights(whole), weights(resumed)) == set()


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("align", {"start": "somewhere"}, "one of `start` and `model`; got somewhere"),
        ("align", {"model": None}, "one of `start` and `model`; got neither"),
        ("align", {"options": {"words": []}}, "stage align has nothing to learn"),
        ("sft", {"start": "nowhere"}, "no checkpoint here; got nowhere"),
        ("sft", {"learning_rates": {"adapter": 1e-3}}, "learning_rates: .*expected one for answer"),
        ("router", {"options": {"domains": "nowhere.yaml"}}, "the routing domains cannot be read"),
    ],
)
def test_a_run_that_cannot_be_is_refused(
    make_config: Callable[..., TrainConfig], stage: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(MovaError, match=said) as caught:
        run(make_config(stage, **changes), tell=silent)
    assert "\n" not in str(caught.value)


@pytest.fixture
def unrouted(tiny: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint without its routing LoRA."""
    copy = Path(shutil.copytree(tiny, tmp_path / "unrouted"))
    shutil.rmtree(copy / "router")
    return copy


def test_a_router_without_a_lora_cannot_be_trained(
    make_config: Callable[..., TrainConfig], unrouted: Path
) -> None:
    with pytest.raises(ConfigError, match="the run trains no weights; got router.*`loras`"):
        run(make_config("router", start=str(unrouted)), tell=silent)


@pytest.mark.usefixtures("uncalibrated")
def test_a_lora_is_added_where_the_start_lacks_it(
    make_config: Callable[..., TrainConfig], unrouted: Path
) -> None:
    model = run(make_config("router", start=str(unrouted), loras={"router": LORA}), tell=silent)
    assert changed(weights(unrouted), weights(model)) == {"router/adapter_model"}
    assert json.loads((model / "router" / "adapter_config.json").read_text())["r"] == LORA["rank"]


def test_too_few_domains_to_offer_are_refused(
    make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    domain = "{descriptions: [sees a], questions: ['why?']}"
    (tmp_path / "domains.yaml").write_text(f"domains: [{domain}, {domain}]\ngeneral_questions: []\n")
    options = {"domains": str(tmp_path / "domains.yaml"), "offered": 2}
    with pytest.raises(ConfigError, match="options.domains: too few.*got 2 in .*more than options.offered"):
        run(make_config("router", options=options), tell=silent)
