"""The gate shares one among the chosen experts."""

from __future__ import annotations

import torch

from mova_core.fusion.gate import gate_weights

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_the_heaviest_are_kept_and_share_one():
    weights = gate_weights(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), ALL, most=2)
    expected = torch.tensor([3.0, 2.0]).softmax(0)
    torch.testing.assert_close(weights, torch.tensor([[0.0, expected[0], 0.0, expected[1]]]))


def test_of_equal_weights_the_earlier_column_stays():
    assert gate_weights(torch.zeros(1, 4), ALL, most=2).tolist() == [[0.5, 0.5, 0.0, 0.0]]


def test_experts_that_a_sample_did_not_choose_get_nothing_however_high_their_logit():
    logits = torch.tensor([[9e4, 1.0, 1.0, 0.0]] * 2)
    chosen = torch.tensor([[False, True, True, False], [False] * 4])
    assert gate_weights(logits, chosen, most=3).tolist() == [[0.0, 0.5, 0.5, 0.0], [0.0] * 4]


def test_weights_and_gradients_stay_finite_in_bfloat16_when_nothing_is_chosen():
    logits = torch.zeros(1, 4, dtype=torch.bfloat16, requires_grad=True)
    weights = gate_weights(logits, ~ALL, most=3)
    assert weights.dtype == torch.float32
    weights.sum().backward()
    assert not weights.any() and not logits.grad.any()
