"""DEER, quasi-DEER, ELK and quasi-ELK against independent transcriptions, and their parts one by one."""

from __future__ import annotations

from itertools import pairwise

import attrs
import numpy as np
import pytest
import torch

import paracore
from paracore.engine import Engine
from paracore.errors import CapabilityError, ConfigurationError, DenoiserError
from paracore.request import Outputs, Request, Rows
from paracore.schemes import ddim, ddpm, dpm_solver_pp_2m, flow_euler, flow_heun
from paracore.testing.problems import Counting, exponential_scheme, make_case
from paracore_newton import BlockSampler, finite_differences
from paracore_newton.damped import BlocksFilter, DiagonalFilter, Kalman
from paracore_newton.diagonal import Diagonal, signs
from paracore_newton.exact import Blocks, times
from reference import deer as deer_reference
from reference import elk as elk_reference

PRESETS = ["deer", "quasi-deer", "elk", "quasi-elk"]
SCHEMES = {
    "exponential": lambda: exponential_scheme(9),
    "flow": lambda: flow_euler(8, shift=2.0),
    "ddim": lambda: ddim(8),
    "multistep": lambda: dpm_solver_pp_2m(8, family="flow"),
    "heun": lambda: flow_heun(5),
    "noise": lambda: ddpm(8),
}


def quick(case):
    """All rows in one call: bits may depend on the request, which few tests mind."""
    return case.evaluator(max_batch=None, jvp=True)


def pieces(case):
    """The table, the noise and the network of a case with one sample, for the references."""
    problem = case.problem
    scheme, tape = problem.scheme, problem.tape()
    noise = [tape.row(n) for n in range(scheme.steps)]
    zero = torch.zeros_like(problem.x0[0])
    c = [zero if row is None else row[0] for row in noise]

    def network(node, x):
        rows = Rows(node=torch.tensor([node]), sample=torch.tensor([0]))
        return case.network(x[None], torch.tensor([scheme.time[node]]), rows)[0]

    return network, scheme.a, scheme.b, c


