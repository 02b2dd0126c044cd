"""The driver: runs a sampler against an evaluator."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from paracore.checkpoint import save_checkpoint
from paracore.errors import (
    CapabilityError,
    CheckpointWriteError,
    ConfigurationError,
    EvaluatorError,
    SolveError,
    SolveInterrupted,
)
from paracore.problem import Problem
from paracore.request import Evaluator
from paracore.result import Result
from paracore.sampler import Sampler
from paracore.window import Ints

__all__ = ["Observer", "RoundEvent", "solve"]


@attrs.frozen(eq=False)
class RoundEvent:
    """What an observer is told after a round.

    Attributes:
        round: rounds made so far.
        rows: rows evaluated in it.
        front: ``(B,)`` node that each sample has reached.
        advanced: ``(B,)`` nodes that each sample advanced by.
        steps: N.
        preview: ``(B, *event)`` newest data prediction, if an observer asked for previews.
        seconds: time since the solve began.
    """

    round: int
    rows: int
    front: Ints
    advanced: Ints
    steps: int
    preview: torch.Tensor | None
    seconds: float


class Observer:
    """Watches a solve. Override what is of interest; nothing that it does changes the numbers.

    Attributes:
        wants_preview: whether :attr:`RoundEvent.preview` is filled.
    """

    wants_preview: bool = False

    def round_finished(self, event: RoundEvent) -> None:
        """After each round."""

    def samples_advanced(self, event: RoundEvent) -> None:
        """After each round in which a sample's front moved."""


def solve(
    sampler: Sampler,
    problem: Problem,
    evaluator: Evaluator,
    *,
    observers: Sequence[Observer] = (),
    trajectory: bool = False,
    trace: bool = False,
    raise_on_failure: bool = True,
    state: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1,
) -> Result:
    """Sample.

    Args:
        sampler: from :func:`paracore.sampler` or :func:`paracore.compose`; with ``window="auto"`` the evaluator is
            timed first.
        problem: scheme and initial noise.
        evaluator: where the network is called, for instance ``paracore.evaluators.batched(denoiser)``.
        observers: told of each round.
        trajectory: keep all accepted states in the result.
        trace: keep a record of each round in the result.
        raise_on_failure: raise if any sample failed; else look at ``result.status``.
        state: go on from this state (``sampler.restore(problem, load_checkpoint(path))``).
        checkpoint: file to save the state to, whole or not at all: after every ``checkpoint_every`` rounds, and when
            the evaluator fails or Ctrl-C is pressed.
        checkpoint_every: rounds between two saves.

    Raises:
        CapabilityError: if the evaluator cannot do what the sampler needs.
        ConfigurationError: if an option cannot work for this problem.
        SolveError: if a sample failed; it carries the result.
        SolveInterrupted: on Ctrl-C; it carries the result and the state so far.
        CheckpointWriteError: if the file could not be written; it carries the result and the state so far.
        EvaluatorError: if no worker is left; it carries the result and the state so far.
        DenoiserError, StrategyError: if the network or a strategy broke its contract.
    """
    if checkpoint_every < 1:
        raise ConfigurationError(f"checkpoint_every is {checkpoint_every}; at least 1 is needed")
    _check_needs(sampler, evaluator)
    began, network, incidents = time.perf_counter(), 0.0, list[str]()
    preview = any(o.wants_preview for o in observers)
    if state is None:
        begin = getattr(evaluator, "begin", None)
        problem = problem if begin is None else begin(problem)
        sampler = sampler.fitted(problem, evaluator)
        state = sampler.start(problem, trajectory=trajectory, trace=trace, preview=preview)
    try:
        while (request := sampler.request(state)) is not None:
            called = time.perf_counter()
            try:
                outputs = evaluator.evaluate(request)
            except Exception as error:
                _broken_off(sampler, state, checkpoint, error, _timed(sampler.result(state), began, network, incidents))
                raise
            network += time.perf_counter() - called
            incidents.extend(outputs.incidents)
            rows = len(request)
            del request
            before = state.front
            state = sampler.advance(state, outputs)
            del outputs
            if checkpoint is not None and state.total_rounds % checkpoint_every == 0 and _resting(state):
                _save(sampler, state, checkpoint)
            if observers:
                _tell(observers, state, rows, before, problem, time.perf_counter() - began)
    except KeyboardInterrupt as stop:
        result = _timed(sampler.result(state), began, network, incidents)
        saved = _saved(sampler, state, checkpoint, stop)
        raise SolveInterrupted(
            f"interrupted after {result.total_rounds} rounds; accepted up to node {result.front.tolist()} "
            f"of {result.steps}{saved}",
            result,
            state,
        ) from stop
    result = _timed(sampler.result(state), began, network, incidents)
    if raise_on_failure and not result.ok:
        failed = [b for b, status in enumerate(result.status) if status.failed]
        first = failed[0]
        raise SolveError(
            f"{len(failed)} of {len(result.status)} samples failed; sample {first}: "
            f"{result.status[first].message} (node {result.front[first]} of {result.steps})",
            result,
        )
    return result


