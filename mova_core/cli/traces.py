"""How a picture was looked at, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mova_core.model.answer import ImageTrace


def plain_trace(trace: ImageTrace) -> dict[str, Any]:
    """The route of one picture with its probabilities and gate weights, as JSON has them."""
    return {
        "route": list(trace.route.experts),
        "router": trace.route.router,
        "probabilities": dict(trace.route.probabilities),
        "gates": {id: list(weights) for id, weights in trace.gates.items()},
    }
