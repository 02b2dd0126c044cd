"""The analytic models against independent formulas: quadrature, autograd, a general ODE solver, brute force."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp  # type: ignore[import-untyped]
from torch.distributions import MultivariateNormal

import paracore_analytic
import paracore_analytic.plugin
from paracore.errors import ConfigurationError, SchemeError
from paracore.model import Model
from paracore.request import Denoiser, Rows
from paracore.schemes import Scheme, ddim, ddpm, dpm_solver_pp_2m, edm_euler, edm_heun, flow_euler, flow_heun
from paracore_analytic import GaussianModel, IdealDenoiser, LinearModel, MixtureModel

SCHEMES = {
    "flow_euler": flow_euler(12, shift=2.0),
    "flow_heun": flow_heun(6),
    "ddim": ddim(12),
    "ddim-v": ddim(12, prediction="v-prediction"),
    "ddpm": ddpm(12),
    "edm_euler": edm_euler(12),
    "edm_heun": edm_heun(6),
    "dpm": dpm_solver_pp_2m(12),
}
MODELS = {
    "gaussian": GaussianModel.random(dimension=5),
    "mixture": MixtureModel.random(dimension=5),
    "two-mode": MixtureModel.two_mode(dimension=5),
    "ideal": IdealDenoiser.random(dimension=5),
    "linear": LinearModel.random(dimension=5),
}
each_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(nodes: list[int], samples: list[int] | None = None) -> Rows:
    return Rows(torch.tensor(nodes), torch.tensor(samples if samples is not None else list(range(len(nodes)))))


def call(denoiser: Denoiser, x: torch.Tensor, where: Rows) -> torch.Tensor:
    return denoiser(x, torch.zeros(len(x), dtype=torch.float64), where)


def states(scheme: Scheme, nodes: list[int], dimension: int, seed: int = 0) -> torch.Tensor:
    """States of about the right size: alpha * data + sigma * noise with data of size 1."""
    levels = scheme.levels
    assert levels is not None
    size = torch.from_numpy(np.hypot(levels.alpha, levels.sigma)[nodes])
    return size[:, None] * normal(len(nodes), dimension, seed=seed)


def data_of(scheme: Scheme, nodes: list[int], x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The data prediction behind an output; where alpha is 0 the velocity still gives it (x - sigma * (v + data))."""
    levels = scheme.levels
    assert levels is not None
    found = []
    for n, state, value in zip(nodes, x, output, strict=True):
        p, q = levels.parts(str(scheme.prediction), slice(n, n + 1))
        a, s = levels.alpha[n], levels.sigma[n]
        # solve [a s; p q] [data, noise] = [x, output]
        found.append((q[0] * state - s * value) / (a * q[0] - s * p[0]))
    return torch.stack(found)


