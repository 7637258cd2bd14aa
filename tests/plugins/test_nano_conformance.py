"""The trained experts of mova-nano keep the promises that every expert makes."""

from __future__ import annotations

from mova_core.testing import ExpertConformance


class TestChart(ExpertConformance):
    expert = "nano-chart"


class TestMedical(ExpertConformance):
    expert = "nano-medical"


class TestObjects(ExpertConformance):
    expert = "nano-objects"


class TestRegions(ExpertConformance):
    expert = "nano-regions"


class TestBase(ExpertConformance):
    expert = "nano-base"
