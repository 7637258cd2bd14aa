"""For authors of experts: the suite that every expert passes, its checks as functions, and a template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mova_core.testing.conformance import ExpertConformance as ExpertConformance

__all__ = ["ExpertConformance"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the suite needs pytest, and the commands that share its checks must not.
    if name == "ExpertConformance":
        from mova_core.testing.conformance import ExpertConformance

        return ExpertConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
