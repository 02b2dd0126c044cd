"""Workers to whom jobs are handed out, and what happens when some of them fail."""

from __future__ import annotations

import abc
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import attrs

from paracore.errors import ConfigurationError, DenoiserError, EvaluatorError

__all__ = ["TIMEOUT", "Closing", "Crew", "Event", "Job", "WorkerLost", "check_timeout"]

TIMEOUT = 600.0
"""Seconds after which a worker that does not answer is given up."""

Work = TypeVar("Work")
Answer = TypeVar("Answer")


class WorkerLost(Exception):  # noqa: N818  (an event, never raised to a user)
    """The worker itself is gone, whatever it was asked."""


@attrs.frozen(eq=False)
class Event:
    """A worker's answer, or the exception it ended with."""

    worker: int
    ticket: int
    answer: Any


@attrs.define(eq=False)
class Job(Generic[Work]):
    """One share of what is to be done.

    Attributes:
        share: which; the worker of this number is asked first.
        work: what to do.
        what: the work in words (``rows 3 to 7``), for messages.
        failed: workers on which it failed, and how.
    """

    share: int
    work: Work
    what: str
    failed: dict[int, BaseException] = attrs.field(factory=dict)


class Closing(abc.ABC):
    """Ends with a ``with`` block."""

    @abc.abstractmethod
    def close(self) -> None:
        """End it. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Crew(Closing, Generic[Work, Answer]):
    """Hands jobs out to workers and survives workers that fail.

    A job on which a worker raised is given to another: if that one succeeds the first is given up, if all raise it is
    the network's own failure, and raised. A worker that is lost or late is given up, and its job done elsewhere.

    Args:
        workers: how many.
        timeout: seconds a worker may take for a job before it is given up; ``None``: for ever.
    """

    def __init__(self, workers: int, timeout: float | None) -> None:
        check_timeout(timeout)
        self._count = workers
        self._timeout = timeout
        self._alive = [True] * workers
        self._running: dict[int, tuple[int, float]] = {}  # worker: its ticket, and when it began
        self._ticket = 0
        self._closed = False
        self._causes: dict[int, str] = {}
        self._came: deque[Event] = deque()  # taken in, not looked at: an error in between must not lose them

    # -- what kinds of workers do -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def _submit(self, worker: int, ticket: int, work: Work) -> None:
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

    # -- the work ---------------------------------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """How many shares the work is split into."""
        return self._count

    @property
    def alive(self) -> int:
        """How many workers are left."""
        return sum(self._alive)

    def is_alive(self, worker: int) -> bool:
        """Whether a worker is left, or another took its place."""
        return self._alive[worker]

    def _answers(self, jobs: list[Job[Work]], incidents: list[str]) -> tuple[list[Answer], list[int]]:
        """Each job's answer, and the worker it came from.

        Raises:
            DenoiserError: if the network breaks its contract; the message names the worker.
            EvaluatorError: if no worker is left.
            Exception: what the network raised, if it did so on every worker that could be asked.
        """
        waiting, given = deque(jobs), dict[int, Job[Work]]()
        answers, owners = dict[int, Answer](), dict[int, int]()
        while len(answers) < len(jobs):
            self._hand_out(waiting, given)
            if not any(self._alive):
                raise EvaluatorError(f"no worker is left; {'; '.join(self._causes.values())}")
            if not self._came:
                self._came.extend(self._wait(self._patience()))
            while self._came:
                event = self._came.popleft()
                if self._running.get(event.worker, (None, 0.0))[0] != event.ticket:
                    continue  # of a worker that was given up
                del self._running[event.worker]
                job = given.pop(event.ticket, None)
                if job is None:
                    continue  # of work that was broken off
                if not isinstance(event.answer, BaseException):
                    answers[job.share], owners[job.share] = event.answer, event.worker
                else:
                    self._failed(event.worker, job, event.answer, incidents)
                    waiting.append(job)
            for worker in self._overdue():
                ticket, _ = self._running.pop(worker)
                late = given.pop(ticket, None)
                error = WorkerLost(f"gave no answer within {self._timeout:g} s")
                self._lose(worker, error, "" if late is None else late.what, incidents)
                if late is not None:
                    late.failed[worker] = error
                    waiting.append(late)
        for job in jobs:
            self._blame(job, incidents)
        return [answers[job.share] for job in jobs], [owners[job.share] for job in jobs]

    def _hand_out(self, waiting: deque[Job[Work]], given: dict[int, Job[Work]]) -> None:
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
            self._submit(worker, self._ticket, job.work)

    def _give_in(self, job: Job[Work], free: list[int]) -> None:
        """A job that failed on all who are left: the network's own failure, unless workers were lost over it."""
        own = [error for error in job.failed.values() if not isinstance(error, WorkerLost)]
        if own:
            raise own[-1]
        if free:  # replaced workers were not asked yet
            for worker in free:
                job.failed.pop(worker, None)

    def _failed(self, worker: int, job: Job[Work], error: BaseException, incidents: list[str]) -> None:
        if isinstance(error, DenoiserError):
            raise DenoiserError(f"{self.describe(worker)}, {job.what}: {error}") from error
        if not isinstance(error, Exception):
            raise error
        job.failed[worker] = error
        if isinstance(error, WorkerLost):
            self._lose(worker, error, job.what, incidents)
            return
        error.add_note(f"paracore: raised by {self.describe(worker)} for {job.what}")
        if not any(alive and w not in job.failed for w, alive in enumerate(self._alive)):
            raise error

    def _blame(self, job: Job[Work], incidents: list[str]) -> None:
        """A share was answered on which others had raised: it was their fault, not the network's."""
        for worker, error in job.failed.items():
            if not isinstance(error, WorkerLost) and self._alive[worker]:
                self._lose(worker, error, job.what, incidents)

    def _lose(self, worker: int, error: BaseException, what: str, incidents: list[str]) -> None:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        how = text if isinstance(error, WorkerLost) else f"raised {type(error).__name__}: {text}"
        replaced = self._retire(worker)
        self._alive[worker] = replaced
        where = f"; {what} evaluated elsewhere" if what else ""
        incidents.append(f"{self.describe(worker)} {how}{', and was replaced' if replaced else ''}{where}")
        self._causes[worker] = f"{self.describe(worker)} {how}"

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


def check_timeout(timeout: Any) -> None:
    """Refuse what is no time.

    Raises:
        ConfigurationError.
    """
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and timeout > 0):
        raise ConfigurationError(f"timeout is {timeout!r}; seconds above 0, or None for ever, are needed")
