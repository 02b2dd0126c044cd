"""Outputs between and beyond known rows, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paracore.interpolation import between, neighbours
from paracore.window import SMALL_EVENT


def plain(outputs, time, known, row, trend):
    """One sample's output at a row: ``outputs (P, d)``, ``time (P,)``, ``known`` a list of rows."""
    if row in known:
        return outputs[row]
    before, after = [k for k in known if k < row], [k for k in known if k > row]
    low = before[-1]
    if after:
        part = (time[row] - time[low]) / (time[after[0]] - time[low])
        return outputs[low] + part * (outputs[after[0]] - outputs[low])
    base = max([k for k in known if k <= low - 3], default=0)
    if base == low:
        return outputs[low]
    ahead = min((time[row] - time[low]) / (time[low] - time[base]), 1.0)
    return outputs[low] + trend * ahead * (outputs[low] - outputs[base])


def check(count, batch, event, trend, seed):
    rng = np.random.default_rng(seed)
    known = rng.random((count, batch)) < rng.uniform(0.1, 0.9)
    known[0] = True
    time = np.cumsum(rng.uniform(0.1, 1.0, (count, batch)), axis=0) * rng.choice([-1.0, 1.0])
    outputs = rng.standard_normal((count, batch, event))
    left, right = neighbours(known)
    made = list(between([torch.from_numpy(row) for row in outputs], time, list(range(count)), left, right, trend))
    for row in range(count):
        for b in range(batch):
            expected = plain(outputs[:, b], time[:, b], np.flatnonzero(known[:, b]).tolist(), row, trend)
            np.testing.assert_allclose(made[row][b].numpy(), expected, rtol=0, atol=1e-12 * (1 + abs(expected).max()))


@given(st.integers(1, 14), st.integers(1, 4), st.floats(0.0, 1.0), st.integers(0, 10**6))
def test_small_rows(count, batch, trend, seed):
    check(count, batch, 3, trend, seed)


@pytest.mark.parametrize("seed", range(4))
def test_large_rows(seed):
    check(7, 2, SMALL_EVENT + 1, 0.5, seed)
