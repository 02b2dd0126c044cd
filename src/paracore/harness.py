"""The one harness that every published number comes from.

It counts dependent rounds, not hopes: against the sequential sampler of the same scheme, noise and evaluator, with
wall time from which nothing is subtracted, and next to the cheap rival: fewer sequential steps of second order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch

from paracore.comparison import Comparison, Row
from paracore.errors import CapabilityError, ConfigurationError, StrategyError
from paracore.problem import Problem
from paracore.request import Evaluator, Outputs, Request
from paracore.result import Result
from paracore.sampler import Sampler
from paracore.sequential import sequential, skipping
from paracore.solve import solve

__all__ = ["Bench", "Comparison", "Progress", "Row", "compare", "relative_error"]

Progress = Callable[[str, int, int], None]
"""Told ``(what runs, runs done, runs in all)`` before each run, and at the end."""


def compare(
    samplers: Mapping[str, Sampler] | Iterable[tuple[str, Sampler]],
    problem: Problem | Sequence[Problem],
    evaluator: Evaluator | Sequence[Evaluator],
    *,
    one_at_a_time: bool = False,
    repeats: int = 1,
    baseline: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Run samplers on the same problems and hold each sample against the sequential sampler's.

    Args:
        samplers: by label; or pairs, where labels may repeat (one sampler at several windows).
        problem: one or more, all with the same number of steps; their samples are pooled.
        evaluator: one for all problems, or one for each.
        one_at_a_time: solve every sample alone, as latency is measured; else each problem is one batch.
        repeats: how often each run is timed; answers are taken from the first.
        baseline: also sample sequentially with as many evaluations as each row made rounds.
        progress: told of each run.

    Returns:
        The rows: the sequential sampler first.

    Raises:
        ConfigurationError: for settings that cannot work, before anything is run.
        DenoiserError: if the network broke its contract. A strategy that does is noted in its row.
    """
    pairs = list(samplers.items() if isinstance(samplers, Mapping) else samplers)
    problems = [problem] if isinstance(problem, Problem) else list(problem)
    evaluators = list(evaluator) if isinstance(evaluator, Sequence) else [evaluator] * len(problems)
    _check(pairs, problems, evaluators, repeats)
    cases: list[Case] = []
    for p, e in zip(problems, evaluators, strict=True):
        cases += _split(p, e) if one_at_a_time else [(p, e)]
    for _, sampler in pairs:
        for case, _ in cases[:1] if one_at_a_time else cases:
            sampler.start(case)
    steps, total = problems[0].scheme.steps, 1 + len(pairs)
    tell = progress or (lambda label, done, of: None)

    tell("sequential", 0, total)
    reference, row = _reference(cases, repeats)
    rows, cheap = [row], _Cheap(cases, reference)
    for done, (label, sampler) in enumerate(pairs, start=1):
        tell(label, done, total)
        row = _row(label, sampler, cases, reference, repeats)
        if baseline and row.dependent_rounds is not None:
            count = min(max(round(row.dependent_rounds), 1), steps)
            row = attrs.evolve(row, baseline_evaluations=count, baseline_errors=cheap.errors(count))
        rows.append(row)
    tell("done", total, total)
    return Comparison(
        rows=tuple(rows),
        steps=steps,
        scheme=problems[0].scheme.name,
        samples=len(reference),
        one_at_a_time=one_at_a_time,
        repeats=repeats,
    )


