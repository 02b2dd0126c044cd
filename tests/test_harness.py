"""The harness: it counts what it says, and holds everything against the sequential sampler."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

import paracore
import stub_plugin
from paracore.errors import CapabilityError, ConfigurationError, StrategyError
from paracore.harness import compare, relative_error
from paracore.sequential import sequential, skipping
from paracore_analytic import GaussianModel

STEPS = 24


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def task(scheme=None, count=3, **options):
    """A problem of ``count`` samples with their own classes and generators, and its evaluator."""
    scheme = scheme or paracore.schemes.flow_euler(STEPS)
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    model = stub_plugin.StubModel(**options)
    x0 = torch.stack([torch.randn(model.shape, generator=g) for g in generators])
    problem = paracore.Problem(scheme, x0, generators)
    evaluator = paracore.evaluators.batched(model.denoiser(scheme, torch.arange(count) % 3, 2.0), max_batch=1)
    return problem, evaluator


def parallel(**options):
    return paracore.compose(**{"window": 4, "tolerance": 0.01, **options})


class Counter:
    """Counts what goes through."""

    def __init__(self, inner):
        self.inner, self.requests = inner, []

    @property
    def capabilities(self):
        return self.inner.capabilities

    def evaluate(self, request):
        self.requests.append(request)
        return self.inner.evaluate(request)


# -- skipping -----------------------------------------------------------------------------------------------------

SCHEMES = [
    paracore.schemes.flow_euler(STEPS),
    paracore.schemes.flow_heun(12),
    paracore.schemes.ddim(STEPS, eta=0.7),
    paracore.schemes.ddpm(STEPS),
    paracore.schemes.edm_euler(STEPS),
    paracore.schemes.dpm_solver_pp_2m(STEPS),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
def test_skipping_nothing_is_sequential(scheme):
    problem, evaluator = task(scheme)
    assert torch.equal(skipping(problem, evaluator, scheme.steps), sequential(problem, evaluator))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: s.name)
@pytest.mark.parametrize("evaluations", [1, 2, 5, 7])
def test_skipping_evaluates_what_it_says(scheme, evaluations):
    problem, evaluator = task(scheme)
    counter = Counter(evaluator)
    sample = skipping(problem, counter, evaluations)
    assert torch.isfinite(sample).all()
    nodes = [int(r.nodes[0]) for r in counter.requests]
    assert len(nodes) == evaluations
    assert nodes[0] == 0
    gaps = [b - a for a, b in zip(nodes, [*nodes[1:], scheme.steps], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_skipping_is_second_order():
    """Halving the spacing quarters the distance to the full grid."""
    scheme = paracore.schemes.flow_euler(960)
    model = GaussianModel.random()
    problem = paracore.Problem(
        scheme, torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0)).double()
    )
    evaluator = paracore.evaluators.batched(model.denoiser(scheme))
    full = sequential(problem, evaluator)
    errors = [relative_error(skipping(problem, evaluator, e), full)[0] for e in (30, 60, 120)]
    for coarse, fine in itertools.pairwise(errors):
        assert 3.0 < coarse / fine < 5.5


@pytest.mark.parametrize("evaluations", [0, -1, STEPS + 1, 2.5, True])
def test_skipping_refuses(evaluations):
    with pytest.raises(ConfigurationError, match=r"evaluations is .*; an integer from 1 to 24 is needed"):
        skipping(*task(), evaluations)


# -- compare ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
def test_rows_say_what_happened(alone):
    problem, evaluator = task()
    counter = Counter(evaluator)
    comparison = compare({"p": parallel()}, problem, counter, one_at_a_time=alone, baseline=False)
    first, row = comparison.rows
    assert comparison.ok
    assert (first.sampler, first.rounds, first.speedup, first.work) == ("sequential", (24, 24, 24), 1.0, 1.0)
    assert first.errors == (0.0, 0.0, 0.0)
    assert first.network_calls == 2 * 3 * STEPS
    assert row.window == 4
    requests = counter.requests[1 + STEPS * (3 if alone else 1) :]
    assert sum(len(r) for r in requests) == sum(row.evaluations)
    assert row.network_calls == 2 * sum(row.evaluations)
    assert row.largest_request == max(len(r) for r in requests)
    solves = 3 if alone else 1
    assert row.dependent_rounds == pytest.approx(len(requests) / solves)
    assert row.speedup == pytest.approx(STEPS * solves / len(requests))
    assert max(row.rounds) <= row.dependent_rounds or alone
    reference = sequential(problem, evaluator)
    assert row.errors == pytest.approx(relative_error(row.samples, reference))
    assert 0 < max(row.errors) < 0.1


def test_one_at_a_time_keeps_each_samples_class_and_noise():
    problem, evaluator = task(paracore.schemes.ddpm(STEPS))
    comparison = compare({"p": parallel(tolerance=0.0)}, problem, evaluator, one_at_a_time=True)
    reference = sequential(problem, evaluator)
    assert torch.equal(comparison.rows[0].samples, reference)
    assert torch.equal(comparison.rows[1].samples, reference)
    assert comparison.rows[1].errors == (0.0, 0.0, 0.0)


def test_one_generator_for_the_batch_cannot_be_split():
    problem, evaluator = task(paracore.schemes.ddpm(STEPS))
    shared = paracore.Problem(problem.scheme, problem.x0, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigurationError, match="one generator per sample"):
        compare({"p": parallel()}, shared, evaluator, one_at_a_time=True)
    assert compare({"p": parallel()}, shared, evaluator).ok


def test_the_baseline_makes_as_many_evaluations_in_a_row():
    problem, evaluator = task()
    row = compare({"p": parallel()}, problem, evaluator, one_at_a_time=True).rows[1]
    assert row.baseline_evaluations == round(row.dependent_rounds)
    cheap = skipping(problem, evaluator, row.baseline_evaluations)
    assert row.baseline_errors == pytest.approx(relative_error(cheap, sequential(problem, evaluator)), rel=1e-4)


def test_several_problems_and_repeated_labels():
    cases = [task(count=2), task(count=3)]
    samplers = [("p", parallel(window=w)) for w in (2, 4)]
    comparison = compare(samplers, [p for p, _ in cases], [e for _, e in cases], repeats=3)
    assert comparison.samples == 5
    assert [(r.sampler, r.window) for r in comparison.rows] == [("sequential", 1), ("p", 2), ("p", 4)]
    assert all(len(r.errors) == len(r.status) == 5 for r in comparison.rows)
    assert all(len(r.wall_time) == 3 for r in comparison.rows)


def test_failures_are_shown_not_averaged():
    problem, evaluator = task(trouble="nan")
    comparison = compare({"p": parallel()}, problem, evaluator)
    row = comparison.rows[1]
    assert not comparison.ok
    assert row.failed == 3
    assert row.status == ("nonfinite-output",) * 3
    assert row.errors == (None, None, None)
    assert row.speedup is None
    assert row.baseline_evaluations is None
    json.dumps(comparison.as_dict(), allow_nan=False)


def test_a_strategy_that_breaks_its_contract_is_noted():
    class Broken(type(parallel())):
        def advance(self, state, outputs):
            raise StrategyError("residual 'mine' returned a string")

    comparison = compare({"bad": Broken(parallel().composition), "p": parallel()}, *task())
    _, bad, good = comparison.rows
    assert bad.failure == "residual 'mine' returned a string"
    assert bad.failed == 3
    assert good.failed == 0
    assert not comparison.ok


def test_as_dict_and_table():
    comparison = compare({"p": parallel()}, *task())
    data = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert (data["steps"], data["samples"], data["scheme"]) == (STEPS, 3, "flow_euler")
    row = data["rows"][1]
    assert row["error_mean"] == pytest.approx(sum(row["errors"]) / 3)
    assert row["error_max"] == max(row["errors"])
    assert row["error_mean"] <= row["error_p95"] <= row["error_max"]
    assert row["rounds_mean"] == pytest.approx(sum(row["rounds"]) / 3)
    assert row["evaluations_over_steps"] == pytest.approx(sum(row["evaluations"]) / 3 / STEPS)
    assert row["same_rounds_sequential"]["evaluations"] == round(row["dependent_rounds"])
    assert row["wall_time_s"] > 0
    assert "window=4" in row["settings"]

    from rich.console import Console

    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison.table())
    console.file.close()
    text = console.export_text()
    for word in ("sampler", "speed-up", "evals/N", "p95", "same rounds", "converged", "nothing subtracted"):
        assert word in text


def test_progress_is_told():
    told = []
    compare({"a": parallel(), "b": parallel()}, *task(count=1), progress=lambda *what: told.append(what))
    assert told == [("sequential", 0, 3), ("a", 1, 3), ("b", 2, 3), ("done", 3, 3)]


def test_bad_settings_are_refused_before_anything_runs():
    problem, evaluator = task()
    counter = Counter(evaluator)
    with pytest.raises(ConfigurationError, match="nothing to compare"):
        compare({}, problem, counter)
    with pytest.raises(ConfigurationError, match="repeats is 0"):
        compare({"p": parallel()}, problem, counter, repeats=0)
    with pytest.raises(ConfigurationError, match="2 evaluators for 1 problems"):
        compare({"p": parallel()}, problem, [counter, counter])
    with pytest.raises(ConfigurationError, match=r"the problems have \[24, 30\] steps"):
        compare({"p": parallel()}, [problem, task(paracore.schemes.flow_euler(30))[0]], counter)
    with pytest.raises(ConfigurationError, match="'p' is str; a Sampler is needed"):
        compare({"p": "picard"}, problem, counter)
    with pytest.raises(ConfigurationError, match="cannot cover 24 steps"):
        compare({"a": parallel(), "p": parallel(stopping="fixed-rounds(rounds=2)")}, problem, counter)

    class Needy(type(parallel())):
        needs = frozenset({"jvp"})

    with pytest.raises(CapabilityError, match="sampler 'p' needs jvp, which the evaluator lacks"):
        compare({"p": Needy(parallel().composition)}, problem, counter)
    assert counter.requests == []


def test_relative_error():
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert relative_error(reference * 1.1, reference) == pytest.approx((0.1, 0.1))
    assert relative_error(reference, reference) == (0.0, 0.0)
    assert math.isnan(relative_error(reference * float("nan"), reference)[0])