def iterates(sampler, case):
    """``(front, states)`` before the first and after every round: node of row 0, and the rows of the one sample."""
    evaluator, state = quick(case), sampler.start(case.problem)
    seen = [(int(state.at[0]), torch.stack(state.states)[:, 0])]
    while (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        seen.append((int(state.at[0]), torch.stack(state.states)[:, 0]))
    return seen[:-1]  # a finished solve keeps the sample alone


def assert_same(name, case, sampler, advance):
    """Every round's iterate against the reference's, from the same guess."""
    seen = iterates(sampler, case)
    expected = seen[0][1]
    assert len(expected) == case.problem.scheme.steps + 1  # the window spans all nodes
    for before, (front, states) in pairwise(seen):
        expected = advance(expected, before[0])
        scale = float(expected.abs().max())
        assert float((states - expected[front:]).abs().max()) <= 1e-9 * scale, name
    assert len(seen) > 1


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("clip", [None, 0.9])
def test_iterates_are_those_of_the_transcriptions(kind, linear, clip):
    case = make_case(SCHEMES[kind](), batch=1, dim=3, stiffness=0.8, linear=linear, seed=2)
    steps = case.problem.scheme.steps
    table = pieces(case)
    z = torch.stack([signs(5, n, case.problem.x0[0]) for n in range(steps)])
    options = {"window": steps, "tolerance": 0.0, "guess": "copy"}
    quasi = {"seed": 5, "clip": clip}

    if clip is None:
        sampler = paracore.sampler("deer", **options)
        assert_same("deer", case, sampler, lambda x, front: deer_reference.iterate(*table, x))
    sampler = paracore.sampler("quasi-deer", **options, **quasi)
    assert_same("quasi-deer", case, sampler, lambda x, front: deer_reference.iterate(*table, x, z, clip))
    for variance in (1e8, 2.0):
        if clip is None:
            sampler = paracore.sampler("elk", variance=variance, **options)
            advance = lambda x, front, v=variance: elk_reference.iterate(*table, x, v, front=front)  # noqa: E731
            assert_same("elk", case, sampler, advance)
        sampler = paracore.sampler("quasi-elk", variance=variance, **options, **quasi)
        advance = lambda x, front, v=variance: elk_reference.iterate(  # noqa: E731
            *table, x, v, signs=z, clip=clip, front=front
        )
        assert_same("quasi-elk", case, sampler, advance)


def test_the_filter_in_plain_loops_is_the_published_scan():
    """The reference without the exact first row, against the authors' scan elements combined from left to right."""
    rng = np.random.default_rng(0)
    for variance in (1e-2, 1.0, 1e3):
        factors, biases, last = rng.normal(size=(3, 6))
        states = torch.from_numpy(np.concatenate([[0.7], last]))[:, None]

        def network(node, x, factors=factors, biases=biases):
            return factors[node] * x + biases[node]

        a, b, c = np.zeros((6, 1)), np.ones((6, 1)), [torch.zeros(1)] * 6
        filtered = elk_reference.iterate(network, a, b, c, states, variance, exact_first_row=False)[1:, 0].numpy()
        # The authors' first element: prior mean f(x_0), prior covariance 1.
        mean, share = factors[0] * 0.7 + biases[0], 1.0 / (1.0 + variance)
        element = (0.0, mean + share * (last[0] - mean), 1.0 - share, 1.0, 0.0)
        means = [element[1]]
        for n in range(1, 6):
            new = elk_reference.scan_elements(factors[n], biases[n], last[n], variance)
            element = elk_reference.combine(element, new)
            means.append(element[1])
        np.testing.assert_allclose(filtered, means, rtol=1e-11)


# -- what the methods are for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["exponential", "ddim", "multistep"])
def test_on_linear_problems_one_newton_iteration_is_exact(kind):
    case = make_case(SCHEMES[kind](), batch=2, dim=4, stiffness=1.0, linear=True)
    sampler = paracore.sampler("deer", window=9, tolerance=1e-12, guess="copy")
    sampler = attrs.evolve(
        sampler, composition=attrs.evolve(sampler.composition, stopping=paracore.parts.AbsoluteChange())
    )
    result = paracore.solve(sampler, case.problem, quick(case))
    torch.testing.assert_close(result.sample, case.reference(), rtol=1e-10, atol=1e-10)
    assert result.total_rounds == 2  # one finds the solution, one sees that it is one


def test_with_networks_that_act_on_each_number_alone_quasi_deer_is_deer():
    case = make_case(flow_euler(20), batch=2, dim=5)
    case = attrs.evolve(case, network=lambda x, t, rows: torch.sin(2 * x) + torch.cos(t)[:, None])
    for tolerance in (1e-2, 1e-4):
        made = {
            name: paracore.solve(paracore.sampler(name, window=20, tolerance=tolerance), case.problem, quick(case))
            for name in ("deer", "quasi-deer", "elk", "quasi-elk")
        }
        np.testing.assert_allclose(made["elk"].rounds, made["deer"].rounds, atol=1)
        for exact, probed in (("deer", "quasi-deer"), ("elk", "quasi-elk")):
            np.testing.assert_array_equal(made[probed].rounds, made[exact].rounds)
            torch.testing.assert_close(made[probed].sample, made[exact].sample, rtol=1e-12, atol=1e-12)
    # the filter's default variance of 1e8 is a damping that shows until the solve is tight
    torch.testing.assert_close(made["elk"].sample, made["deer"].sample, rtol=1e-6, atol=1e-6)


def test_newton_needs_fewer_rounds_than_picard_where_the_window_is_long():
    case = make_case(exponential_scheme(40, end=2.0), batch=3, dim=4, stiffness=1.5, seed=1)
    rounds = {
        name: paracore.solve(paracore.sampler(name, window=40, tolerance=1e-3), case.problem, quick(case)).rounds.mean()
        for name in ("picard", "deer")
    }
    assert rounds["deer"] < 0.6 * rounds["picard"]


def test_strong_damping_keeps_the_iterate_where_it_was():
    case = make_case(exponential_scheme(8), batch=1, dim=3, stiffness=1.0)
    for name in ("elk", "quasi-elk"):
        sampler = paracore.sampler(name, window=8, tolerance=0.0, variance=1e-9, guess="copy")
        (_, first), (front, second), *_ = iterates(sampler, case)
        assert front == 1
        torch.testing.assert_close(second[1:], first[front + 1 :], rtol=1e-6, atol=1e-6)


# -- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deer", "elk"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_blocks_cost_one_evaluation_per_number_and_all_are_counted(name, warmup):
    case = make_case(flow_euler(15), batch=3, dim=4, stiffness=2.0)
    counting = Counting(quick(case))
    sampler = paracore.sampler(name, window=5, tolerance=1e-2)
    sampler = attrs.evolve(sampler, composition=attrs.evolve(sampler.composition, warmup=warmup))
    result = paracore.solve(sampler, case.problem, counting)
    asked = np.zeros(3, dtype=int)
    for _, samples in counting.requests:
        asked += np.bincount(samples, minlength=3)
    np.testing.assert_array_equal(result.evaluations, asked)
    assert result.largest_request == max(len(nodes) for nodes, _ in counting.requests)
    assert result.total_rounds == len(counting.requests)
    assert result.network_calls == counting.calls == 2 * int(asked.sum())  # a product costs as much as a value
    rows = np.bincount(counting.requests[warmup][1], minlength=3)
    assert (rows == 1 + 4 * 4).all()
    if warmup:
        assert counting.requests[0][0] == [0, 0, 0]


def test_samples_of_one_number_cost_one_product_a_node():
    case = make_case(flow_euler(10), batch=2, dim=1)
    result = paracore.solve(paracore.sampler("deer", window=4), case.problem, quick(case))
    quasi = paracore.solve(paracore.sampler("quasi-deer", window=4), case.problem, quick(case))
    torch.testing.assert_close(result.sample, quasi.sample)
    np.testing.assert_array_equal(result.evaluations, quasi.evaluations)


# -- the parts ------------------------------------------------------------------------------------------------------


def test_signs_are_fixed_numbers():
    like = torch.zeros(4, 5, dtype=torch.float32)
    assert signs(0, 0, like).shape == like.shape
    assert signs(0, 0, like).dtype == like.dtype
    assert set(signs(3, 7, torch.zeros(1000)).tolist()) == {-1.0, 1.0}
    # From a plain-Python splitmix64: any device and version must give the same.
    for seed, node in ((0, 0), (1, 0), (5, 48)):
        assert signs(seed, node, torch.zeros(16)).tolist() == [_sign(seed, node, i) for i in range(16)]


def _sign(seed, node, index):
    word = 2**64 - 1

    def mixed(value):
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & word
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & word
        return value ^ (value >> 31)

    golden = 0x9E3779B97F4A7C15
    key = mixed((golden * (seed + 1) & word) ^ (node + 1))
    return -1.0 if mixed((index * golden + key) & word) >> 63 else 1.0


def test_signs_look_random():
    drawn = torch.stack([signs(seed, node, torch.zeros(2000)) for seed in range(4) for node in range(10)])
    assert float(drawn.mean(dim=1).abs().max()) < 5 / 2000**0.5
    product = drawn @ drawn.mT / 2000
    assert float((product - torch.eye(len(drawn))).abs().max()) < 5 / 2000**0.5
    assert abs(float((drawn[:, 1:] * drawn[:, :-1]).mean())) < 0.02


def test_products_by_columns():
    block, v = torch.randn(3, 6, 6, dtype=torch.float64), torch.randn(3, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(times(block, v).flatten(1), torch.einsum("bij,bj->bi", block, v.flatten(1)))


def in_form(sampler, form):
    """The sampler with another held form."""
    composition = attrs.evolve(sampler.composition, output_form=form)
    return attrs.evolve(sampler, composition=composition) if isinstance(sampler, BlockSampler) else Engine(composition)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("form", ["data", "noise", "drift"])
def test_where_the_derivative_is_known_the_held_form_does_not_matter(name, form):
    case = make_case(ddim(8), batch=1, dim=3)
    options = {"variance": 10.0} if "elk" in name else {}
    sampler = paracore.sampler(name, window=8, tolerance=0.0, guess="copy", **options)
    expected, seen = iterates(sampler, case), iterates(in_form(sampler, form), case)
    for (_, first), (_, second) in zip(expected[:3], seen[:3], strict=True):
        common = min(len(first), len(second))
        torch.testing.assert_close(first[-common:], second[-common:], rtol=1e-8, atol=1e-8)


# -- wild networks --------------------------------------------------------------------------------------------------


class BadProducts:
    """Values as they are; products of nonsense."""

    capabilities = frozenset({"jvp"})

    def __init__(self, case, value, max_batch=None):
        self.inner, self.value = case.evaluator(max_batch, jvp=True), value

    def evaluate(self, request: Request) -> Outputs:
        outputs = self.inner.evaluate(request)
        if outputs.jvps is None:
            return outputs
        bad = outputs.jvps.clone()
        bad[request.nodes % 2 == 1] = self.value
        return attrs.evolve(outputs, jvps=bad)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("value", [float("nan"), -float("inf"), 1e300, 1e30])
@pytest.mark.parametrize("tolerance", [0.0, 1e-2])
def test_wild_products_are_contained(name, value, tolerance):
    case = make_case(flow_euler(6), batch=2, dim=2)
    options = {"variance": 1.0} if "elk" in name else {}
    sampler = paracore.sampler(name, window=4, tolerance=tolerance, **options)
    result = paracore.solve(sampler, case.problem, BadProducts(case, value, None if tolerance else 1))
    assert result.ok
    assert (result.rounds <= 6).all()
    if tolerance == 0:
        assert torch.equal(result.sample, case.reference())
    elif value != 1e30:  # finite nonsense is believed: a network that says so is that stiff
        torch.testing.assert_close(result.sample, case.reference(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_a_product_that_is_not_finite_leaves_its_node_held(name):
    """With all products NaN the methods are Picard iterations, round by round."""
    case = make_case(flow_euler(12), batch=1, dim=3)

    class NoProducts(BadProducts):
        def evaluate(self, request):
            outputs = self.inner.evaluate(request)
            return attrs.evolve(outputs, jvps=torch.full_like(outputs.values, torch.nan))

    result = paracore.solve(paracore.sampler(name, window=6), case.problem, NoProducts(case, 0), trajectory=True)
    picard = paracore.solve(paracore.sampler("picard", window=6), case.problem, quick(case), trajectory=True)
    torch.testing.assert_close(result.trajectory, picard.trajectory)
    np.testing.assert_array_equal(result.rounds, picard.rounds)


# -- finite differences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_differences_are_products_to_half_the_digits(dtype):
    case = make_case(flow_euler(6), batch=2, dim=4, dtype=dtype)
    evaluator, exact = finite_differences(case.evaluator()), case.evaluator(jvp=True)
    request = Request(
        nodes=torch.tensor([0, 3, 5]),
        samples=torch.tensor([0, 1, 1]),
        states=torch.randn(3, 4, dtype=torch.float64).to(dtype),
        times=torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64),
        tangents=torch.randn(3, 4, dtype=torch.float64).to(dtype),
    )
    ours, theirs = evaluator.evaluate(request), exact.evaluate(request)
    assert torch.equal(ours.values, theirs.values)
    assert ours.jvps.dtype == dtype
    error = (ours.jvps - theirs.jvps).double().norm() / theirs.jvps.double().norm()
    assert float(error) < 20 * torch.finfo(dtype).eps ** 0.5
    assert ours.calls == 6
    still = evaluator.evaluate(attrs.evolve(request, tangents=torch.zeros_like(request.states)))
    assert not still.jvps.any()
    plain = evaluator.evaluate(attrs.evolve(request, tangents=None))
    assert plain.jvps is None
    assert plain.calls == 3


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run_on_differences(name):
    case = make_case(flow_euler(15), batch=2, dim=3)
    evaluator = paracore.registry.find("evaluator", "finite-differences").make(case.network, max_batch=None)
    sampler = paracore.sampler(name, window=5)
    result = paracore.solve(sampler, case.problem, evaluator)
    exact = paracore.solve(sampler, case.problem, quick(case))
    torch.testing.assert_close(result.sample, exact.sample, rtol=1e-5, atol=1e-5)
    assert result.total_rounds == exact.total_rounds
    assert result.network_calls == exact.network_calls


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_an_evaluator_without_products_is_refused(name):
    case = make_case(flow_euler(4), batch=1)
    with pytest.raises(CapabilityError, match=r"needs jvp; the evaluator Batched offers .*jvp=True"):
        paracore.solve(paracore.sampler(name), case.problem, case.evaluator())


@pytest.mark.parametrize("name", ["deer", "elk"])
def test_large_samples_are_refused_naming_the_limit(name, tmp_path):
    case = make_case(flow_euler(4), batch=1, dim=20)
    message = rf"{name}: samples of 20 numbers, more than limit=16; .*raise limit.*'quasi-deer'"
    with pytest.raises(ConfigurationError, match=message):
        paracore.sampler(name).start(case.problem)
    sampler = paracore.sampler(name, limit=20)
    state = sampler.start(case.problem)
    assert paracore.solve(sampler, case.problem, quick(case)).ok
    with pytest.raises(ConfigurationError, match=message):
        paracore.sampler(name).restore(case.problem, sampler.plain(state))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: paracore.sampler("deer", limit=0), "BlockSampler: limit is 0; an integer of at least 1 is needed"),
        (lambda: Diagonal(seed=-1), "Diagonal: seed is -1; an integer of at least 0 is needed"),
        (lambda: Diagonal(clip=-0.5), "Diagonal: clip is -0.5; a number at least 0.0 is needed"),
        (lambda: paracore.sampler("quasi-deer", clip=float("nan")), "Diagonal: clip is nan; a number at least 0.0"),
        (lambda: DiagonalFilter(seed=1.5), "DiagonalFilter: seed is 1.5; an integer of at least 0 is needed"),
        (lambda: DiagonalFilter(clip="tight"), "DiagonalFilter: clip is 'tight'; a number at least 0.0 is needed"),
        (lambda: Kalman(0.0), "Kalman: variance is 0.0; a number at least 1e-12 is needed"),
        (lambda: paracore.sampler("elk", variance=-1.0), "Kalman: variance is -1.0; a number at least 1e-12 is needed"),
        (
            lambda: BlockSampler(paracore.sampler("picard")),
            r"composition with the jacobian NoJacobian\(\); .*Blocks\(\)",
        ),
        (lambda: BlockSampler(3), r"BlockSampler: composition is 3; .*Blocks\(\)"),
        (lambda: finite_differences(3), "finite differences: int is no evaluator; pass one"),
        (
            lambda: finite_differences(make_case(flow_euler(2)).evaluator(), 2.0),
            "finite differences: step is 2.0; a number between 0 and 1, or None, is needed",
        ),
        (lambda: paracore.sampler("deer", stopping="change"), "'deer' is no composition; it has no part 'stopping'"),
    ],
)
def test_messages_of_wrong_options(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize("what", ["none", "short", "shape", "dtype"])
def test_evaluators_that_answer_something_else_are_named(what):
    case = make_case(flow_euler(6), batch=2, dim=3)
    sampler = paracore.sampler("deer", window=3)
    state = sampler.start(case.problem)
    request = sampler.request(state)
    good = case.evaluator(jvp=True).evaluate(request)
    bad = {
        "none": lambda: Outputs(good.values),
        "short": lambda: Outputs(good.values[:-1], good.jvps[:-1]),
        "shape": lambda: Outputs(good.values, good.jvps[:, :-1]),
        "dtype": lambda: Outputs(good.values.float(), good.jvps),
    }[what]()
    message = {"none": "no products for 14 rows", "dtype": "float32"}.get(what, "13 values|14 values")
    with pytest.raises(DenoiserError, match=message):
        sampler.advance(state, bad)


def test_an_evaluator_that_loses_rows_of_differences_is_named():
    case = make_case(flow_euler(6), batch=1, dim=3)

    class Loses:
        capabilities = frozenset()

        def evaluate(self, request):
            return Outputs(case.evaluator().evaluate(request).values[:-1])

    with pytest.raises(DenoiserError, match="the evaluator returned 5 rows; 6 are needed"):
        paracore.solve(paracore.sampler("quasi-deer", window=3), case.problem, finite_differences(Loses()))


def test_alone_in_an_engine_the_exact_parts_have_no_blocks_and_hold_outputs():
    case = make_case(flow_euler(10), batch=1, dim=3)
    for part in (Blocks(), BlocksFilter()):
        result = paracore.solve(paracore.compose(jacobian=part, window=4), case.problem, case.evaluator())
        picard = paracore.solve(paracore.compose(window=4), case.problem, case.evaluator())
        assert torch.equal(result.sample, picard.sample)