class Bench:
    """Problems and their sequential samples, for rows that are measured one by one (:func:`compare` makes them all).

    Attributes:
        steps: N.
        reference: ``(B, *event)`` the sequential samples.
        sequential: their row.
    """

    def __init__(
        self, problem: Problem, evaluator: Evaluator, *, one_at_a_time: bool = False, repeats: int = 1
    ) -> None:
        self._cases = _split(problem, evaluator) if one_at_a_time else [(problem, evaluator)]
        self._repeats = repeats
        self.steps = problem.scheme.steps
        self.reference, self.sequential = _reference(self._cases, repeats)

    def measure(self, label: str, sampler: Sampler) -> Row:
        """One sampler's row, without the rival's figures.

        Raises:
            ConfigurationError: if the sampler refuses the problem, or the evaluator lacks what it needs.
            DenoiserError: if the network broke its contract.
        """
        _check([(label, sampler)], [p for p, _ in self._cases], [e for _, e in self._cases], self._repeats)
        sampler.start(self._cases[0][0])
        return _row(label, sampler, self._cases, self.reference, self._repeats)

    def fewer(self, evaluations: int) -> torch.Tensor:
        """``(B, *event)`` samples of the sequential rival with that many evaluations: :func:`~paracore.skipping`."""
        return torch.cat([skipping(problem, evaluator, evaluations) for problem, evaluator in self._cases])


def relative_error(samples: torch.Tensor, reference: torch.Tensor) -> tuple[float, ...]:
    """Root-mean-square distance of each sample to its reference, over the reference's root mean square."""
    samples, reference = samples.double().flatten(1), reference.double().flatten(1)
    scale = reference.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    return tuple(float(v) for v in (samples - reference).norm(dim=1) / scale)


@attrs.frozen
class _OneSample:
    """An evaluator's view of one sample of a batch: its own labels and conditions, asked for alone."""

    inner: Evaluator
    sample: int

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities

    def evaluate(self, request: Request) -> Outputs:
        return self.inner.evaluate(attrs.evolve(request, samples=request.samples + self.sample))


@attrs.define
class _Counted:
    """Counts what no result counts: raw network rows, the largest request, Jacobian-vector products."""

    inner: Evaluator
    calls: int = 0
    largest: int = 0
    jvps: int = 0

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities

    def evaluate(self, request: Request) -> Outputs:
        outputs = self.inner.evaluate(request)
        self.calls += outputs.calls
        self.largest = max(self.largest, len(request))
        self.jvps += 0 if request.tangents is None else len(request)
        return outputs


Case = tuple[Problem, Evaluator]


def _split(problem: Problem, evaluator: Evaluator) -> list[Case]:
    generators: list[Any] = [None] * problem.batch
    if problem.scheme.stochastic:
        if isinstance(problem.generator, torch.Generator):
            if problem.batch > 1:
                raise ConfigurationError(
                    "one generator draws the noise of the whole batch, so its samples cannot be solved one at a time; "
                    "give the problem one generator per sample"
                )
            generators = [problem.generator]
        else:
            generators = [[g] for g in problem.generator or ()]
    cases: list[Case] = []
    for i in range(problem.batch):
        alone = attrs.evolve(problem, x0=problem.x0[i : i + 1], generator=generators[i])
        cases.append((alone, _OneSample(evaluator, i)))
    return cases


def _check(
    pairs: list[tuple[str, Sampler]], problems: list[Problem], evaluators: list[Evaluator], repeats: int
) -> None:
    if not pairs or not problems:
        raise ConfigurationError("nothing to compare: at least one sampler and one problem are needed")
    if len(evaluators) != len(problems):
        raise ConfigurationError(f"{len(evaluators)} evaluators for {len(problems)} problems; pass one, or one each")
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ConfigurationError(f"repeats is {repeats!r}; an integer of at least 1 is needed")
    steps = sorted({p.scheme.steps for p in problems})
    if len(steps) > 1:
        raise ConfigurationError(f"the problems have {steps} steps; speed-ups are comparable at one number only")
    for label, sampler in pairs:
        if not isinstance(sampler, Sampler):
            raise ConfigurationError(f"{label!r} is {type(sampler).__name__}; a Sampler is needed")
        missing = sampler.needs - frozenset.intersection(*(frozenset(e.capabilities) for e in evaluators))
        if missing:
            raise CapabilityError(f"sampler {label!r} needs {', '.join(sorted(missing))}, which the evaluator lacks")


