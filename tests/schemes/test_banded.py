"""The short table of a dense one."""

from __future__ import annotations

from typing import Any
from unittest import mock

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paracore.errors import SchemeError
from paracore.schemes import Scheme, banded

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def unipc(steps: int, network: Any, x0: torch.Tensor) -> tuple[list[torch.Tensor], Any]:
    """diffusers' UniPC (order 2, predictor and corrector), in float64."""
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=2, prediction_type="epsilon")
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()
    states = [x0]
    with mock.patch.object(torch, "float32", torch.float64):
        for node, timestep in enumerate(scheduler.timesteps):
            output = network(states[-1], node)
            states.append(scheduler.step(output, timestep, states[-1], return_dict=False)[0])
    return states, scheduler.timesteps.numpy()


def test_unipc_has_memory_three(network: Any, sweep: Any) -> None:
    steps = 12
    # Impulses: the start and each output have a coordinate of their own, so the states are their own weights.
    impulses = torch.eye(steps + 1, dtype=torch.float64)
    states, times = unipc(steps, lambda x, node: impulses[node + 1 : node + 2].reshape(x.shape), impulses[:1])
    coordinates = torch.cat(states).numpy()
    dense_a, dense_b = np.zeros((steps, steps)), np.zeros((steps, steps))
    dense_a[:, 0], dense_b[:] = coordinates[1:, 0], coordinates[1:, 1:]
    assert np.count_nonzero(dense_b[-1]) > 5
    a, b, c = banded(dense_a, dense_b)
    assert a.shape == b.shape == (steps, 3)
    assert c.shape == (steps, 0)

    x0 = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, _ = unipc(steps, lambda x, node: network(x, float(times[node])), x0)
    short = sweep(Scheme.create(a, b, times), lambda x, node: network(x, float(times[node])), x0)
    for ours, theirs in zip(short, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-9


def run(a: Any, b: Any, c: Any, x0: float, outputs: Any, draws: Any) -> Any:
    """States of a dense table."""
    states = [x0]
    for m in range(len(a)):
        states.append(a[m, : m + 1] @ np.array(states) + b[m, : m + 1] @ outputs[: m + 1] + c[m] @ draws)
    return np.array(states)


@st.composite
def hidden(draw: st.DrawFn) -> tuple[Any, Any, Any, int]:
    """A table of short memory, and the same trajectory written densely over x_0 and all outputs and draws."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    steps, memory, noisy = draw(st.integers(1, 10)), draw(st.integers(1, 3)), draw(st.booleans())
    a, b = np.zeros((steps, steps)), np.zeros((steps, steps))
    c = np.diag(rng.uniform(0.5, 1.5, steps)) if noisy else np.zeros((steps, 0))
    for m in range(steps):
        first = max(0, m - memory + 1)
        a[m, first : m + 1] = rng.uniform(-0.6, 0.9, m + 1 - first)
        b[m, first : m + 1] = rng.uniform(-1, 1, m + 1 - first)
    return a, b, c, memory


@given(hidden(), st.integers(0, 10**6))
@settings(max_examples=60)
def test_a_hidden_short_memory_is_found(table: tuple[Any, Any, Any, int], seed: int) -> None:
    a, b, c, memory = table
    steps, draws = len(a), c.shape[1]
    dense_a, dense_b, dense_c = np.zeros((steps, steps)), np.zeros((steps, steps)), np.zeros((steps, draws))
    zero_f, zero_z = np.zeros(steps), np.zeros(draws)
    dense_a[:, 0] = run(a, b, c, 1.0, zero_f, zero_z)[1:]
    for k in range(steps):
        dense_b[:, k] = run(a, b, c, 0.0, np.eye(steps)[k], zero_z)[1:]
    for k in range(draws):
        dense_c[:, k] = run(a, b, c, 0.0, zero_f, np.eye(draws)[k])[1:]
    rng = np.random.default_rng(seed)
    outputs, noise = rng.standard_normal(steps), rng.standard_normal(draws)
    expected = run(a, b, c, 0.7, outputs, noise)
    np.testing.assert_allclose(run(dense_a, dense_b, dense_c, 0.7, outputs, noise), expected, atol=1e-10)

    for given_table in ((a, b, c), (dense_a, dense_b, dense_c)):
        short_a, short_b, short_c = banded(*given_table)
        assert short_a.shape == short_b.shape
        if given_table[0] is a or not draws:
            assert short_a.shape[1] <= min(memory, steps)
        states = [0.7]
        for m in range(steps):
            new = short_c[m] @ noise
            for lag in range(min(m + 1, short_a.shape[1])):
                new += short_a[m, lag] * states[m - lag] + short_b[m, lag] * outputs[m - lag]
            states.append(new)
        np.testing.assert_allclose(states, expected, rtol=1e-8, atol=1e-8)
        Scheme.create(short_a, short_b, np.arange(steps))  # nothing reaches back before node 0


def test_a_table_with_no_shorter_form_is_kept() -> None:
    a, b = np.zeros((5, 5)), np.zeros((5, 5))
    b[4, 0] = 0.3  # no state in between remembers the first output
    short_a, short_b, _ = banded(a, b)
    assert short_a.shape == (5, 5)
    np.testing.assert_array_equal(short_a, 0)
    np.testing.assert_array_equal(short_b[4], [0, 0, 0, 0, 0.3])
    np.testing.assert_array_equal(short_b[:4], 0)


def test_refused() -> None:
    eye = np.eye(3)
    with pytest.raises(SchemeError, match=r"needs two \(N, N\) arrays; got \(3, 2\) and \(3, 3\)"):
        banded(eye[:, :2], eye)
    with pytest.raises(SchemeError, match=r"two \(N, N\) arrays"):
        banded(eye, eye, np.zeros((2, 1)))
    with pytest.raises(SchemeError, match="non-finite"):
        banded(eye * np.nan, eye)
