"""Look-ahead weights against their definition, and the facts that the methods rest on."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paracore.problem import Problem
from paracore.schemes import (
    RowWeights,
    Scheme,
    ddim,
    ddpm,
    dpm_solver_pp_2m,
    edm_heun,
    flow_euler,
    flow_heun,
    look_ahead_weights,
)

TABLES = {
    "flow_euler": flow_euler(9, shift=3.0),
    "flow_heun": flow_heun(6),
    "edm_heun": edm_heun(5),
    "ddim": ddim(9),
    "ddim_noise": ddim(9, eta=1.0),
    "ddpm": ddpm(9),
    "dpm_noise": dpm_solver_pp_2m(10),
    "dpm_data": dpm_solver_pp_2m(10, prediction="data"),
}


def random_table(seed: int) -> Scheme:
    rng = np.random.default_rng(seed)
    steps, past, outputs = rng.integers(2, 10), rng.integers(1, 4), rng.integers(1, 5)
    a, b = rng.standard_normal((steps, past)), rng.standard_normal((steps, outputs))
    a[rng.random(a.shape) < 0.2] = 0
    for table in (a, b):
        for lag in range(1, table.shape[1]):
            table[:lag, lag] = 0
    return Scheme.create(a, b, np.arange(steps))


tables = st.one_of(st.sampled_from(list(TABLES.values())), st.builds(random_table, st.integers(0, 10**6)))


def windows(scheme: Scheme, seed: int) -> tuple[Any, Any]:
    """Fronts and look-aheads per sample; windows may reach beyond N."""
    rng = np.random.default_rng(seed)
    rows, batch = int(rng.integers(1, 8)), 3
    nodes = rng.integers(0, scheme.steps, batch)[None] + np.arange(rows)[:, None]
    return nodes, rng.integers(1, rows + 3, (rows, batch))


def expanded(scheme: Scheme, front: int, target: int, width: int) -> dict[tuple[str, int], float]:
    """State ``target`` written out by the definition: recursion, one state at a time. Keys are (kind, node)."""
    if target <= front or width <= 0:
        return {("x", target): 1.0}
    node, out = target - 1, {("c", target - 1): 1.0}
    for lag in range(scheme.b.shape[1]):
        if scheme.b[node, lag]:
            out["f", node - lag] = out.get(("f", node - lag), 0.0) + scheme.b[node, lag]
    for lag in range(scheme.a.shape[1]):
        if scheme.a[node, lag]:
            for key, value in expanded(scheme, front, node - lag, width - 1 - lag).items():
                out[key] = out.get(key, 0.0) + scheme.a[node, lag] * value
    return out


@given(tables, st.integers(0, 10**6))
@settings(max_examples=80)
def test_definition(scheme: Scheme, seed: int) -> None:
    nodes, width = windows(scheme, seed)
    weights = look_ahead_weights(scheme, nodes, width)
    rows, batch = nodes.shape
    history = scheme.memory
    assert weights.x.shape == weights.f.shape == (rows, history + rows, batch)
    assert weights.c.shape == (rows, rows, batch)
    for sample in range(batch):
        front = int(nodes[0, sample])
        for r in range(rows):
            wanted = RowWeights(*(np.zeros((history + rows,)) for _ in range(2)), np.zeros(rows))
            if nodes[r, sample] < scheme.steps:
                for (kind, node), value in expanded(scheme, front, front + r + 1, int(width[r, sample])).items():
                    getattr(wanted, kind)[node - front + (0 if kind == "c" else history)] += value
            for kind in ("x", "f", "c"):
                got = getattr(weights, kind)[r, :, sample]
                np.testing.assert_allclose(got, getattr(wanted, kind), rtol=1e-10, atol=1e-10)


@given(tables, st.integers(0, 10**6))
@settings(max_examples=40)
def test_full_look_ahead_is_the_one_step_system_solved(scheme: Scheme, seed: int) -> None:
    """The one-step residual solved with its own linear part updates as the full look-ahead's with the identity."""
    nodes, _ = windows(scheme, seed)
    nodes = nodes[nodes[:, 0] < scheme.steps, :1]
    rows, history = len(nodes), scheme.memory
    rng = np.random.default_rng(seed)
    states, outputs = rng.standard_normal(history + rows + 1), rng.standard_normal(history + rows)

    def residual(width: int) -> Any:
        weights = look_ahead_weights(scheme, nodes, np.full(nodes.shape, width))
        predicted = weights.x[..., 0] @ states[:-1] + weights.f[..., 0] @ outputs
        return states[history + 1 :] - predicted

    jacobian = np.eye(rows)
    for r in range(rows):
        for lag in range(min(scheme.a.shape[1], r)):
            jacobian[r, r - 1 - lag] -= scheme.a[nodes[r, 0], lag]
    np.testing.assert_allclose(np.linalg.solve(jacobian, residual(1)), residual(rows), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", TABLES)
def test_the_sequential_trajectory_is_the_root_for_any_widths(name: str, network: Any, sweep: Any) -> None:
    scheme, batch = TABLES[name], 4
    x0 = torch.randn(batch, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    outputs: list[torch.Tensor] = []
    states = sweep(scheme, lambda x, n: network(x, float(scheme.time[n])), x0, generator=generator, outputs=outputs)
    tape = Problem(scheme, x0, generator).tape()
    noise = [tape.row(node) for node in range(scheme.steps)]
    zero = torch.zeros_like(x0)
    rng = np.random.default_rng(0)
    for rows in (1, 3, 6, scheme.steps + 2):
        nodes = rng.integers(0, scheme.steps, batch)[None] + np.arange(rows)[:, None]
        weights = look_ahead_weights(scheme, nodes, rng.integers(1, rows + 2, nodes.shape))
        checked = 0
        for sample in range(batch):
            front = int(nodes[0, sample])

            def at(values: list[Any], node: int, sample: int = sample) -> torch.Tensor:
                value = values[node] if 0 <= node < len(values) else None
                return (zero if value is None else value)[sample]

            for r in range(rows):
                predicted = torch.zeros(6, dtype=torch.float64)
                for m in range(scheme.memory + rows):
                    node = front + m - scheme.memory
                    predicted += weights.x[r, m, sample] * at(states, node)
                    predicted += weights.f[r, m, sample] * at(outputs, node)
                for m in range(rows):
                    predicted += weights.c[r, m, sample] * at(noise, front + m)
                if front + r >= scheme.steps:
                    assert not predicted.any()
                    continue
                true = states[front + r + 1][sample]
                assert float((predicted - true).norm() / true.norm()) < 1e-9
                checked += 1
        assert checked >= min(rows, batch)


def test_a_zero_weight_on_the_state_is_no_division() -> None:
    """The last step of most samplers has a = 0: the weights come by recursion, never as ratios of products."""
    scheme = Scheme.create([1.0, 0.0, 2.0], [1.0, 1.0, 1.0], [0, 1, 2])
    weights = look_ahead_weights(scheme, np.arange(3)[:, None], np.full((3, 1), 3))
    np.testing.assert_array_equal(weights.x[..., 0], [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(weights.f[..., 0], [[1, 0, 0], [0, 1, 0], [0, 2, 1]])
    np.testing.assert_array_equal(weights.c[..., 0], [[1, 0, 0], [0, 1, 0], [0, 2, 1]])


def test_fast_enough_for_every_round() -> None:
    scheme, nodes = dpm_solver_pp_2m(60), np.arange(50)[:, None]
    width = np.full((50, 1), 50)
    took = []
    for _ in range(10):
        start = time.perf_counter()
        look_ahead_weights(scheme, nodes, width)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.02  # about 2.5 ms; the margin is for busy machines
