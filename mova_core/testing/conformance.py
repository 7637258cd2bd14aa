"""The suite that every expert passes; a plugin's test file subclasses it.

    from mova_core.testing import ExpertConformance

    class TestClock(ExpertConformance):
        expert = "clock"
        tiny = {"width": 16}
        full = {"width": 384}
        preprocessing = Path(__file__).parent / "preprocessing.safetensors"

Without pytest, `mova experts check ID --load` holds an installed expert to the same promises.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mova_core.cards.card import ExpertCard
from mova_core.cards.resolve import usable_expert
from mova_core.experts.loading import expert_class
from mova_core.experts.protocol import VisionExpert
from mova_core.testing import promises
from mova_core.testing.card_checks import wording_findings
from mova_core.testing.listing import imported_by_listing


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
        return promises.build(card, self.tiny)

    # The card

    def test_the_card_tells_the_router_enough_and_never_the_name(self, card: ExpertCard) -> None:
        findings = list(wording_findings(card))
        assert not findings, "\n".join(map(str, findings))

    def test_discovery_imports_nothing_heavy(self, card: ExpertCard) -> None:
        package = card.factory.partition(":")[0].partition(".")[0]
        assert imported_by_listing([package]) == []

    # At full size, without weights

    def test_the_full_size_has_the_parameters_of_the_card(self, card: ExpertCard) -> None:
        promises.has_the_parameters_of_the_card(self._on_meta(card), card)

    @pytest.mark.parametrize("pictures", [1, 3])
    def test_the_full_size_gives_the_features_of_the_card(self, card: ExpertCard, pictures: int) -> None:
        promises.gives_the_features_of_the_card(self._on_meta(card), card, pictures)

    def test_pictures_of_every_size_become_streams(self, card: ExpertCard) -> None:
        promises.pictures_of_every_size_become_streams(self._on_meta(card), card)

    def test_preprocessing_gives_what_was_recorded(self, card: ExpertCard) -> None:
        if self.preprocessing is not None:
            promises.preprocesses_as_recorded(self._on_meta(card), self.preprocessing)

    # Small, with random weights

    def test_a_batch_equals_its_pictures_one_by_one(self, small: VisionExpert) -> None:
        promises.a_batch_equals_its_pictures_one_by_one(small, self.tolerance)

    def test_features_depend_on_the_picture(self, small: VisionExpert) -> None:
        promises.features_depend_on_the_picture(small)

    def test_the_same_picture_gives_the_same_features(self, small: VisionExpert) -> None:
        promises.the_same_picture_gives_the_same_features(small)

    def test_dtype_and_device_are_honoured(self, card: ExpertCard) -> None:
        promises.dtypes_are_honoured(card, self.tiny, self.dtypes)
        promises.the_device_is_honoured(card, self.tiny)

    def test_weights_go_through_safetensors(self, card: ExpertCard, small: VisionExpert) -> None:
        promises.weights_go_through_safetensors(card, self.tiny, small)

    def test_it_pickles_to_a_worker(self, small: VisionExpert, tmp_path: Path) -> None:
        promises.it_pickles_to_a_worker(small, tmp_path)

    def test_the_pool_runs_it_for_those_who_chose_it(self, card: ExpertCard, small: VisionExpert) -> None:
        if card.role != "base":
            promises.the_pool_runs_it_for_those_who_chose_it(card, small)

    def _on_meta(self, card: ExpertCard) -> VisionExpert:
        with torch.device("meta"):
            return expert_class(card).from_config(**self.full).bind(card).eval()
