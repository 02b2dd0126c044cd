"""Rows moved, laid over each other and checked: as plain indexing says, small rows and large ones alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paracore.guard import finite_rows, finite_samples
from paracore.slide import lay_over, pick, pick_stacked
from paracore.window import SMALL_EVENT, is_small

EVENTS = (3, SMALL_EVENT + 1)
"""A small event and a large one: they take different ways."""


@st.composite
def moves(draw):
    """Rows ``(P, B, event)`` and an index ``(R, B)`` of them, at times the same for all samples."""
    rows, batch, count = (draw(st.integers(1, most)) for most in (5, 4, 4))
    event = draw(st.sampled_from(EVENTS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = torch.randn(rows, batch, event, generator=generator)
    index = draw(st.lists(st.integers(0, rows - 1), min_size=count * batch, max_size=count * batch))
    index = np.array(index).reshape(count, batch)
    if draw(st.booleans()):
        index = np.repeat(index[:, :1], batch, axis=1)
    return list(values), index


def test_both_kinds_of_rows_are_tried():
    assert [is_small(torch.zeros(2, event)) for event in EVENTS] == [True, False]


@given(moves())
def test_picked_rows_are_those_of_the_index(given_):
    rows, index = given_
    expected = [torch.stack([rows[i][b] for b, i in enumerate(row)]) for row in index.tolist()]
    assert all(map(torch.equal, pick(rows, index), expected))
    assert torch.equal(pick_stacked(rows, index), torch.stack(expected))


@given(moves(), st.data())
def test_laid_over_is_new_where_masked_and_old_elsewhere(given_, data):
    rows, index = given_
    new, old = pick(rows, index), [row + 10.0 for row in pick(rows, index)]
    flags = data.draw(st.lists(st.booleans(), min_size=index.size, max_size=index.size))
    mask = np.array(flags).reshape(index.shape)
    laid = lay_over(mask, new, old)
    for r in range(len(index)):
        for b in range(index.shape[1]):
            assert torch.equal(laid[r][b], (new if mask[r, b] else old)[r][b])


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_marks_its_sample_alone(event, dtype, bad):
    rows = [torch.ones(3, event, dtype=dtype) for _ in range(2)]
    rows[1][2, -1] = bad
    assert finite_rows(rows).tolist() == [[True] * 3, [True, True, False]]
    assert finite_samples(rows[1]).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_whose_sum_overflows_are_finite(dtype):
    rows = [torch.full((2, 3), torch.finfo(dtype).max, dtype=dtype)]
    assert finite_rows(rows).all()
    mixed = torch.tensor([[float("inf"), -float("inf")], [1.0, 2.0]], dtype=dtype)
    assert finite_samples(mixed).tolist() == [False, True]
