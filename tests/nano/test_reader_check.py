"""The reader of print, whose networks are ONNX files, keeps the promises with its real weights."""

from __future__ import annotations

import pytest

from mova_core.cli.main import main


def test_the_reader_passes_the_check_of_experts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", "check", "nano-text", "--load"]) == 0, capsys.readouterr().out