def _save(sampler: Sampler, state: Any, path: str | os.PathLike[str]) -> None:
    try:
        save_checkpoint(sampler.plain(state), path)
    except OSError as error:
        raise CheckpointWriteError(
            f"the checkpoint {os.fspath(path)!r} could not be written ({error.strerror or error}); the last one is "
            "untouched: go on from the error's .state, with room for the file",
            sampler.result(state),
            state,
        ) from error


def _check_needs(sampler: Sampler, evaluator: Evaluator) -> None:
    missing = sampler.needs - frozenset(evaluator.capabilities)
    if missing:
        raise CapabilityError(
            f"{sampler!r} needs {', '.join(sorted(missing))}; the evaluator {type(evaluator).__name__} offers "
            f"{', '.join(sorted(evaluator.capabilities)) or 'nothing beyond values'}"
            + ("; use evaluators.batched(denoiser, jvp=True)" if "jvp" in missing else "")
        )


def _broken_off(
    sampler: Sampler,
    state: Any,
    path: str | os.PathLike[str] | None,
    error: Exception,
    result: Result,
) -> None:
    """The evaluator failed: save what there is, and hand it over with the error."""
    where = _saved(sampler, state, path, error) or "; go on from the error's .state"
    if isinstance(error, EvaluatorError):
        error.result, error.state = result, state
        error.args = (f"{error} (after {result.total_rounds} rounds, node {result.front.tolist()}{where})",)


def _saved(sampler: Sampler, state: Any, path: str | os.PathLike[str] | None, error: BaseException) -> str:
    """Save what there is before an error goes on, if asked for. Where, for its message."""
    if path is None or not _resting(state):
        return ""
    try:
        save_checkpoint(sampler.plain(state), path)
    except OSError as full:
        error.add_note(f"the checkpoint {os.fspath(path)!r} could not be written: {full.strerror or full}")
        return ""
    return f"; state saved to {os.fspath(path)!r}"


def _resting(state: Any) -> bool:
    """Whether the state can be saved: not in the middle of an inner linear solve."""
    return getattr(state, "krylov", None) is None


def _timed(result: Result, began: float, network: float, incidents: Sequence[str]) -> Result:
    wall = time.perf_counter() - began
    return attrs.evolve(result, wall_time=wall, solver_time=wall - network, incidents=tuple(incidents))


def _tell(observers: Sequence[Observer], state: Any, rows: int, before: Ints, problem: Problem, seconds: float) -> None:
    event = RoundEvent(
        round=state.total_rounds,
        rows=rows,
        front=state.front,
        advanced=state.front - before,
        steps=problem.scheme.steps,
        preview=state.newest,
        seconds=seconds,
    )
    for observer in observers:
        observer.round_finished(event)
        if event.advanced.any():
            observer.samples_advanced(event)
