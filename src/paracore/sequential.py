"""The reference: the sequential sampler, one evaluation after the other. Every parallel answer is held against it."""

from __future__ import annotations

import numpy as np
import torch

from paracore.errors import ConfigurationError
from paracore.problem import Problem
from paracore.request import Evaluator, Request

__all__ = ["sequential", "skipping"]


@torch.no_grad()
def sequential(problem: Problem, evaluator: Evaluator, *, trajectory: bool = False) -> torch.Tensor:
    """Run the scheme step by step.

    Args:
        problem: what to sample.
        evaluator: where to evaluate; each step is one request of B rows, in sample order.
        trajectory: return all states.

    Returns:
        The sample ``(B, *event)``, or all states ``(N + 1, B, *event)``.
    """
    scheme, tape = problem.scheme, problem.tape()
    states, outputs = [problem.x0.detach().clone()], [torch.empty(0)] * 0
    kept = [states[0]]
    for node in range(scheme.steps):
        outputs = [_evaluate(problem, evaluator, node, states[0]), *outputs][: scheme.memory + 1]
        states = [scheme.step(node, states, outputs, tape.row(node)), *states][: scheme.memory + 1]
        tape.free(node + 1)
        if trajectory:
            kept.append(states[0])
    return torch.stack(kept) if trajectory else states[0]


@torch.no_grad()
def skipping(problem: Problem, evaluator: Evaluator, evaluations: int) -> torch.Tensor:
    """The honest rival of a parallel sampler: the same grid, sequentially, with fewer evaluations.

    Evaluates at evenly spaced nodes (node 0 first); between them the network's output is extrapolated linearly in the
    scheme's time from the newest two evaluations (held before there are two): Adams-Bashforth of order 2 with the
    grid's own steps and noise. With ``evaluations = N`` it is :func:`sequential`, bit for bit.

    Args:
        problem: what to sample.
        evaluator: where to evaluate; each evaluation is one request of B rows.
        evaluations: how many, 1 to N.

    Returns:
        The sample ``(B, *event)``.

    Raises:
        ConfigurationError: for a number of evaluations outside 1 .. N.
    """
    scheme, tape = problem.scheme, problem.tape()
    if isinstance(evaluations, bool) or not isinstance(evaluations, int) or not 1 <= evaluations <= scheme.steps:
        raise ConfigurationError(f"evaluations is {evaluations!r}; an integer from 1 to {scheme.steps} is needed")
    chosen = {(i * scheme.steps) // evaluations for i in range(evaluations)}
    states, outputs = [problem.x0.detach().clone()], [torch.empty(0)] * 0
    seen: list[tuple[float, torch.Tensor]] = []
    for node in range(scheme.steps):
        time = float(scheme.time[node])
        if node in chosen:
            output = _evaluate(problem, evaluator, node, states[0])
            seen = [(time, output), *seen][:2]
        else:
            output = _extrapolated(seen, time)
        outputs = [output, *outputs][: scheme.memory + 1]
        states = [scheme.step(node, states, outputs, tape.row(node)), *states][: scheme.memory + 1]
        tape.free(node + 1)
    return states[0]


def _extrapolated(seen: list[tuple[float, torch.Tensor]], time: float) -> torch.Tensor:
    """Linear in time through the newest two evaluations, newest first; the newest held where that is undefined."""
    newest_time, newest = seen[0]
    if len(seen) < 2 or newest_time == seen[1][0]:
        return newest
    weight = (time - newest_time) / (newest_time - seen[1][0])
    return newest + (newest - seen[1][1]) * weight


def _evaluate(problem: Problem, evaluator: Evaluator, node: int, state: torch.Tensor) -> torch.Tensor:
    """All samples at one node, in one request."""
    request = Request(
        nodes=torch.full((problem.batch,), node, dtype=torch.int64),
        samples=torch.arange(problem.batch),
        states=state,
        times=torch.from_numpy(np.full(problem.batch, problem.scheme.time[node])),
    )
    return evaluator.evaluate(request).values
