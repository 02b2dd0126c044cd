"""The sampler contract: a state machine on plain data that asks for evaluations and never makes them."""

from __future__ import annotations

import abc
from typing import Any

from paracore.problem import Problem
from paracore.request import Evaluator, Outputs, Request
from paracore.result import Result
from paracore.status import Status

__all__ = ["Sampler"]


class Sampler(abc.ABC):
    """``start -> (request -> advance) ... -> result``.

    A state between two requests is a checkpoint: :meth:`plain` turns it into numbers, tensors, lists and dicts, and
    :meth:`restore` back. Samplers do no I/O: the same one runs under any evaluator, or driven by hand.

    Attributes:
        needs: capabilities the evaluator must have (``"jvp"``).
    """

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that the evaluator must have."""
        return frozenset()

    def fitted(self, problem: Problem, evaluator: Evaluator) -> Sampler:
        """What :func:`paracore.solve` runs: itself, unless it waits for the evaluator (``window="auto"``)."""
        return self

    @abc.abstractmethod
    def start(self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False) -> Any:
        """The state before the first request.

        Args:
            problem: what to sample.
            trajectory: keep every accepted state (memory of the whole trajectory).
            trace: keep a record of each round.
            preview: keep the newest data prediction for observers.
        """

    @abc.abstractmethod
    def request(self, state: Any) -> Request | None:
        """What to evaluate next, or ``None`` at the end."""

    @abc.abstractmethod
    def advance(self, state: Any, outputs: Outputs) -> Any:
        """The state after the outputs arrived."""

    @abc.abstractmethod
    def result(self, state: Any, *, unfinished: Status = Status.INTERRUPTED) -> Result:
        """The result so far; samples still running get the status ``unfinished``."""

    @abc.abstractmethod
    def plain(self, state: Any) -> dict[str, Any]:
        """The state as plain data."""

    @abc.abstractmethod
    def restore(self, problem: Problem, data: dict[str, Any]) -> Any:
        """The state that :meth:`plain` described, for the same problem."""
