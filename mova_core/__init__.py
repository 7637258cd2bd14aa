"""MoVA: a plugin-based pool of vision experts for multimodal language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mova_core.model.load import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Imported on first use: listing experts must not wait for torch.
    if name == "load":
        from mova_core.model.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
