"""Workers that share out the rows of a request."""

from __future__ import annotations

import abc

import attrs
import torch

from paracore.errors import ConfigurationError
from paracore.evaluators.crew import Crew, Job, WorkerLost
from paracore.evaluators.doubts import Doubts
from paracore.evaluators.sharding import assemble, even_shares, rows_of, subrequest
from paracore.problem import Problem
from paracore.request import Outputs, Request

__all__ = ["Pool"]


class Pool(Crew[Request, Outputs]):
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
        super().__init__(workers, timeout)
        self._doubts = Doubts()

    @property
    @abc.abstractmethod
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""

    def begin(self, problem: Problem) -> Problem:
        """Another solve begins; nothing is changed about its problem."""
        self._doubts.clear()
        return problem

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
        jobs = [_job(request, i, rows) for i, rows in enumerate(shares)]
        answers, owners = self._answers(jobs, incidents)
        outputs = assemble(request, shares, answers)
        if self.alive > 1 and len(bad := self._doubts.rows(request, outputs)):
            outputs = self._again(request, outputs, bad, shares, owners, incidents)
        return attrs.evolve(outputs, incidents=(*outputs.incidents, *incidents))

    def _again(
        self,
        request: Request,
        outputs: Outputs,
        bad: torch.Tensor,
        shares: list[torch.Tensor],
        owners: list[int],
        incidents: list[str],
    ) -> Outputs:
        """Rows that are not finite, once more, each by another worker than before."""
        suspicion = WorkerLost("returned numbers that are not finite")
        doubted = [(share[torch.isin(share, bad)], owner) for share, owner in zip(shares, owners, strict=True)]
        doubted = [(rows, owner) for rows, owner in doubted if len(rows)]
        jobs = [_job(request, i, rows, {owner: suspicion}) for i, (rows, owner) in enumerate(doubted)]
        answers, _ = self._answers(jobs, incidents)
        again = assemble(subrequest(request, bad), [torch.searchsorted(bad, rows) for rows, _ in doubted], answers)
        outputs, good = self._doubts.settle(request, outputs, bad, again)
        for rows, owner in doubted:
            if len(own := rows[torch.isin(rows, good)]):
                incidents.append(
                    f"{self.describe(owner)} returned numbers that are not finite for {rows_of(own)}, another worker "
                    "did not: taken from there"
                )
        return outputs


def _job(
    request: Request, share: int, rows: torch.Tensor, failed: dict[int, BaseException] | None = None
) -> Job[Request]:
    return Job(share, subrequest(request, rows), rows_of(rows), failed or {})
