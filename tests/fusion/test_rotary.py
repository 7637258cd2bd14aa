"""Rotary positions on a grid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mova_core.errors import ConfigError
from mova_core.fusion.rotary import release_tables, rotary_tables, rotate

CPU = torch.device("cpu")
positions = st.tuples(st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=25, deadline=None)
@given(first=positions, second=positions, shift=positions)
def test_attention_depends_on_the_offset_alone(first, second, shift):
    h, w = 7, 9
    rotary = rotary_tables((h, w), 8, CPU)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, generator=generator)

    def score(at: tuple[int, int], to: tuple[int, int]) -> torch.Tensor:
        turned = [rotate(v.expand(1, 1, h * w, 8), rotary)[0, 0] for v in (q, k)]
        return turned[0][at[0] * w + at[1]] @ turned[1][to[0] * w + to[1]]

    moved = [(row + shift[0], column + shift[1]) for row, column in (first, second)]
    torch.testing.assert_close(score(first, second), score(*moved), atol=1e-5, rtol=0)


def test_rows_turn_the_first_half_and_columns_the_second():
    x = torch.ones(1, 1, 6, 8)
    down, right = rotate(x, rotary_tables((6, 1), 8, CPU)), rotate(x, rotary_tables((1, 6), 8, CPU))
    assert torch.equal(down[..., 4:], x[..., 4:]) and not torch.equal(down[..., :4], x[..., :4])
    assert torch.equal(right[..., :4], x[..., :4]) and not torch.equal(right[..., 4:], x[..., 4:])
    assert torch.equal(down[..., :4], right[..., 4:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays_and_the_length_too(dtype):
    x = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    turned = rotate(x, rotary_tables((3, 4), 8, CPU))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=0.01, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_compiler_is_shown_the_same_in_real_numbers(monkeypatch, dtype):
    x = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    rotary = rotary_tables((3, 4), 8, CPU)
    turned = rotate(x, rotary)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(rotate(x, rotary), turned)


def test_tables_are_made_once():
    assert rotary_tables((3, 4), 8, CPU) is rotary_tables((3, 4), 8, CPU)


def test_the_release_writes_each_angle_twice():
    cos, sin = release_tables((2, 3), 8)
    rotary = rotary_tables((2, 3), 8, CPU)
    assert cos.shape == sin.shape == (6, 8)
    assert torch.equal(cos[:, 0::2], rotary.cos) and torch.equal(cos[:, 1::2], rotary.cos)
    assert torch.equal(sin[:, 0::2], rotary.sin) and torch.equal(sin[:, 1::2], rotary.sin)


def test_a_head_that_does_not_split_is_refused():
    with pytest.raises(ConfigError, match="head_dim=6; expected a multiple of 4"):
        rotary_tables((2, 2), 6, CPU)
