"""The suite that every expert passes; a plugin's test file subclasses it.

    from mova_core.testing import ExpertConformance

    class TestClock(ExpertConformance):
        expert = "clock"
        tiny = {"width": 16}
        full = {"width": 384}
        preprocessing = Path(__file__).parent / "preprocessing.safetensors"

Notation for tensor shapes:
    b: pictures, n: tokens of the feature grid, c: feature channels
"""

from __future__ import annotations

import io
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.experts.features import ExpertFeatures
from mova_core.experts.loading import expert_class
from mova_core.experts.pool import ExpertPool
from mova_core.experts.protocol import VisionExpert, check_features
from mova_core.routing.route import Route
from mova_core.testing.pictures import picture, some_pictures
from mova_core.testing.recording import recorded_streams

HEAVY = ("torch", "transformers", "timm", "open_clip", "numpy", "PIL")
WORDINGS = 4


class ExpertConformance:
    """What an expert promises, as tests. A subclass sets the attributes.

    Attributes:
        expert: its id, as installed.
        tiny: sizes for `from_config`, small enough for any machine.
        full: sizes for `from_config` that give the expert of the card.
        preprocessing: file with the streams of `some_pictures()`, recorded at the card's sizes by
            `python -m mova_core.testing.recording ID FILE`; None where the numbers are held against something
            else.
        tolerance: largest difference between a batch and its pictures one by one, in float32.
        dtypes: dtypes of features that the expert can give.
    """

    expert: ClassVar[str]
    tiny: ClassVar[Mapping[str, object]] = {}
    full: ClassVar[Mapping[str, object]] = {}
    preprocessing: ClassVar[Path | None] = None
    tolerance: ClassVar[float] = 1e-5
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16)

    @pytest.fixture
    def card(self) -> ExpertCard:
        """The installed card; a broken one fails here, with what to mend."""
        found = usable_expert(self.expert).card
        assert found is not None
        return found

    @pytest.fixture
    def small(self, card: ExpertCard) -> VisionExpert:
        """A small expert with random weights, the same in every test."""
        return build(card, self.tiny)

    # The card

    def test_the_card_tells_the_router_enough_and_never_the_name(self, card: ExpertCard) -> None:
        if card.role == "base":
            return
        assert len(set(card.descriptions)) >= WORDINGS, f"write {WORDINGS} descriptions or more"
        named = [d for d in card.descriptions if re.search(rf"\b{re.escape(card.id)}\b", d, re.IGNORECASE)]
        assert not named, "a description names the expert"
        assert card.example_questions, "give example questions"

    def test_discovery_imports_nothing_heavy(self, card: ExpertCard) -> None:
        package = card.factory.partition(":")[0].partition(".")[0]
        code = (
            "import sys; from mova_core.cards.discovery import discover; "
            f"assert any(r.id == {card.id!r} and r.card for r in discover()); "
            f"print([m for m in {(*HEAVY, package)!r} if m in sys.modules])"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.strip() == "[]"

    # At full size, without weights

    def test_the_full_size_has_the_parameters_of_the_card(self, card: ExpertCard) -> None:
        counted = sum(p.numel() for p in self._on_meta(card).parameters())
        assert counted == pytest.approx(card.parameters, rel=0.005), f"the card should say {counted}"

    @pytest.mark.parametrize("pictures", [1, 3])
    def test_the_full_size_gives_the_features_of_the_card(self, card: ExpertCard, pictures: int) -> None:
        expert = self._on_meta(card)
        stream = expert.preprocess([picture(640, 333, seed) for seed in range(pictures)]).to("meta")
        check_features(expert(stream), card.features, expert=card.id, images=pictures)

    def test_pictures_of_every_size_become_streams(self, card: ExpertCard) -> None:
        expert = self._on_meta(card)
        streams = expert.preprocess(some_pictures())
        assert streams.dtype == torch.float32 and streams.device.type == "cpu"
        assert streams.shape[0] == len(some_pictures()) and streams.isfinite().all()
        if card.input.kind == "pixels":
            assert card.input.size is not None and tuple(streams.shape[1:]) == (3, *card.input.size)

    def test_preprocessing_gives_what_was_recorded(self, card: ExpertCard) -> None:
        if self.preprocessing is None:
            return
        stored = load_file(self.preprocessing)
        streams = recorded_streams(self._on_meta(card))
        assert streams.keys() == stored.keys()
        for name, stream in streams.items():
            torch.testing.assert_close(stream, stored[name], rtol=0, atol=1e-5)

    # Small, with random weights

    def test_a_batch_equals_its_pictures_one_by_one(self, small: VisionExpert) -> None:
        stream = small.preprocess(some_pictures())
        together = run(small, stream)
        for row in range(stream.shape[0]):
            alone = run(small, stream[row : row + 1])
            assert alone.grid == together.grid
            torch.testing.assert_close(
                together.tokens[row : row + 1], alone.tokens, rtol=0, atol=self.tolerance
            )

    def test_features_depend_on_the_picture(self, small: VisionExpert) -> None:
        features = run(small, small.preprocess([picture(96, 64), picture(64, 96, 1)])).tokens
        assert features.isfinite().all() and not torch.equal(features[0], features[1])

    def test_the_same_picture_gives_the_same_features(self, small: VisionExpert) -> None:
        stream = small.preprocess([picture(96, 64)])
        assert torch.equal(run(small, stream).tokens, run(small, stream).tokens)

    def test_dtype_and_device_are_honoured(self, card: ExpertCard) -> None:
        for dtype in self.dtypes:
            expert = build(card, self.tiny).to(dtype)
            assert run(expert, expert.preprocess([picture(96, 64)])).tokens.dtype == dtype
        expert = build(card, self.tiny)
        stream = expert.preprocess([picture(96, 64)])
        assert expert.to("meta")(stream.to("meta")).tokens.device.type == "meta"

    def test_weights_go_through_safetensors(self, card: ExpertCard, small: VisionExpert) -> None:
        torch.manual_seed(1)
        other = expert_class(card).from_config(**self.tiny).eval()
        stream = small.preprocess([picture(96, 64)])
        other.load_state_dict(load(save({k: v.contiguous() for k, v in small.state_dict().items()})))
        assert torch.equal(run(other, stream).tokens, run(small, stream).tokens)

    def test_it_pickles_to_a_worker(self, small: VisionExpert, tmp_path: Path) -> None:
        stream = small.preprocess([picture(96, 64)])
        (tmp_path / "expert.pickle").write_bytes(pickle.dumps((small, stream)))
        code = (
            "import pathlib, pickle, torch; "
            "expert, stream = pickle.loads(pathlib.Path('expert.pickle').read_bytes()); "
            "torch.save(expert(stream).tokens.detach(), 'tokens.pt')"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
        tokens = torch.load(io.BytesIO((tmp_path / "tokens.pt").read_bytes()), weights_only=True)
        torch.testing.assert_close(tokens, run(small, stream).tokens)

    def test_the_pool_runs_it_for_those_who_chose_it(self, card: ExpertCard, small: VisionExpert) -> None:
        if card.role == "base":
            return
        sizes = small.preprocess([picture(96, 64)])
        given = run(small, sizes)
        spec = card.features.model_copy(update={"channels": given.channels, "grid": given.grid})
        tiny_card = card.model_copy(update={"features": spec, "input": small.stream})
        pool = ExpertPool([tiny_card], loader=lambda _: small)
        encoded = pool.encode([picture(96, 64), picture(64, 96, 1)], [Route((card.id,)), Route(())])
        assert encoded[card.id].rows == (0,)
        torch.testing.assert_close(encoded[card.id].features.tokens, given.tokens)

    def _on_meta(self, card: ExpertCard) -> VisionExpert:
        with torch.device("meta"):
            return expert_class(card).from_config(**self.full).bind(card).eval()


def build(card: ExpertCard, sizes: Mapping[str, object]) -> VisionExpert:
    """The expert at the given sizes with seeded random weights, in evaluation mode."""
    torch.manual_seed(0)
    expert = expert_class(card).from_config(**sizes).eval()
    for parameter in expert.parameters():  # a part that starts at zero would hide what comes before it
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return expert


@torch.no_grad()
def run(expert: VisionExpert, stream: Tensor) -> ExpertFeatures:
    """Features of a stream, cast as the pool does."""
    features: ExpertFeatures = expert(stream.to(next(expert.parameters(), stream).dtype))
    return features