def mixture_posterior(
    x: torch.Tensor, a: float, s: float, means: torch.Tensor, covariances: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Posterior mean of one state by plain linear algebra: no eigenvectors, no softmax."""
    identity = torch.eye(len(x), dtype=torch.float64)
    logs = torch.stack(
        [
            w.log() + log_gaussian(a * m, a * a * c + s * s * identity, x)
            for m, c, w in zip(means, covariances, weights, strict=True)
        ]
    )
    share = (logs - logs.logsumexp(0)).exp()
    centres = torch.stack(
        [
            m + a * c @ torch.linalg.solve(a * a * c + s * s * identity, x - a * m)
            for m, c in zip(means, covariances, strict=True)
        ]
    )
    return share @ centres


def random_covariances(count: int, dimension: int, seed: int) -> torch.Tensor:
    root = normal(count, dimension, dimension, seed=seed)
    return root @ root.mT / dimension + 0.05 * torch.eye(dimension, dtype=torch.float64)


def log_gaussian(mean: torch.Tensor, covariance: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = MultivariateNormal(mean, covariance).log_prob(x)  # type: ignore[no-untyped-call]
    return found


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-12) -> None:
    scale = max(1.0, float(expected.abs().max()))
    assert float((actual - expected).abs().max()) <= tolerance * scale


# The denoisers against independent formulas.


@settings(max_examples=25)
@given(mean=st.floats(-2, 2), deviation=st.floats(0.1, 2), node=st.integers(0, 11), x=st.floats(-3, 3))
def test_gaussian_is_the_posterior_mean_by_quadrature(mean: float, deviation: float, node: int, x: float) -> None:
    scheme = SCHEMES["flow_euler"]
    model = GaussianModel(torch.tensor([mean]), torch.tensor([[deviation**2]], dtype=torch.float64))
    state = torch.tensor([[x]], dtype=torch.float64)
    found = data_of(scheme, [node], state, call(model.denoiser(scheme), state, rows([node])))
    assert scheme.levels is not None
    a, s = float(scheme.levels.alpha[node]), float(scheme.levels.sigma[node])
    grid = torch.linspace(mean - 12 * deviation, mean + 12 * deviation, 40001, dtype=torch.float64)
    logs = -0.5 * ((grid - model.mean) / deviation) ** 2 - 0.5 * ((x - a * grid) / s) ** 2
    weight = torch.softmax(logs, 0)
    assert float(found) == pytest.approx(float((weight * grid).sum()), abs=1e-9)


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), node=st.integers(0, 11))
def test_mixture_is_the_posterior_mean_by_quadrature_in_the_plane(seed: int, node: int) -> None:
    scheme = SCHEMES["flow_euler"]
    means, covariances = normal(3, 2, seed=seed), random_covariances(3, 2, seed) / 4  # nothing beyond the grid
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    model = MixtureModel(means, covariances, weights)
    x = normal(1, 2, seed=seed + 1)
    found = data_of(scheme, [node], x, call(model.denoiser(scheme), x, rows([node])))
    assert scheme.levels is not None
    a, s = float(scheme.levels.alpha[node]), float(scheme.levels.sigma[node])
    axis = torch.linspace(-16, 16, 401, dtype=torch.float64)  # trapezoid sums of Gaussians converge geometrically
    grid = torch.cartesian_prod(axis, axis)
    density = sum(w * log_gaussian(m, c, grid).exp() for w, m, c in zip(weights, means, covariances, strict=True))
    assert isinstance(density, torch.Tensor)
    weight = density * torch.exp(-0.5 * ((x - a * grid) / s).square().sum(-1))
    close(found[0], (weight[:, None] * grid).sum(0) / weight.sum(), 1e-8)


@each_scheme
@pytest.mark.parametrize("dimension", [1, 4, 9])
def test_mixture_equals_brute_force(scheme: Scheme, dimension: int) -> None:
    nodes = [0, 3, 7, scheme.steps - 1]
    means, covariances = normal(4, dimension, seed=1), random_covariances(4, dimension, 2)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    levels = scheme.levels
    assert levels is not None
    x = states(scheme, nodes, dimension)
    data = torch.stack(
        [
            mixture_posterior(x[i], levels.alpha[n], levels.sigma[n], means, covariances, weights)
            for i, n in enumerate(nodes)
        ]
    )
    expected = scheme.output_from_data(torch.tensor(nodes), x, data)
    close(call(MixtureModel(means, covariances, weights).denoiser(scheme), x, rows(nodes)), expected)


@each_scheme
def test_gaussian_equals_brute_force(scheme: Scheme) -> None:
    nodes = [0, 3, 7, scheme.steps - 1]
    mean, covariance = normal(6, seed=1), random_covariances(1, 6, 2)
    levels = scheme.levels
    assert levels is not None
    x = states(scheme, nodes, 6)
    one = torch.ones(1, dtype=torch.float64)
    data = torch.stack(
        [
            mixture_posterior(x[i], levels.alpha[n], levels.sigma[n], mean[None], covariance, one)
            for i, n in enumerate(nodes)
        ]
    )
    expected = scheme.output_from_data(torch.tensor(nodes), x, data)
    close(call(GaussianModel(mean, covariance[0]).denoiser(scheme), x, rows(nodes)), expected)


@each_scheme
def test_ideal_equals_brute_force(scheme: Scheme) -> None:
    nodes = [0, 3, 7, scheme.steps - 1]
    model = IdealDenoiser.random(points=20, dimension=3, classes=0)
    levels = scheme.levels
    assert levels is not None
    x = states(scheme, nodes, 3)
    data = []
    for i, n in enumerate(nodes):
        logs = [-float((x[i] - levels.alpha[n] * p).square().sum()) / (2 * levels.sigma[n] ** 2) for p in model.points]
        share = [math.exp(v - max(logs)) for v in logs]
        data.append(sum(w * p for w, p in zip(share, model.points, strict=True)) / sum(share))
    expected = scheme.output_from_data(torch.tensor(nodes), x, torch.stack(data))
    close(call(model.denoiser(scheme), x, rows(nodes)), expected)


@pytest.mark.parametrize("node", [1, 5, 11])
def test_score_is_the_gradient_of_the_log_density(node: int) -> None:
    scheme = SCHEMES["ddim"]
    assert scheme.levels is not None
    a, s = float(scheme.levels.alpha[node]), float(scheme.levels.sigma[node])
    means, covariances = normal(3, 4, seed=3), random_covariances(3, 4, 4)
    x = normal(1, 4, seed=5).requires_grad_()
    identity = torch.eye(4, dtype=torch.float64)
    parts = [log_gaussian(a * m, a * a * c + s * s * identity, x[0]) for m, c in zip(means, covariances, strict=True)]
    (gradient,) = torch.autograd.grad(torch.stack(parts).logsumexp(0), x)
    noise = call(MixtureModel(means, covariances).denoiser(scheme), x.detach(), rows([node]))
    close(-noise / s, gradient, 1e-11)


def test_ideal_denoiser_is_the_mixture_of_points() -> None:
    scheme, nodes = SCHEMES["flow_euler"], [1, 4, 6, 11]
    ideal = IdealDenoiser.random(points=12, dimension=4, classes=3)
    mixture = MixtureModel(ideal.points, torch.zeros(12, 4), classes=ideal.point_classes)
    x, labels = states(scheme, nodes, 4), torch.tensor([0, 1, 2, 1])
    for guidance in (1.0, 3.0):
        expected = call(ideal.denoiser(scheme, labels, guidance), x, rows(nodes))
        close(call(mixture.denoiser(scheme, labels, guidance), x, rows(nodes)), expected, 1e-11)


def test_diagonal_covariances_are_full_ones() -> None:
    scheme, nodes = SCHEMES["ddim"], [0, 5, 11]
    variances = normal(3, 4, seed=1).square()
    x = states(scheme, nodes, 4)
    diagonal = MixtureModel(normal(3, 4), variances).denoiser(scheme)
    full = MixtureModel(normal(3, 4), torch.diag_embed(variances)).denoiser(scheme)
    close(call(diagonal, x, rows(nodes)), call(full, x, rows(nodes)))


# Classes and guidance.


@pytest.mark.parametrize("name", ["mixture", "two-mode", "ideal"])
@each_scheme
def test_guidance_extrapolates_from_unconditional_to_conditional(scheme: Scheme, name: str) -> None:
    model, nodes = MODELS[name], [0, 4, 8, 10]
    x, labels = states(scheme, nodes, 5), torch.tensor([1, 0, 1, 0])
    plain = call(model.denoiser(scheme), x, rows(nodes))
    inside = call(model.denoiser(scheme, labels), x, rows(nodes))
    guided = call(model.denoiser(scheme, labels, 3.5), x, rows(nodes))
    close(guided, plain + 3.5 * (inside - plain), 1e-11)
    close(call(model.denoiser(scheme, labels, 0.0), x, rows(nodes)), plain)


def test_a_class_sees_its_own_components_only() -> None:
    scheme, nodes = SCHEMES["flow_euler"], [2, 6, 11]
    means, covariances = normal(4, 3), random_covariances(4, 3, 1)
    weights = torch.tensor([0.4, 0.1, 0.2, 0.3], dtype=torch.float64)
    owner = torch.tensor([0, 1, 0, 1])
    model = MixtureModel(means, covariances, weights, owner)
    x = states(scheme, nodes, 3)
    for label in (0, 1):
        mine = owner == label
        alone = MixtureModel(means[mine], covariances[mine], weights[mine])
        found = call(model.denoiser(scheme, torch.full((3,), label)), x, rows(nodes))
        close(found, call(alone.denoiser(scheme), x, rows(nodes)))


def test_calls_per_evaluation() -> None:
    scheme, labels = SCHEMES["ddim"], torch.tensor([0, 1])
    for name in ("mixture", "two-mode", "ideal"):
        model = MODELS[name]
        costs = [
            getattr(model.denoiser(scheme, chosen, guidance), "calls_per_evaluation", None)
            for chosen, guidance in ((None, 1.0), (labels, 1.0), (labels, 2.0))
        ]
        assert costs == [1, 1, 2]


# Rows, dtypes, derivatives.


@each_model
@each_scheme
def test_mixed_rows_equal_one_by_one(model: Model, scheme: Scheme) -> None:
    nodes, samples = [7, 0, 3, 3, 10], [2, 0, 1, 2, 0]
    labels = torch.tensor([0, 1, 1]) if model.classes else None
    denoiser = model.denoiser(scheme, labels, 2.0 if model.classes else 1.0)
    x = states(scheme, nodes, 5)
    together = call(denoiser, x, rows(nodes, samples))
    for i in range(len(nodes)):
        close(together[i : i + 1], call(denoiser, x[i : i + 1], rows([nodes[i]], [samples[i]])), 1e-11)


@each_model
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dtype_in_is_dtype_out(model: Model, dtype: torch.dtype) -> None:
    scheme, nodes = SCHEMES["flow_euler"], [0, 5, 11]
    x = states(scheme, nodes, 5).to(dtype)
    denoiser = model.denoiser(scheme)
    found, exact = call(denoiser, x, rows(nodes)), call(denoiser, x.double(), rows(nodes))
    assert found.dtype == dtype
    assert found.shape == x.shape
    steps = {torch.float64: 0.0, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
    close(found.double(), exact, steps[dtype])


@each_model
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch.func's own
def test_forward_mode_derivatives(model: Model) -> None:
    scheme, nodes = SCHEMES["ddim"], [0, 5, 11]
    labels = torch.tensor([0, 1, 0]) if model.classes else None
    denoiser = model.denoiser(scheme, labels, 2.0 if model.classes else 1.0)
    x, tangent = states(scheme, nodes, 5), normal(3, 5, seed=9)
    value, jvp, *_ = torch.func.jvp(lambda y: call(denoiser, y, rows(nodes)), (x,), (tangent,))
    assert torch.equal(value, call(denoiser, x, rows(nodes)))
    step = 1e-6
    ahead, behind = (call(denoiser, x + sign * step * tangent, rows(nodes)) for sign in (1, -1))
    close(jvp, (ahead - behind) / (2 * step), 1e-6)


def test_event_shapes_are_kept() -> None:
    scheme, nodes = SCHEMES["flow_euler"], [0, 5]
    x = normal(2, 1, 2, 3)
    covariances = random_covariances(2, 6, 0)
    pairs: list[tuple[Model, Model]] = [
        (GaussianModel(normal(1, 2, 3), covariances[0]), GaussianModel(normal(6), covariances[0])),
        (MixtureModel(normal(2, 1, 2, 3), covariances), MixtureModel(normal(2, 6), covariances)),
        (IdealDenoiser(normal(9, 1, 2, 3)), IdealDenoiser(normal(9, 6))),
        (LinearModel(covariances[0], shape=(1, 2, 3)), LinearModel(covariances[0])),
    ]
    for shaped, flat in pairs:
        assert shaped.shape == (1, 2, 3)
        found = call(shaped.denoiser(scheme), x, rows(nodes))
        assert found.shape == x.shape
        assert torch.equal(found.flatten(1), call(flat.denoiser(scheme), x.flatten(1), rows(nodes)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_image_dimensions_are_safe(dtype: torch.dtype) -> None:
    """d = 784: densities underflow by hundreds of decades, the answer must not."""
    scheme, nodes = flow_euler(50), [0, 1, 25, 49]
    means, variances = normal(10, 784), torch.full((10, 784), 1e-4, dtype=torch.float64)
    model = MixtureModel(means, variances, classes=torch.arange(10))
    assert scheme.levels is not None
    a, s = (torch.from_numpy(v)[nodes, None] for v in (scheme.levels.alpha, scheme.levels.sigma))
    x = (a * means[:4] + s * normal(4, 784, seed=1)).to(dtype)
    found = call(model.denoiser(scheme), x, rows(nodes)).double()
    assert bool(found.isfinite().all())
    inside = call(model.denoiser(scheme, torch.arange(4)), x, rows(nodes)).double()
    close(found[2:], inside[2:], 1e-12 if dtype == torch.float64 else 1e-5)  # there the nearest component has it all


# Closed-form solutions.


@pytest.mark.parametrize("name", ["flow_euler", "ddim"])
def test_gaussian_exact_solution_against_a_general_solver(name: str) -> None:
    """The probability-flow equation integrated by scipy, its right-hand side from the densities alone."""
    scheme = flow_euler(5, shift=3.0) if name == "flow_euler" else ddim(5)
    mean, covariance = normal(3, seed=1), random_covariances(1, 3, 2)[0]
    levels = scheme.levels
    assert levels is not None
    grid = np.linspace(0.0, 1.0, scheme.steps + 1)
    identity = np.eye(3)

    def slope(
        t: float, x: np.ndarray[tuple[int], np.dtype[np.float64]]
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        # straight lines between the nodes: the end depends on the two ends of the path only, not on the path
        a, s = np.interp(t, grid, levels.alpha), np.interp(t, grid, levels.sigma)
        k = min(int(t * scheme.steps), scheme.steps - 1)
        da, ds = (scheme.steps * (v[k + 1] - v[k]) for v in (levels.alpha, levels.sigma))
        c = covariance.numpy()
        inverse = np.linalg.inv(a * a * c + s * s * identity)
        data = mean.numpy() + a * c @ inverse @ (x - a * mean.numpy())
        noise = s * inverse @ (x - a * mean.numpy())
        out: np.ndarray[tuple[int], np.dtype[np.float64]] = da * data + ds * noise
        return out

    x0 = normal(2, 3, seed=3)
    found = GaussianModel(mean, covariance).exact(scheme, x0)
    for i in range(2):
        state = x0[i].numpy()
        for left, right in itertools.pairwise(grid):
            inner = solve_ivp(slope, (left, np.nextafter(right, 0)), state, rtol=1e-11, atol=1e-12)
            state = inner.y[:, -1]
        close(found[i], torch.from_numpy(state), 1e-8)


def test_gaussian_exact_solution_is_the_limit_of_euler() -> None:
    model = GaussianModel.random(dimension=4, stiffness=5.0)
    x0 = normal(3, 4)
    errors = []
    for steps in (200, 400):
        scheme = flow_euler(steps)
        errors.append(float((model.linear(scheme).discrete(scheme, x0)[-1] - model.exact(scheme, x0)).abs().max()))
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.1)


def test_gaussian_exact_solution_stops_at_a_node() -> None:
    model, scheme, x0 = GaussianModel.random(dimension=4), SCHEMES["flow_euler"], normal(2, 4)
    assert torch.allclose(model.exact(scheme, x0, node=0), x0, rtol=0, atol=1e-14)
    assert torch.equal(model.exact(scheme, x0, node=scheme.steps), model.exact(scheme, x0))
    assert model.exact(scheme, x0.float()).dtype == torch.float32


@pytest.mark.parametrize("name", [n for n, s in SCHEMES.items() if not s.stochastic])
def test_discrete_solution_is_the_sequential_sampler(name: str) -> None:
    scheme, model = SCHEMES[name], GaussianModel.random(dimension=4)
    x0 = states(scheme, [0, 0, 0], 4)
    whole = model.linear(scheme).discrete(scheme, x0)
    denoiser = model.denoiser(scheme)
    xs: list[torch.Tensor] = [x0]
    fs: list[torch.Tensor] = []
    for n in range(scheme.steps):
        fs.insert(0, call(denoiser, xs[0], rows([n] * 3)))
        xs.insert(0, scheme.step(n, xs, fs))
        close(whole[n + 1], xs[0], 1e-10)


def test_discrete_solution_with_noise() -> None:
    scheme, model = SCHEMES["ddpm"], LinearModel.random(dimension=3, stiffness=1.0)
    x0, noise = normal(2, 3), normal(scheme.steps, 2, 3, seed=1)
    whole = model.discrete(scheme, x0, list(noise))
    x, denoiser = x0, model.denoiser(scheme)
    for n in range(scheme.steps):
        x = scheme.step(n, [x], [call(denoiser, x, rows([n] * 2))], noise[n])
    close(whole[-1], x, 1e-11)
    with pytest.raises(SchemeError, match="draws noise"):
        model.discrete(scheme, x0)


@settings(max_examples=15)
@given(
    dimension=st.integers(1, 6),
    stiffness=st.floats(1, 20),
    seed=st.integers(0, 10**6),
    shift=st.sampled_from([1.0, 3.0]),
)
def test_continuous_solution_against_a_general_solver(
    dimension: int, stiffness: float, seed: int, shift: float
) -> None:
    model = LinearModel.random(dimension=dimension, stiffness=stiffness, seed=seed)
    scheme, x0 = flow_euler(4, shift=shift), normal(1, dimension, seed=seed)
    a, d = model.matrices.numpy(), model.offsets.numpy()
    ends = solve_ivp(lambda _, x: a @ x + d, (1.0, 0.0), x0[0].numpy(), rtol=1e-10, atol=1e-12, t_eval=scheme.time)
    found = model.continuous(scheme, x0)
    assert found.shape == (5, 1, dimension)
    close(found[:-1, 0], torch.from_numpy(ends.y.T), 1e-7)


def test_linear_matrices_per_node() -> None:
    scheme = flow_euler(6)
    model = LinearModel.random(dimension=3, steps=6)
    x, nodes = normal(4, 3), [5, 0, 2, 2]
    expected = torch.stack([model.matrices[n] @ v + model.offsets[n] for n, v in zip(nodes, x, strict=True)])
    close(call(model.denoiser(scheme), x, rows(nodes)), expected)
    with pytest.raises(ConfigurationError, match="are for 6 steps, scheme 'flow_euler' has 7"):
        model.denoiser(flow_euler(7))
    with pytest.raises(ConfigurationError, match="one matrix and one offset for all nodes"):
        model.continuous(scheme, x)


def test_continuous_solution_refuses_other_schemes() -> None:
    with pytest.raises(SchemeError, match=r"needs a flow scheme .* use schemes\.flow_euler"):
        LinearModel.random(dimension=3).continuous(SCHEMES["ddim"], normal(2, 3))


def test_two_mode_bifurcates() -> None:
    """Two starts that differ by 1e-3 across the middle end in different modes, on the inner side of each."""
    model, scheme = MixtureModel.two_mode(dimension=4, separation=6.0), flow_euler(100)
    axis = model.means[0] / model.means[0].norm()
    x = torch.stack([5e-4 * axis, -5e-4 * axis])
    denoiser = model.denoiser(scheme)
    for n in range(scheme.steps):
        x = scheme.step(n, [x], [call(denoiser, x, rows([n] * 2))])
    assert 2.5 < float(x[0] @ axis) < 3.0
    close(x[1], -x[0])


# Registration and refusals.


def test_registered_factories() -> None:
    factories = paracore_analytic.plugin.paracore_models()
    assert sorted(factories) == ["gaussian", "ideal", "linear", "mixture", "two-mode"]
    for name, factory in factories.items():
        options = inspect.signature(factory).parameters.values()
        assert all(o.kind is o.KEYWORD_ONLY and o.default is not o.empty for o in options), name
        assert all(o.annotation is not o.empty for o in options), name
        assert factory.__doc__, name
        assert factory.__doc__.splitlines()[0].count(".") >= 1, name
        model = factory(dimension=3)
        assert isinstance(model, Model)
        assert model.shape == (3,)
        assert model.reference


@pytest.mark.parametrize(
    "factory", [GaussianModel.random, MixtureModel.random, IdealDenoiser.random, LinearModel.random]
)
def test_seeds(factory: object) -> None:
    assert callable(factory)
    scheme, x = SCHEMES["ddim"], normal(2, 3)
    first, again, other = (call(factory(dimension=3, seed=s).denoiser(scheme), x, rows([2, 5])) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianModel(normal(3), normal(3, 2)), r"\(3, 3\) is needed"),
        (lambda: GaussianModel(normal(3), normal(3, 3)), "covariance is not symmetric"),
        (lambda: GaussianModel(normal(2), -torch.eye(2)), "has the eigenvalue -1; none may be negative"),
        (lambda: GaussianModel(torch.tensor([math.nan]), torch.eye(1)), "mean has non-finite numbers"),
        (lambda: GaussianModel("x", torch.eye(1)), "mean is str; a tensor of numbers is needed"),  # type: ignore[arg-type]
        (lambda: GaussianModel.random(dimension=0), "dimension is 0; 1 or more is needed"),
        (lambda: GaussianModel.random(stiffness=0.5), "stiffness is 0.5; 1 or more is needed"),
        (lambda: LinearModel(normal(3, 2)), r"\(d, d\) or \(N, d, d\) is needed"),
        (lambda: LinearModel(normal(2, 2), normal(3)), r"offsets has shape \(3,\)"),
        (lambda: LinearModel(normal(4, 4), shape=(2, 3)), r"shape \(2, 3\) has 6 numbers, the matrices 4"),
        (lambda: MixtureModel(normal(4), normal(4, 1)), r"\(K, \*event\) is needed"),
        (lambda: MixtureModel(normal(2, 3), normal(2, 4)), r"\(2, 3, 3\) or \(2, 3\) is needed"),
        (lambda: MixtureModel(normal(2, 1), -torch.ones(2, 1)), "has the variance -1; none may be < 0"),
        (lambda: MixtureModel(normal(2, 1), torch.ones(2, 1), torch.tensor([1.0, 0.0])), "positive numbers"),
        (
            lambda: MixtureModel(normal(2, 1), torch.ones(2, 1), classes=torch.tensor([0, 2])),
            "class 1 has no component",
        ),
        (lambda: MixtureModel(normal(2, 1), torch.ones(2, 1), classes=torch.tensor([0])), "one per component"),
        (lambda: MixtureModel(normal(2, 1), torch.ones(2, 1), classes=torch.tensor([-1, 0])), "class -1 is negative"),
        (lambda: MixtureModel.random(components=2, classes=3), "classes is 3 with 2 components"),
        (lambda: MixtureModel.two_mode(separation=-1.0), "separation is -1.0; 0 or more is needed"),
        (lambda: IdealDenoiser(normal(3)), r"\(P, \*event\) is needed"),
        (lambda: IdealDenoiser.random(points=2, classes=4), "classes is 4 with 2 points"),
    ],
)
def test_errors_name_what_is_wrong(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ConfigurationError, match=message):
        build()


@pytest.mark.parametrize("name", ["gaussian", "mixture", "ideal"])
def test_schemes_without_levels_are_refused(name: str) -> None:
    bare = Scheme.create(np.ones(3), np.ones(3), np.arange(3.0))
    with pytest.raises(SchemeError, match="has no noise levels: use a builder"):
        MODELS[name].denoiser(bare)


def test_linear_needs_no_levels() -> None:
    bare = Scheme.create(np.ones(3), np.ones(3), np.arange(3.0))
    assert call(MODELS["linear"].denoiser(bare), normal(2, 5), rows([0, 2])).shape == (2, 5)


def test_labels_are_checked() -> None:
    scheme, labels = SCHEMES["ddim"], torch.tensor([0, 1])
    with pytest.raises(ConfigurationError, match="labels were given, but GaussianModel has no classes"):
        MODELS["gaussian"].denoiser(scheme, labels)
    with pytest.raises(ConfigurationError, match=r"guidance 2\.0 needs a class-conditional model and labels"):
        MODELS["mixture"].denoiser(scheme, None, 2.0)
    with pytest.raises(ConfigurationError, match="must lie in"):
        MODELS["two-mode"].denoiser(scheme, torch.tensor([0, 2]))
    with pytest.raises(ConfigurationError, match="sample 2 has no label: 2 labels were given"):
        call(MODELS["mixture"].denoiser(scheme, labels), normal(1, 5), rows([0], [2]))
