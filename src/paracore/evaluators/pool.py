"""Workers that share out the rows of a request, and what happens when some of them fail."""

from __future__ import annotations

import abc
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import attrs
import torch

from paracore.errors import ConfigurationError, DenoiserError, EvaluatorError
from paracore.evaluators.sharding import assemble, even_shares, nonfinite_rows, rows_of, subrequest
from paracore.request import Outputs, Request

__all__ = ["Event", "Pool", "WorkerLost", "check_timeout"]

TIMEOUT = 600.0
"""Seconds after which a worker that does not answer is given up."""

_DOUBTS = 3
"""How often numbers that are not finite are asked for again, if the other worker confirms them."""


class WorkerLost(Exception):  # noqa: N818  (an event, never raised to a user)
    """The worker itself is gone, whatever it was asked."""


@attrs.frozen(eq=False)
class Event:
    """A worker's answer, or the exception it ended with."""

    worker: int
    ticket: int
    answer: Outputs | BaseException


@attrs.define(eq=False)
class _Job:
    """One share of a request.

    Attributes:
        share: which.
        rows: the request's rows in it.
        failed: workers on which it failed, and how.
    """

    share: int
    rows: torch.Tensor
    failed: dict[int, BaseException] = attrs.field(factory=dict)


class Pool(abc.ABC):
    """Splits each request into one share per worker and survives workers that fail.

    Shares depend on the number of workers asked for, not on how many are left: with the same calls the answer keeps
    its bits whoever dies. A share on which a worker raised is given to another: if that one succeeds the first is
    given up, if all raise it is the network's own failure, and raised. Numbers that are not finite are asked for once
    more elsewhere.

    Args:
        workers: how many.
        timeout: seconds a worker may take for its share before it is given up; ``None``: for ever.
    """

    def __init__(self, workers: int, timeout: float | None) -> None:
        check_timeout(timeout)
        self._count = workers
        self._timeout = timeout
        self._alive = [True] * workers
        self._running: dict[int, tuple[int, float]] = {}  # worker: its ticket, and when it began
        self._ticket = 0
        self._doubts = 0
        self._closed = False
        self._causes: dict[int, str] = {}

    # -- what kinds of workers do -----------------------------------------------------------------------------------

    @property
    @abc.abstractmethod
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""

    @abc.abstractmethod
    def _submit(self, worker: int, ticket: int, request: Request) -> None:
        """Begin; the answer comes as an :class:`Event` with the ticket."""

    @abc.abstractmethod
    def _wait(self, seconds: float | None) -> Sequence[Event]:
        """Answers that came; none if the time is over."""

    @abc.abstractmethod
    def _retire(self, worker: int) -> bool:
        """Give a worker up. Returns whether another took its place."""

    @abc.abstractmethod
    def _stop(self) -> None:
        """End all workers."""

    def describe(self, worker: int) -> str:
        """A worker in words."""
        return f"worker {worker}"

    # -- evaluating -------------------------------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """How many shares a request is split into."""
        return self._count

    @property
    def alive(self) -> int:
        """How many workers are left."""
        return sum(self._alive)

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows on the workers.

        Raises:
            DenoiserError: if the network breaks its contract; the message names the worker.
            EvaluatorError: if no worker is left.
            Exception: what the network raised, if it did so on every worker that could be asked.
        """
        if self._closed:
            raise ConfigurationError(f"this {type(self).__name__} evaluator was closed; make a new one")
        if not len(request):
            return Outputs(request.states.clone(), None if request.tangents is None else request.tangents.clone())
        incidents: list[str] = []
        shares = [rows for rows in even_shares(len(request), self._count) if len(rows)]
        jobs = [_Job(i, rows) for i, rows in enumerate(shares)]
        answers, owners = self._answers(request, jobs, incidents)
        outputs = assemble(request, shares, answers)
        bad = nonfinite_rows(outputs.values)
        if len(bad) and self.alive > 1 and self._doubts < _DOUBTS:
            outputs = self._again(request, outputs, bad, jobs, owners, incidents)
        return attrs.evolve(outputs, incidents=(*outputs.incidents, *incidents))

    def _answers(self, request: Request, jobs: list[_Job], incidents: list[str]) -> tuple[list[Outputs], list[int]]:
        """Each job's answer, and the worker it came from."""
        waiting, given = deque(jobs), dict[int, _Job]()
        answers, owners = dict[int, Outputs](), dict[int, int]()
        while len(answers) < len(jobs):
            self._hand_out(request, waiting, given)
            if not any(self._alive):
                raise EvaluatorError(f"no worker is left; {'; '.join(self._causes.values())}")
            for event in self._wait(self._patience()):
                if self._running.get(event.worker, (None, 0.0))[0] != event.ticket:
                    continue  # of a worker that was given up
                del self._running[event.worker]
                job = given.pop(event.ticket, None)
                if job is None:
                    continue  # of a request that was broken off
                if isinstance(event.answer, Outputs):
                    answers[job.share], owners[job.share] = event.answer, event.worker
                else:
                    self._failed(event.worker, job, event.answer, incidents)
                    waiting.append(job)
            for worker in self._overdue():
                ticket, _ = self._running.pop(worker)
                late = given.pop(ticket, None)
                error = WorkerLost(f"gave no answer within {self._timeout:g} s")
                self._lose(worker, error, None if late is None else late.rows, incidents)
                if late is not None:
                    late.failed[worker] = error
                    waiting.append(late)
        for job in jobs:
            self._blame(job, incidents)
        return [answers[job.share] for job in jobs], [owners[job.share] for job in jobs]

    def _hand_out(self, request: Request, waiting: deque[_Job], given: dict[int, _Job]) -> None:
        for _ in range(len(waiting)):
            job = waiting.popleft()
            free = [w for w in range(self._count) if self._alive[w] and w not in self._running]
            untried = [w for w in free if w not in job.failed]
            if not untried:
                if not any(alive and w not in job.failed for w, alive in enumerate(self._alive)) and any(self._alive):
                    self._give_in(job, free)
                    untried = free
                if not untried:
                    waiting.append(job)
                    continue
            worker = job.share if job.share in untried else untried[0]
            self._ticket += 1
            given[self._ticket] = job
            self._running[worker] = (self._ticket, time.monotonic())
            self._submit(worker, self._ticket, subrequest(request, job.rows))

    def _give_in(self, job: _Job, free: list[int]) -> None:
        """A job that failed on all who are left: the network's own failure, unless workers were lost over it."""
        own = [error for error in job.failed.values() if not isinstance(error, WorkerLost)]
        if own:
            raise own[-1]
        if free:  # replaced workers were not asked yet
            for worker in free:
                job.failed.pop(worker, None)

    def _failed(self, worker: int, job: _Job, error: BaseException, incidents: list[str]) -> None:
        if isinstance(error, DenoiserError):
            raise DenoiserError(f"{self.describe(worker)}, {rows_of(job.rows)}: {error}") from error
        if not isinstance(error, Exception):
            raise error
        job.failed[worker] = error
        if isinstance(error, WorkerLost):
            self._lose(worker, error, job.rows, incidents)
            return
        error.add_note(f"paracore: raised by {self.describe(worker)} for {rows_of(job.rows)} of a request")
        if not any(alive and w not in job.failed for w, alive in enumerate(self._alive)):
            raise error

    def _blame(self, job: _Job, incidents: list[str]) -> None:
        """A share was answered on which others had raised: it was their fault, not the network's."""
        for worker, error in job.failed.items():
            if not isinstance(error, WorkerLost) and self._alive[worker]:
                self._lose(worker, error, job.rows, incidents)

    def _lose(self, worker: int, error: BaseException, rows: torch.Tensor | None, incidents: list[str]) -> None:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = text if isinstance(error, WorkerLost) else f"raised {type(error).__name__}: {text}"
        replaced = self._retire(worker)
        self._alive[worker] = replaced
        where = "" if rows is None else f"; {rows_of(rows)} evaluated elsewhere"
        incidents.append(f"{self.describe(worker)} {what}{', and was replaced' if replaced else ''}{where}")
        self._causes[worker] = f"{self.describe(worker)} {what}"

    def _again(
        self,
        request: Request,
        outputs: Outputs,
        bad: torch.Tensor,
        jobs: list[_Job],
        owners: list[int],
        incidents: list[str],
    ) -> Outputs:
        """Rows that are not finite, once more, each by another worker than before."""
        suspicion = WorkerLost("returned numbers that are not finite")
        doubted = list[tuple[_Job, int]]()
        for job, owner in zip(jobs, owners, strict=True):
            rows = job.rows[torch.isin(job.rows, bad)]
            if len(rows):
                doubted.append((_Job(len(doubted), rows, {owner: suspicion}), owner))
        answers, _ = self._answers(request, [job for job, _ in doubted], incidents)
        values, jvps = outputs.values.clone(), outputs.jvps
        jvps = None if jvps is None else jvps.clone()
        blamed = False
        for (job, owner), answer in zip(doubted, answers, strict=True):
            finite = torch.isfinite(answer.values.flatten(1)).all(dim=1)
            good = job.rows[finite.cpu()]
            if not len(good):
                continue
            blamed = True
            place = good.to(values.device)
            values[place] = answer.values[finite]
            if jvps is not None and answer.jvps is not None:
                jvps[place] = answer.jvps[finite]
            incidents.append(
                f"{self.describe(owner)} returned numbers that are not finite for {rows_of(good)}, another worker did "
                "not: taken from there"
            )
        self._doubts += not blamed
        calls = outputs.calls + sum(answer.calls for answer in answers)
        return attrs.evolve(outputs, values=values, jvps=jvps, calls=calls)

    def _patience(self) -> float | None:
        if self._timeout is None or not self._running:
            return None if self._running else 0.0
        first = min(began for _, began in self._running.values())
        return max(0.0, first + self._timeout - time.monotonic())

    def _overdue(self) -> list[int]:
        if self._timeout is None:
            return []
        now = time.monotonic()
        return [worker for worker, (_, began) in self._running.items() if now - began >= self._timeout]

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the workers. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_timeout(timeout: Any) -> None:
    """Refuse what is no time.

    Raises:
        ConfigurationError.
    """
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout > 0):
        raise ConfigurationError(f"timeout is {timeout!r}; seconds above 0, or None for ever, are needed")
