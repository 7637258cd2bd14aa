"""For the tests of plugins: the suite that every expert passes."""

from mova_core.testing.conformance import ExpertConformance

__all__ = ["ExpertConformance"]
