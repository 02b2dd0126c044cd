"""The table: its arithmetic, its bits, and what can be read off it."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paracore.errors import SchemeError
from paracore.schemes import (
    FORMS,
    History,
    Levels,
    Scheme,
    ddim,
    ddpm,
    dpm_solver_pp_2m,
    edm_euler,
    edm_heun,
    flow_euler,
    flow_heun,
)

SEEDS = st.integers(0, 2**32 - 1)
TABLES: list[Scheme] = [
    flow_euler(7, shift=3.0),
    flow_heun(5),
    ddim(8),
    ddim(8, eta=1.0),
    ddpm(8),
    edm_euler(6),
    edm_heun(4),
    dpm_solver_pp_2m(9),
    dpm_solver_pp_2m(9, family="flow"),
]
X0 = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def random_scheme(seed: int, steps: int, past: int, outputs: int, noise: int) -> Scheme:
    """A table of any memory, with some weights exactly 0 or 1."""
    rng = np.random.default_rng(seed)

    def table(columns: int) -> Any:
        value = rng.standard_normal((steps, columns)) * 0.7
        return np.where(rng.random(value.shape) < 0.2, rng.integers(0, 2, value.shape), value)

    a, b = table(past), table(outputs)
    for value in (a, b):
        for lag in range(1, value.shape[1]):
            value[:lag, lag] = 0  # nothing before node 0
    return Scheme.create(a, b, np.arange(steps), c=table(noise) if noise else None)


schemes = st.builds(random_scheme, SEEDS, st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2))


def rows(seed: int, count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


@given(schemes, SEEDS, st.data())
@settings(max_examples=60)
def test_step_is_the_formula(scheme: Scheme, seed: int, data: st.DataObject) -> None:
    node = data.draw(st.integers(0, scheme.steps - 1))
    depth = min(node, scheme.memory) + 1
    states, outputs = rows(seed, depth, (2, 3)), rows(seed + 1, depth, (2, 3))
    noise = rows(seed + 2, 1, (2, 3))[0] if data.draw(st.booleans()) else None
    expected = np.zeros((2, 3)) if noise is None else noise.numpy().copy()
    for i in range(min(depth, scheme.a.shape[1])):
        expected += scheme.a[node, i] * states[i].numpy()
    for j in range(min(depth, scheme.b.shape[1])):
        expected += scheme.b[node, j] * outputs[j].numpy()
    before = [value.clone() for value in (*states, *outputs)]
    result = scheme.step(node, states, outputs, noise)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-13)
    for value, copy in zip((*states, *outputs), before, strict=True):
        assert torch.equal(value, copy)
        assert result.data_ptr() != value.data_ptr()


@given(
    schemes,
    SEEDS,
    st.sampled_from([(3,), (1,), (7, 5), (2, 3, 17), (33,)]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.booleans(),
)
@settings(max_examples=80)
def test_step_bits_do_not_depend_on_the_batch(
    scheme: Scheme, seed: int, event: tuple[int, ...], dtype: torch.dtype, noisy: bool
) -> None:
    batch, depth = 5, scheme.memory + 1
    states, outputs = rows(seed, depth, (batch, *event), dtype), rows(seed + 1, depth, (batch, *event), dtype)
    noise = rows(seed + 2, 1, (batch, *event), torch.float32)[0] if noisy else None
    noise = noise.double() if noise is not None and dtype == torch.float64 else noise
    nodes = np.random.default_rng(seed).integers(0, scheme.steps, batch)
    together = scheme.step(nodes, states, outputs, noise)
    assert together.dtype == dtype
    for sample in range(batch):
        pick = slice(sample, sample + 1)
        alone = scheme.step(
            int(nodes[sample]),
            [s[pick] for s in states],
            [o[pick] for o in outputs],
            None if noise is None else noise[pick],
        )
        assert torch.equal(together[pick], alone)
    same = np.full(batch, nodes[0])
    assert torch.equal(scheme.step(same, states, outputs, noise), scheme.step(int(nodes[0]), states, outputs, noise))
    half = scheme.step(nodes[1:4], [s[1:4] for s in states], [o[1:4] for o in outputs], None)
    assert torch.equal(half, scheme.step(nodes, states, outputs, None)[1:4])


@given(schemes, SEEDS, st.data())
@settings(max_examples=80)
def test_held_is_repeated_steps(scheme: Scheme, seed: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, scheme.steps - 1))
    stop = data.draw(st.integers(start + 1, scheme.steps))
    depth = min(start, scheme.memory) + 1
    states, outputs = rows(seed, depth, (2, 3)), rows(seed + 1, depth, (2, 3))
    noise: list[torch.Tensor | None] = list(rows(seed + 2, stop - start, (2, 3))) if scheme.stochastic else []
    if noise and data.draw(st.booleans()):
        noise[-1] = None
    jumped = scheme.held(History(tuple(states), tuple(outputs)), start, stop, noise)
    walked, given_outputs = list(states), list(outputs)
    for node in range(start, stop):
        row = noise[node - start] if noise else None
        walked.insert(0, scheme.step(node, walked, given_outputs, row))
        given_outputs.insert(0, outputs[0])
    assert len(jumped.states) == min(stop, scheme.memory) + 1
    scale = max(float(value.abs().max()) for value in walked) + 1
    for got, wanted in zip(jumped.states, walked, strict=False):
        assert float((got - wanted).abs().max()) < 1e-10 * scale
    assert all(torch.equal(value, outputs[0]) for value in jumped.outputs)


def test_held_refuses_to_stand_still() -> None:
    scheme = flow_euler(4)
    history = History((X0,), (X0,))
    with pytest.raises(SchemeError, match="held jump from node 2 to 2: need 2 < stop <= 4"):
        scheme.held(history, 2, 2)
    with pytest.raises(SchemeError, match="held jump from node 2 to 5"):
        scheme.held(history, 2, 5)


@pytest.mark.parametrize("scheme", TABLES, ids=lambda s: f"{s.name}-{s.prediction}")
@pytest.mark.parametrize("form", ["network", "drift", *FORMS])
def test_in_form_is_the_same_sampler(scheme: Scheme, form: str, network: Any, sweep: Any) -> None:
    def own(x: torch.Tensor, node: int) -> torch.Tensor:
        return network(x, float(scheme.time[node]))

    reason = None
    if form == "drift" and scheme.memory > 0:
        reason = "needs one past state"
    elif scheme.levels is not None and scheme.levels.alpha[0] == 0 and form in ("noise", "score"):
        reason = "alpha = 0 at node 0"
    if reason is not None:
        with pytest.raises(SchemeError, match=reason):
            scheme.in_form(form)
        return
    u, v = scheme.form_gain(form)
    seen: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(5)
    expected = sweep(scheme, own, X0, generator=generator, outputs=seen)
    other = scheme.in_form(form)
    got = sweep(other, lambda x, n: (own(x, n) - u[n] * x) / v[n], X0, generator=generator)
    for ours, theirs in zip(got, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-10
    assert other.prediction == {"network": scheme.prediction, "drift": None}.get(form, form)
    if form in FORMS:
        assert scheme.levels is not None
        back = scheme.levels.conversion(scheme.prediction, form, slice(0, scheme.steps))
        for n, (x, f) in enumerate(zip(expected, seen, strict=False)):
            converted = back[0][n] * x + back[1][n] * f
            torch.testing.assert_close(u[n] * x + v[n] * converted, f, rtol=1e-7, atol=1e-7)
    if form == "drift":
        np.testing.assert_allclose(other.a[:, 0], 1.0, rtol=1e-12)


@given(schemes, SEEDS)
@settings(max_examples=40)
def test_output_reach_is_the_response_to_one_output(scheme: Scheme, seed: int) -> None:
    def run(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        states = [rows(seed, 1, (1, 1))[0]]
        for node in range(scheme.steps):
            states.append(scheme.step(node, states[::-1], outputs[node::-1]))
        return states

    outputs = rows(seed + 1, scheme.steps, (1, 1))
    weight, node = scheme.output_reach()
    for k in range(scheme.steps):
        moved = [value + 1.0 if n == k else value for n, value in enumerate(outputs)]
        assert node[k] == min(k + 1 + scheme.memory, scheme.steps)
        before, after = run(outputs)[node[k]], run(moved)[node[k]]
        scale = 1 + float(before.abs())
        assert abs(abs(float(after - before)) - weight[k]) < 1e-9 * scale


@given(SEEDS, st.sampled_from(FORMS), st.sampled_from(FORMS))
@settings(max_examples=100)
def test_conversions_round_trip(seed: int, source: str, target: str) -> None:
    rng = np.random.default_rng(seed)
    alpha, sigma = rng.uniform(0.05, 1.0, 5), rng.uniform(0.05, 2.0, 5)
    levels, everywhere = Levels(alpha, sigma, np.ones(4), np.ones(4)), slice(0, 5)
    data, noise = rng.standard_normal(5), rng.standard_normal(5)
    x = alpha * data + sigma * noise
    p, q = levels.parts(source, everywhere)
    r, s = levels.parts(target, everywhere)
    u, v = levels.conversion(source, target, everywhere)
    np.testing.assert_allclose(u * x + v * (p * data + q * noise), r * data + s * noise, rtol=1e-9, atol=1e-9)
    back_u, back_v = levels.conversion(target, source, everywhere)
    np.testing.assert_allclose(back_u + back_v * u, 0, atol=1e-9)
    np.testing.assert_allclose(back_v * v, 1, rtol=1e-9)


def test_the_calm_form_goes_by_the_kind_of_scheme() -> None:
    multistep = (dpm_solver_pp_2m(5), dpm_solver_pp_2m(5, prediction="v-prediction"), flow_heun(5))
    kinds = {
        "velocity": (flow_euler(5), ddim(5), edm_euler(5), *multistep),
        "data": (ddpm(5),),
        "drift": (attrs.evolve(ddim(5), levels=None, prediction=None),),
    }
    for form, schemes in kinds.items():
        for scheme in schemes:
            assert scheme.calm_form == form
            for own, auto in zip(scheme.gain(form), scheme.gain("auto"), strict=True):
                np.testing.assert_array_equal(own, auto)
            assert scheme.in_form("auto").prediction == scheme.in_form(form).prediction
    bare = Scheme.create([1.0, 0.5], [0.1, 0.0], [1.0, 0.5])  # no drift where an output has no weight
    assert bare.calm_form == "network"
    noisy = Scheme.create([1.0, 0.5], [0.1, 0.2], [1.0, 0.5], c=[0.1, 0.0])  # no data without noise levels
    assert noisy.calm_form == "drift"


def test_forms_by_name() -> None:
    alpha, sigma = np.array([0.6, 0.8]), np.array([0.8, 0.6])
    levels = Levels(alpha, sigma, np.ones(1), np.ones(1))
    data, noise = 2.0, -3.0
    wanted = {
        "noise": noise,
        "data": data,
        "velocity": noise - data,
        "v-prediction": alpha * noise - sigma * data,
        "score": -noise / sigma,
    }
    assert set(wanted) == set(FORMS)
    for form, value in wanted.items():
        p, q = levels.parts(form, slice(0, 2))
        np.testing.assert_allclose(p * data + q * noise, value)


def test_variances_are_ddpms() -> None:
    scheme = ddpm(20)
    assert scheme.levels is not None
    bars = scheme.levels.alpha**2
    added = 1 - bars[:-1] / bars[1:]
    np.testing.assert_allclose(scheme.levels.transition_variance, added, rtol=1e-9)
    np.testing.assert_allclose(scheme.levels.posterior_variance[:-1], scheme.c[:-1, 0] ** 2, rtol=1e-9)
    assert scheme.levels.posterior_variance[-1] == 0


@pytest.mark.parametrize("scheme", TABLES, ids=lambda s: f"{s.name}-{s.prediction}")
def test_output_from_data(scheme: Scheme) -> None:
    assert scheme.levels is not None
    nodes = torch.tensor([0, scheme.steps - 1, 1])
    data, noise = rows(1, 2, (3, 2, 2))
    alpha, sigma = (
        torch.from_numpy(v[nodes.numpy()]).reshape(3, 1, 1) for v in (scheme.levels.alpha, scheme.levels.sigma)
    )
    p, q = scheme.levels.parts(scheme.prediction, slice(0, scheme.steps))
    p, q = (torch.from_numpy(v[nodes.numpy()]).reshape(3, 1, 1) for v in (p, q))
    output = scheme.output_from_data(nodes, alpha * data + sigma * noise, data)
    torch.testing.assert_close(output, p * data + q * noise, rtol=1e-9, atol=1e-9)


def test_facts() -> None:
    scheme = dpm_solver_pp_2m(9)
    assert (scheme.steps, scheme.memory, scheme.stochastic) == (9, 1, False)
    assert repr(scheme) == "<Scheme 'dpm_solver_pp_2m': 9 steps, memory 1>"
    assert ddpm(4).stochastic
    assert (edm_euler(4).memory, edm_heun(4).memory) == (0, 1)


def test_draws_reach_the_last_weight() -> None:
    """A weight in the second column asks for two draws, even where the first weight is 0."""
    assert Scheme.create([1, 1], [1, 1], [0, 1], c=[[0, 0.5], [0, 0]]).draws.tolist() == [2, 0]
    assert Scheme.create([1, 1], [1, 1], [0, 1]).draws.tolist() == [0, 0]


LEVELS = Levels(np.ones(3), np.ones(3), np.ones(2), np.ones(2))
MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"a": [], "b": [], "time": []}, "has 0 steps; at least 1 is needed"),
    ({"a": 1.0}, r"a has shape \(\); \(N,\) or \(N, columns\) is needed"),
    ({"a": np.ones((2, 1, 1))}, r"a has shape \(2, 1, 1\)"),
    ({"b": [1.0]}, r"b has shape \(1, 1\); a has 2 rows"),
    ({"time": [1.0]}, r"time has shape \(1,\); a has 2 rows"),
    ({"time": [[1.0], [2.0]]}, "time and draws need one number per node"),
    ({"c": [1.0]}, r"c has shape \(1, 1\)"),
    ({"draws": [0]}, r"draws has shape \(1,\)"),
    ({"a": [1.0, np.nan]}, "a is not finite at node 1"),
    ({"b": [np.inf, 1.0]}, "b is not finite at node 0"),
    ({"time": [0.0, np.nan]}, "time is not finite at node 1"),
    ({"c": [0.0, np.inf]}, "c is not finite at node 1"),
    ({"a": np.zeros((2, 0))}, "a and b need at least one column"),
    ({"a": [[1, 1], [1, 1]]}, r"a\[:, 1\] reaches back before node 0"),
    ({"b": [[1, 0, 0], [1, 1, 1]]}, r"b\[:, 2\] reaches back before node 0"),
    ({"draws": [1, 1]}, "more draws than noise weights at some node"),
    ({"draws": [-1, 0]}, "more draws than noise weights"),
    ({"c": [1.0, 1.0], "draws": [1, 0]}, "c has a weight without a draw at node 1; raise draws there"),
    ({"levels": Levels(np.ones(2), np.ones(3), np.ones(2), np.ones(2))}, r"levels.alpha has shape \(2,\); \(3,\) is"),
    ({"levels": Levels(np.ones(3), np.ones(3), np.ones(3), np.ones(2))}, r"levels.g has shape \(3,\); \(2,\) is"),
    ({"prediction": "nois"}, "unknown prediction 'nois'; did you mean 'noise'"),
]


@pytest.mark.parametrize(("options", "message"), MALFORMED)
def test_malformed_tables_are_refused(options: dict[str, Any], message: str) -> None:
    given_options: dict[str, Any] = {"a": [1.0, 1.0], "b": [1.0, 1.0], "time": [0.0, 1.0], "name": "mine", **options}
    with pytest.raises(SchemeError, match=f"scheme 'mine'.*{message}"):
        Scheme.create(**given_options)


def test_forms_that_do_not_exist_are_refused() -> None:
    flow = flow_euler(4)
    with pytest.raises(SchemeError, match="unknown output form 'nose'; did you mean 'noise'"):
        flow.in_form("nose")
    with pytest.raises(SchemeError, match=r"converted to 'velocity': that divides by alpha = 0 at node 0; .*'data'"):
        flow.in_form("noise")
    with pytest.raises(SchemeError, match="form 'drift' needs one past state; scheme 'flow_heun' reads 2"):
        flow_heun(3).form_gain("drift")
    lazy = Scheme.create([1.0, 0.5, 1.0], [0.0, 0.0, 1.0], [0, 1, 2])
    with pytest.raises(SchemeError, match="form 'drift' divides by b = 0 at node 1; use 'network'"):
        lazy.form_gain("drift")
    with pytest.raises(SchemeError, match="form 'data' needs noise levels and a known prediction"):
        lazy.in_form("data")
    with pytest.raises(SchemeError, match="has no noise levels or no known prediction"):
        lazy.output_from_data(torch.tensor([0]), X0[:1], X0[:1])
    clean = Levels(np.ones(3), np.array([1.0, 0.5, 0.0]), np.ones(2), np.ones(2))
    with pytest.raises(SchemeError, match="form 'score' divides by sigma = 0 at node 2; use 'data'"):
        clean.parts("score", slice(1, 3))
    with pytest.raises(
        SchemeError, match=r"form 'data' cannot be converted to 'noise': .* sigma = 0 at node 2; .*'velocity'"
    ):
        clean.conversion("data", "noise", slice(1, 3))


@given(schemes)
def test_errors_reach_at_least_as_far_as_while_all_is_held(scheme: Scheme) -> None:
    reach, _ = scheme.output_reach()
    assert (scheme.error_reach() >= reach).all()
    if scheme.memory == 0:
        np.testing.assert_array_equal(scheme.error_reach(), reach)


def test_what_an_error_in_a_heun_step_leaves_behind() -> None:
    """Where predictions follow the state wholly, ``(1 - r) / 2`` of the first stage's error stays, and of the second's
    ``(1 / r - 1) / 2``, with ``r`` the step's ratio of sigmas. Held predictions take nearly all of it away.
    """
    scheme = edm_heun(25)
    sigma = scheme.levels.sigma
    ratio = sigma[1:-1:2] / sigma[0:-2:2]
    for stage, stays in ((0, (1 - ratio) / 2), (1, (1 / ratio - 1) / 2)):
        share = scheme.error_reach()[stage : 2 * len(ratio) : 2] / stays
        assert (share > 0.6).all()
        assert (share < 1.0 + 1e-9).all()
    held = scheme.output_reach()[0][0 : 2 * len(ratio) : 2] / ((1 - ratio) / 2)
    assert held.min() < 0.05


def test_clean_steps_are_those_where_the_noise_goes() -> None:
    for scheme in (flow_euler(9, shift=2.0), ddim(9), edm_euler(9), ddpm(9), dpm_solver_pp_2m(9)):
        assert scheme.levels is not None
        sigma = scheme.levels.sigma
        gone = sigma[1:] <= 0.1 * sigma[:-1]
        assert gone[-1]
        np.testing.assert_array_equal(scheme.clean, gone)
        # levels that were recovered from a pipeline's scheduler end near 0
        ends = np.where(sigma == 0, 1e-17, sigma)
        near = attrs.evolve(scheme, levels=attrs.evolve(scheme.levels, sigma=ends))
        np.testing.assert_array_equal(near.clean, gone)
        assert not attrs.evolve(scheme, levels=None).clean.any()
