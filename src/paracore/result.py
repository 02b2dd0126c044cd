"""What a solve returns."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.status import Status
from paracore.window import Bools, Floats, Ints

__all__ = ["Result", "RoundTrace"]


@attrs.frozen(eq=False)
class RoundTrace:
    """One round, as recorded with ``trace=True``. Arrays are per window row and sample, ``(P, B)``, or ``(B,)``.

    Attributes:
        front: ``(B,)`` front before the round.
        accepted: ``(B,)`` rows accepted.
        evaluated: ``(P, B)`` rows evaluated.
        residual: ``(P, B)`` root-mean-square one-step residuals.
        gap: ``(P, B)`` root-mean-square distance between the chain and the states that were evaluated.
        look_ahead: ``(P, B)`` look-ahead of the residuals, or ``None``.
        damping: ``(P, B)`` damping factors.
    """

    front: Ints
    accepted: Ints
    evaluated: Bools
    residual: Floats
    gap: Floats
    look_ahead: Ints | None
    damping: Floats


@attrs.frozen(eq=False, repr=False)
class Result:
    """The samples, and how they were reached. Arrays have one entry per sample.

    Attributes:
        sample: ``(B, *event)``: the state at node N; for a sample that did not get there, its newest accepted state.
        status: signed status of each sample.
        front: ``(B,)`` node that each sample reached.
        rounds: ``(B,)`` rounds that each sample took part in.
        evaluations: ``(B,)`` evaluations of the (guided) network: one per row and round.
        network_calls: raw network rows in total: a guided evaluation makes two.
        total_rounds: dependent requests made for the whole batch; the sequential sampler makes N.
        largest_request: most rows in one request.
        residual: ``(B,)`` largest root-mean-square distance between an accepted state and the state at which its
            output was evaluated: the Picard residual of what was accepted, 0 where it is exact.
        interpolated: ``(B,)`` accepted rows whose output was interpolated, not evaluated.
        error_estimate: ``(B,)`` estimated relative error against the sequential sample, if the stopping rule keeps
            one. It is right on average; it is no certificate for a single sample.
        steps: N, the steps of the scheme.
        trajectory: ``(N + 1, B, *event)`` accepted states, if asked for.
        trace: one record per round, if asked for.
        wall_time: seconds of the whole solve.
        solver_time: seconds of it outside the evaluator.
        incidents: what went wrong in the evaluator and was mended (workers that died), one sentence each.
    """

    sample: torch.Tensor
    status: tuple[Status, ...]
    front: Ints
    rounds: Ints
    evaluations: Ints
    network_calls: int
    total_rounds: int
    largest_request: int
    residual: Floats
    interpolated: Ints
    error_estimate: Floats | None
    steps: int
    trajectory: torch.Tensor | None = None
    trace: tuple[RoundTrace, ...] | None = None
    wall_time: float = 0.0
    solver_time: float = 0.0
    incidents: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every sample reached the last node."""
        return all(s > 0 for s in self.status)

    @property
    def speedup(self) -> float:
        """N over the rounds made: how many times fewer dependent network calls than sequential sampling."""
        return self.steps / max(self.total_rounds, 1)

    def __repr__(self) -> str:
        names = ", ".join(f"{status.name.lower()}: {self.status.count(status)}" for status in sorted(set(self.status)))
        return (
            f"<Result {tuple(self.sample.shape)}; {names}; {self.total_rounds} rounds for {self.steps} steps, "
            f"{int(self.evaluations.sum())} evaluations>"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything but the tensors, ready for JSON."""
        estimate = None if self.error_estimate is None else [_number(v) for v in self.error_estimate]
        return {
            "status": [s.name.lower() for s in self.status],
            "message": [s.message for s in self.status],
            "steps": self.steps,
            "front": self.front.tolist(),
            "rounds": self.rounds.tolist(),
            "total_rounds": self.total_rounds,
            "speedup": self.speedup,
            "evaluations": self.evaluations.tolist(),
            "network_calls": self.network_calls,
            "largest_request": self.largest_request,
            "residual": [_number(v) for v in self.residual],
            "interpolated": self.interpolated.tolist(),
            "error_estimate": estimate,
            "wall_time_s": self.wall_time,
            "solver_time_s": self.solver_time,
            "incidents": list(self.incidents),
        }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
