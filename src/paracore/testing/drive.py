"""Driving a sampler by hand: everything that it asks is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch

from paracore.evaluators import Batched
from paracore.problem import Problem
from paracore.request import Denoiser, Outputs, Rows
from paracore.result import Result
from paracore.sampler import Sampler

__all__ = ["AfterNode", "Asked", "CheckFailure", "ForSample", "Run", "drive"]


class CheckFailure(AssertionError):  # noqa: N818 - a failed check, no error of the kit
    """A contract that was broken; the message says by what."""


@attrs.frozen(eq=False)
class Asked:
    """One request: nodes, samples and states, and what was answered."""

    nodes: tuple[int, ...]
    samples: tuple[int, ...]
    states: torch.Tensor
    values: torch.Tensor

    def of(self, sample: int) -> dict[int, torch.Tensor]:
        """``{node: state}`` asked for one sample."""
        rows = [i for i, b in enumerate(self.samples) if b == sample]
        return {self.nodes[i]: self.states[i] for i in rows}


@attrs.frozen(eq=False)
class Run:
    """Everything a sampler asked, and its result."""

    asked: tuple[Asked, ...]
    result: Result

    def of(self, sample: int) -> list[dict[int, torch.Tensor]]:
        """What was asked for one sample, request by request; requests without it are left out."""
        return [rows for rows in (asked.of(sample) for asked in self.asked) if rows]


Between = Callable[[Sampler, Any], tuple[Sampler, Any]]


def drive(
    sampler: Sampler,
    problem: Problem,
    network: Denoiser,
    *,
    between: Between | None = None,
    twice: bool = False,
    trajectory: bool = False,
    max_batch: int | None = 1,
) -> Run:
    """Run a sampler to its end.

    Args:
        sampler: any.
        problem: what to sample.
        network: its rows must not depend on each other.
        max_batch: most rows in one network call.
        between: called between two requests; gives the sampler and state to go on with.
        twice: advance from each state twice, and go on from the second answer.
        trajectory: keep the accepted states.
    """
    evaluator = Batched(network, max_batch=max_batch, jvp="jvp" in sampler.needs)
    most = 4 * problem.scheme.steps + 8
    asked: list[Asked] = []
    state = sampler.start(problem, trajectory=trajectory)
    while (request := sampler.request(state)) is not None:
        if len(asked) == most:
            raise CheckFailure(f"{sampler!r} made {most} requests for {problem.scheme.steps} steps and did not end")
        if request.tangents is not None and "jvp" not in sampler.needs:
            raise CheckFailure("tangents are asked for, and needs has no 'jvp'")
        answer = evaluator.evaluate(request)
        kept = request.states.clone(), answer.values.clone()
        asked.append(Asked(tuple(request.nodes.tolist()), tuple(request.samples.tolist()), *kept))
        before, following = state, sampler.advance(state, answer)
        if twice and getattr(before, "krylov", None) is None and getattr(following, "krylov", None) is None:
            following = sampler.advance(before, Outputs(kept[1].clone(), answer.jvps, answer.calls))
        state = following
        if not (torch.equal(request.states, kept[0]) or bool(kept[0].isnan().any())):
            raise CheckFailure("the states of a request were written into after it was made")
        if not _same(answer.values, kept[1]):
            raise CheckFailure("the network's outputs were written into; take a copy before changing them")
        if between is not None:
            sampler, state = between(sampler, state)
    return Run(tuple(asked), sampler.result(state))


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(left), torch.nan_to_num(right))


@attrs.frozen(eq=False)
class AfterNode:
    """A network that is another one at nodes after ``node``: ``"other"`` numbers, or not finite (``"nan"``)."""

    inner: Denoiser
    node: int
    how: str

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        return _spoilt(self.inner(x, t, rows), rows.node > self.node, self.how)


@attrs.frozen(eq=False)
class ForSample:
    """A network that is another one for one sample, from a node on: ``"calm"`` (constant), ``"huge"`` or ``"nan"``."""

    inner: Denoiser
    sample: int
    node: int
    how: str

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        return _spoilt(self.inner(x, t, rows), (rows.sample == self.sample) & (rows.node >= self.node), self.how)


def _spoilt(values: torch.Tensor, where: torch.Tensor, how: str) -> torch.Tensor:
    numbers = {
        "nan": torch.full_like(values, float("nan")),
        "calm": torch.full_like(values, 0.5),
        "huge": torch.full_like(values, 0.9 * torch.finfo(values.dtype).max),
        "other": 3.0 - 2.0 * values,
    }[how]
    return torch.where(where.reshape(-1, *[1] * (values.ndim - 1)), numbers, values)