def _timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The answer and the seconds until the device really had it."""
    _wait(device)
    began = time.perf_counter()
    answer = run()
    _wait(device)
    return answer, time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _reference(cases: list[Case], repeats: int) -> tuple[torch.Tensor, Row]:
    found: list[torch.Tensor] = []
    walls, calls, largest = [], 0, 0
    problem, evaluator = cases[0]
    sampler_steps = problem.scheme.steps
    skipping(problem, evaluator, 1)  # the first call to a network is slow; it is nobody's time
    for repeat in range(repeats):
        wall = 0.0
        for problem, evaluator in cases:
            counted = _Counted(evaluator)
            sample, seconds = _timed(
                lambda problem=problem, counted=counted: sequential(problem, counted),  # type: ignore[misc]
                problem.x0.device,
            )
            wall += seconds
            if repeat == 0:
                found.append(sample)
                calls, largest = calls + counted.calls, max(largest, counted.largest)
        walls.append(wall)
    samples = torch.cat(found)
    finite = torch.isfinite(samples).flatten(1).all(dim=1).tolist()
    count = len(samples)
    return samples, Row(
        sampler="sequential",
        window=1,
        steps=sampler_steps,
        rounds=(sampler_steps,) * count,
        dependent_rounds=float(sampler_steps),
        evaluations=(sampler_steps,) * count,
        network_calls=calls,
        largest_request=largest,
        wall_time=tuple(walls),
        errors=tuple(0.0 if ok else None for ok in finite),
        status=tuple("exact" if ok else "nonfinite" for ok in finite),
        samples=samples,
    )


def _row(label: str, sampler: Sampler, cases: list[Case], reference: torch.Tensor, repeats: int) -> Row:
    results: list[Result] = []
    walls, failure, jvps = [], None, 0
    try:
        for repeat in range(repeats):
            wall = 0.0
            for problem, evaluator in cases:
                counted = _Counted(evaluator)
                result, seconds = _timed(
                    lambda problem=problem, counted=counted: solve(  # type: ignore[misc]
                        sampler, problem, counted, raise_on_failure=False
                    ),
                    problem.x0.device,
                )
                wall += seconds
                if repeat == 0:
                    results.append(result)
                    jvps += counted.jvps
            walls.append(wall)
    except StrategyError as error:
        failure = str(error)
    composition = getattr(sampler, "composition", None)
    window = getattr(composition if composition is not None else sampler, "window", None)
    steps, count = cases[0][0].scheme.steps, len(reference)
    if failure is not None:
        return Row(sampler=label, window=window, steps=steps, status=("strategy-error",) * count, failure=failure)
    samples = torch.cat([r.sample for r in results])
    status = [s for r in results for s in r.status]
    errors = relative_error(samples, reference)
    rounds = [r.total_rounds if len(r.status) == 1 else int(n) for r in results for n in r.rounds]
    ended = [r.total_rounds for r in results if r.ok]
    return Row(
        sampler=label,
        window=window,
        steps=steps,
        rounds=tuple(rounds),
        dependent_rounds=float(np.mean(ended)) if ended else None,
        evaluations=tuple(int(n) for r in results for n in r.evaluations),
        network_calls=sum(r.network_calls for r in results),
        jvps=jvps,
        largest_request=max(r.largest_request for r in results),
        wall_time=tuple(walls),
        errors=tuple(e if s > 0 and np.isfinite(e) else None for e, s in zip(errors, status, strict=True)),
        status=tuple(s.name.lower().replace("_", "-") for s in status),
        settings=repr(composition) if composition is not None else repr(sampler),
        samples=samples,
    )


@attrs.define
class _Cheap:
    """Errors of sequential sampling with fewer evaluations, each number of them run once."""

    cases: list[Case]
    reference: torch.Tensor
    known: dict[int, tuple[float | None, ...]] = attrs.field(factory=dict)

    def errors(self, count: int) -> tuple[float | None, ...]:
        if count not in self.known:
            samples = torch.cat([skipping(problem, evaluator, count) for problem, evaluator in self.cases])
            errors = relative_error(samples, self.reference)
            self.known[count] = tuple(e if np.isfinite(e) else None for e in errors)
        return self.known[count]
