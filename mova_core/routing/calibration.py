"""From the scores of a pointwise router to probabilities.

Notation for tensor shapes:
    n: scored pairs of question and expert
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mova_core.errors import ConfigError, RoutingError


@dataclass(frozen=True, slots=True)
class Calibration:
    """`p = sigmoid((score - bias) / temperature)`; an expert is chosen if p is above the threshold.

    Args:
        bias: the score, in nats, that means "as likely as not".
        temperature: how many nats of score are worth one nat of log-odds.
        threshold: probability in [0, 1) above which an expert is chosen.

    Raises:
        ConfigError: if the temperature is not positive or the threshold not a probability below one.
    """

    bias: float = 0.0
    temperature: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError("no calibration", value=self.temperature, expected="a temperature above 0")
        if not 0 <= self.threshold < 1:
            raise ConfigError("no calibration", value=self.threshold, expected="a threshold in [0, 1)")

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities of scores of any shape."""
        return torch.sigmoid((scores - self.bias) / self.temperature)

    @classmethod
    def fit(cls, scores: Tensor, useful: Tensor, threshold: float = 0.5) -> Calibration:
        """Fit bias and temperature to held-out scores by maximum likelihood (Platt scaling).

        Targets are drawn a little towards each other, (N+ + 1)/(N+ + 2) and 1/(N- + 2), which keeps the
        temperature finite even where scores separate perfectly.

        Args:
            scores: [n].
            useful: [n], true where the expert helped.
            threshold: kept as it is.

        Raises:
            RoutingError: if one of the two kinds is missing, or useful experts do not score higher.
        """
        scores, useful = scores.detach().double().flatten(), useful.bool().flatten()
        helped, idle = int(useful.sum()), int((~useful).sum())
        if not helped or not idle:
            raise RoutingError(
                "calibration needs both kinds of pairs",
                value=f"{helped} useful, {idle} not",
                expected="some of each",
            )
        targets = torch.where(useful, (helped + 1) / (helped + 2), 1 / (idle + 2)).double()  # [n]
        slope, offset = _logistic_fit(scores, targets)
        if slope <= 0:
            raise RoutingError(
                "useful experts do not score higher than others",
                value=f"slope {slope:.3g}",
                expected="a positive one",
                hint="Train the router before calibrating it.",
            )
        return cls(bias=-offset / slope, temperature=1 / slope, threshold=threshold)


def _logistic_fit(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Slope and offset of the log-odds, by Newton's method with a step that never makes things worse."""
    scale = scores.std(unbiased=False).clamp_min(1e-12)
    centre = scores.mean()
    columns = torch.stack([(scores - centre) / scale, torch.ones_like(scores)], dim=1)  # [n, 2]
    weights = torch.zeros(2, dtype=torch.float64)

    def loss(candidate: Tensor) -> float:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(columns @ candidate, targets))

    for _ in range(100):
        p = torch.sigmoid(columns @ weights)  # [n]
        gradient = columns.T @ (p - targets) / len(p)  # [2]
        curvature = (columns.T * (p * (1 - p))) @ columns / len(p)  # [2, 2]
        step = torch.linalg.solve(curvature + 1e-12 * torch.eye(2, dtype=torch.float64), gradient)  # [2]
        while loss(weights - step) > loss(weights) and float(step.abs().max()) > 1e-12:
            step = step / 2
        weights = weights - step
        if float(step.abs().max()) < 1e-10:
            break
    slope = float(weights[0] / scale)
    return slope, float(weights[1] - weights[0] * centre / scale)
