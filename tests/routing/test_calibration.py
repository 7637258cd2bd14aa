from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mova_core.errors import ConfigError, RoutingError
from mova_core.routing import Calibration


def test_probability_is_half_at_the_bias_and_grows_with_the_score():
    p = Calibration(bias=2.0, temperature=3.0).probabilities(torch.tensor([-1.0, 2.0, 5.0]))
    torch.testing.assert_close(p, torch.sigmoid(torch.tensor([-1.0, 0.0, 1.0])))


@given(bias=st.floats(-5, 5), temperature=st.floats(0.2, 5))
def test_fit_finds_the_law_that_made_the_labels(bias, temperature):
    generator = torch.Generator().manual_seed(0)
    law = Calibration(bias, temperature)
    scores = bias + 3 * temperature * torch.randn(4000, generator=generator, dtype=torch.float64)
    useful = torch.rand(4000, generator=generator, dtype=torch.float64) < law.probabilities(scores)
    fitted = Calibration.fit(scores, useful, threshold=0.3)
    assert fitted.threshold == 0.3
    assert float((fitted.probabilities(scores) - law.probabilities(scores)).abs().max()) < 0.06


def test_fit_stays_finite_where_scores_separate_perfectly():
    fitted = Calibration.fit(torch.tensor([-2.0, -1.0, 1.0, 2.0]), torch.tensor([0, 0, 1, 1]))
    assert abs(fitted.bias) < 0.1 and 0.1 < fitted.temperature < 10


@pytest.mark.parametrize(
    ("scores", "useful", "message"),
    [([1.0, 2.0], [1, 1], "both kinds"), ([1.0, 2.0], [1, 0], "Train the router")],
)
def test_fit_refuses_scores_that_say_nothing(scores, useful, message):
    with pytest.raises(RoutingError, match=message):
        Calibration.fit(torch.tensor(scores), torch.tensor(useful))


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": float("nan")}, {"threshold": 1.0}])
def test_impossible_calibrations_are_refused(wrong):
    with pytest.raises(ConfigError):
        Calibration(**wrong)
