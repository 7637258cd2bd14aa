from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mova_core.cards.card import ExpertCard
from mova_core.cards.records import ExpertRecord
from mova_core.errors import ExpertLoadError, UnknownExpertError
from mova_core.experts.loading import load_expert
from mova_core.experts.pool import ExpertPool
from mova_core.routing.route import Route

MakeCard = Callable[..., ExpertCard]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, counting_expert: Any) -> types.ModuleType:
    """A plugin's module, whose expert notes where it was told to load from."""

    class Expert(counting_expert):  # type: ignore[misc]
        @classmethod
        def from_pretrained(cls, source: str, **options: Any) -> Any:
            expert = super().from_pretrained(source, **options)
            expert.source = source
            return expert

    module = types.ModuleType("mova_expert_stub")
    module.Expert = Expert  # type: ignore[attr-defined]
    module.Other = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mova_expert_stub", module)
    return module


def _card(make_card: MakeCard, *sources: str, name: str = "Expert", **weights: Any) -> ExpertCard:
    fields = {"sources": sources, "licence": "Apache-2.0"} | weights
    return make_card("stub", factory=f"mova_expert_stub:{name}", weights=fields)


def _load(card: ExpertCard, **options: Any) -> Any:
    return load_expert(card, device=torch.device("cpu"), dtype=torch.float32, **options)


@pytest.mark.usefixtures("module")
class TestLoadExpert:
    def test_the_first_source_on_disk_is_used(self, make_card: MakeCard, tmp_path: Path) -> None:
        for name in ("here.pth", "too.pth"):
            (tmp_path / name).write_bytes(b"w")
        sources = (f"file:{tmp_path}/missing.pth", "package:here.pth", f"file:{tmp_path}/too.pth")
        card = _card(make_card, *sources)
        expert = _load(card, beside=tmp_path)
        assert expert.source == str(tmp_path / "here.pth")
        assert expert.card is card and expert.stream == card.input
        assert _load(card).source == str(tmp_path / "too.pth"), "without its folder, package: finds nothing"

    def test_parts_are_found_by_who_fetched_them(self, make_card: MakeCard, tmp_path: Path) -> None:
        asked: list[str] = []

        def find(source: str) -> Path | None:
            asked.append(source)
            return tmp_path

        assert _load(_card(make_card, "part:nano/eye"), find=find).source == str(tmp_path)
        assert asked == ["part:nano/eye"]

    def test_options_of_the_card_reach_the_factory(
        self, make_card: MakeCard, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: dict[str, Any] = {}

        def from_pretrained(source: str, *, side: int, windows: tuple[int, ...], **rest: Any) -> Any:
            given.update(side=side, windows=windows)
            return module.Expert.__mro__[1].from_pretrained(source, **rest)

        monkeypatch.setattr(module.Expert, "from_pretrained", from_pretrained)
        card = _card(make_card).model_copy(update={"options": {"side": 3, "windows": (1, 2)}})
        _load(card)
        assert given == {"side": 3, "windows": (1, 2)}
        assert card.hash != _card(make_card).hash

    def test_an_expert_without_weights_is_built(self, make_card: MakeCard) -> None:
        assert _load(_card(make_card)).source == ""

    @pytest.mark.parametrize(
        ("source", "hint"),
        [
            ("part:nano/eye", "Run `mova models pull nano`."),
            ("hf:owner/eye", "Run `hf download owner/eye --revision r7`."),
            ("package:eye.safetensors", "Install its distribution again."),
            ("file:/nowhere/eye.pth", "Put the file at /nowhere/eye.pth."),
            ("https://example.org/eye.pth", "Download https://example.org/eye.pth"),
        ],
    )
    def test_absent_weights_say_how_to_get_them(
        self, source: str, hint: str, make_card: MakeCard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(ExpertLoadError, match="not on this machine") as caught:
            _load(_card(make_card, source, revision="r7"))
        assert source in str(caught.value) and hint in str(caught.value)

    def test_a_corrupt_file_is_found_by_its_digest(self, make_card: MakeCard, tmp_path: Path) -> None:
        path = tmp_path / "w.pth"
        path.write_bytes(b"weights")
        digest = hashlib.sha256(b"weights").hexdigest()
        card = _card(make_card, f"file:{path}", sha256=digest)
        assert _load(card).source == str(path)
        path.write_bytes(b"weighty")
        with pytest.raises(ExpertLoadError, match="corrupt"):
            _load(card)

    @pytest.mark.parametrize(
        ("factory", "said"),
        [
            ("mova_expert_absent:Expert", "No module named 'mova_expert_absent'"),
            ("mova_expert_stub:Absent", "no class Absent"),
            ("mova_expert_stub:Other", "got mova_expert_stub:Other; expected a VisionExpert class"),
        ],
    )
    def test_a_factory_that_is_none_is_named(self, factory: str, said: str, make_card: MakeCard) -> None:
        with pytest.raises(ExpertLoadError, match=said):
            _load(make_card("stub", factory=factory))

    def test_an_expert_that_needs_a_process_is_not_loaded_into_this_one(self, make_card: MakeCard) -> None:
        card = _card(make_card).model_copy(update={"isolation": "process"})
        with pytest.raises(ExpertLoadError, match="a process of its own"):
            _load(card)

    def test_a_pool_of_records_finds_weights_beside_the_card(
        self, make_card: MakeCard, tmp_path: Path
    ) -> None:
        (tmp_path / "w.pth").write_bytes(b"w")
        card = _card(make_card, "package:w.pth")
        record = ExpertRecord(id="stub", status="ok", card=card, source=tmp_path / "expert.toml")
        pool = ExpertPool([record])
        features = pool.encode_all([Image.new("RGB", (4, 4))], "stub")
        assert features.tokens.shape == (1, 6, 4)
        assert pool.expert("stub").source == str(tmp_path / "w.pth")


CODE = """
import torch
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.protocol import VisionExpert
from mova_core.experts.weights import load_strict, read_weights

class Expert(VisionExpert):
    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)

    @classmethod
    def from_pretrained(cls, source, *, dtype, device):
        expert = cls()
        load_strict(expert, read_weights(source), source=source)
        return expert.to(device, dtype)

    @classmethod
    def from_config(cls, **tiny):
        return cls()

    def forward(self, stream):
        return ExpertFeatures(self.patches(stream).flatten(2).mT, (4, 6))
"""


def test_an_installed_expert_runs_by_its_name(site: Any, card_toml: Callable[..., str]) -> None:
    package = site.install_expert("pooltoy", card_toml("pooltoy"), code=CODE)
    path = site.root / package / "weights.safetensors"
    weights = torch.nn.Conv2d(3, 16, 8, 8).state_dict()
    save_file({f"patches.{name}": tensor for name, tensor in weights.items()}, path)

    pool = ExpertPool.from_ids(["pooltoy"])
    routed = pool.encode([Image.new("RGB", (40, 30), "red")], [Route(("pooltoy",))])["pooltoy"]
    assert routed.features.tokens.shape == (1, 24, 16)

    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ExpertLoadError, match=r"'pooltoy' could not be loaded: weight file .*cut short"):
        ExpertPool.from_ids([f"{package.replace('_', '-')}/pooltoy"]).expert("pooltoy")


def test_an_expert_that_is_not_installed_is_unknown(site: Any, card_toml: Callable[..., str]) -> None:
    site.install_expert("pooltoy", card_toml("pooltoy"))
    with pytest.raises(UnknownExpertError, match="got pooltoi; expected pooltoy"):
        ExpertPool.from_ids(["pooltoi"])
