"""torch.distributed: every rank runs the same sampler and evaluates its share of each round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch

from paracore.checkpoint import from_plain, to_plain
from paracore.errors import ConfigurationError, EvaluatorError
from paracore.evaluators.batched import Batched
from paracore.evaluators.crew import TIMEOUT, Closing
from paracore.evaluators.doubts import Doubts
from paracore.evaluators.memory import device_of, keep_freed_memory_for
from paracore.evaluators.ranks import Ranks
from paracore.evaluators.sharding import even_shares, rows_of, subrequest
from paracore.problem import Problem
from paracore.request import Denoiser, Outputs, Request

__all__ = ["Distributed", "distributed"]


class Distributed(Closing):
    """Evaluates a rank's share of each request and gathers the outputs of all ranks (SPMD).

    Every rank builds the same sampler and calls :func:`paracore.solve` with its own ``Distributed``: :meth:`begin`
    broadcasts initial states and generators from the group's first rank, after that outputs alone travel. All ranks
    end with the same bits. Which group: the ranks that hold the *same* part of the network. A denoiser that is itself
    split over ranks (tensor, sequence or guidance parallel) uses groups of its own, at right angles to this one.

    Each round ends with one small exchange on the CPU, in which ranks report failures and compare what they ask for,
    and every ``check_every`` rounds a checksum of the states of the round before: ranks that differ are named.

    With a network on the CPU the process keeps memory that is freed (:func:`keep_freed_memory`).

    Args:
        denoiser: this rank's; see :class:`~paracore.Denoiser`.
        group: process group over which rows are shared out; ``None``: all ranks. Without an initialised process group
            one is made from the environment that ``torchrun`` sets (NCCL with CUDA, gloo without).
        max_batch: most rows in one network call.
        jvp: answer tangents.
        timeout: seconds that a rank waits for the others; ``None``: for ever.
        check_every: rounds between two checksums of the states.

    Raises:
        ConfigurationError: without a process group or the environment to make one; for a rank outside the group.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        group: Any = None,
        *,
        max_batch: int | None = None,
        jvp: bool = False,
        timeout: float | None = TIMEOUT,
        check_every: int = 8,
    ) -> None:
        if isinstance(check_every, bool) or not isinstance(check_every, int) or check_every < 1:
            raise ConfigurationError(f"check_every is {check_every!r}; an integer of at least 1 is needed")
        self._evaluator = Batched(denoiser, max_batch, jvp)
        self._ranks = Ranks(group, timeout)
        keep_freed_memory_for(device_of(denoiser))
        self.rank, self.world = self._ranks.rank, self._ranks.world
        self._check_every = check_every
        self._doubts = Doubts()
        self._request = 0
        self._checksum: tuple[int, torch.Tensor] | None = None
        self._broken = ""

    @property
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""
        return self._evaluator.capabilities

    @property
    def main(self) -> bool:
        """Whether this is the group's first rank: the one that writes files."""
        return self.rank == 0

    def begin(self, problem: Problem) -> Problem:
        """The first rank's initial states and generators, on all ranks.

        Raises:
            EvaluatorError: if ranks differ in shapes or schemes, or one is missing.
        """
        x0, given = problem.x0, problem.generator
        generators = [] if given is None else [given] if isinstance(given, torch.Generator) else list(given)
        states = [g.get_state() for g in generators]
        self._agree(
            "problem", f"x0 {tuple(x0.shape)} {x0.dtype}, {problem.scheme!r}, {len(states)} generators, {given is None}"
        )
        self._doubts.clear()
        received = self.broadcast({"x0": x0.detach().cpu(), "generators": states})
        copies = [torch.Generator(device=g.device) for g in generators]
        for generator, state in zip(copies, received["generators"], strict=True):
            generator.set_state(state)
        same = copies[0] if isinstance(given, torch.Generator) else copies if given is not None else None
        return attrs.evolve(problem, x0=received["x0"].to(x0.device), generator=same)

    def broadcast(self, data: Any) -> Any:
        """Plain data (numbers, arrays, tensors, lists, dicts; a checkpoint, say) of the first rank, on all ranks.

        Raises:
            EvaluatorError: if a rank does not answer.
        """
        return from_plain(self._ranks.broadcast(to_plain(data) if self.main else None))

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate this rank's share, and gather those of all.

        Raises:
            EvaluatorError: if a rank died, failed, did not answer in time, or asks for something else.
        """
        if self._broken or self._ranks.broken:
            raise EvaluatorError(self._broken or self._ranks.broken)
        self._request += 1
        shares = even_shares(len(request), self.world)
        if self._request == 1:
            self._exchange(request, shares, None, None)
        outputs = self._gathered(request, shares)
        if self.world > 1 and len(bad := self._doubts.rows(request, outputs)):
            outputs = self._again(request, shares, outputs, bad)
        return outputs

    # -- one round --------------------------------------------------------------------------------------------------

    def _gathered(self, request: Request, shares: Sequence[torch.Tensor]) -> Outputs:
        """Outputs of the rows in ``shares``, joined in their order."""
        own, failure = None, None
        try:
            if len(shares[self.rank]):
                own = self._evaluator.evaluate(subrequest(request, shares[self.rank]))
                _check_like(own.values, request, len(shares[self.rank]))
        except Exception as error:
            failure = error
        calls = self._exchange(request, shares, own, failure)
        values = self._all_gather(None if own is None else own.values, request, shares)
        jvps = None
        if request.tangents is not None:
            jvps = self._all_gather(None if own is None else own.jvps, request, shares)
        return Outputs(values, jvps, calls)

    def _all_gather(self, own: torch.Tensor | None, request: Request, shares: Sequence[torch.Tensor]) -> torch.Tensor:
        states = request.states
        size = states.shape[1:].numel() * states.element_size()
        place = self._ranks.place(states.device)
        mine = torch.empty(0, dtype=torch.uint8, device=place) if own is None else _bytes(own.to(place))
        everyone = self._ranks.gather(mine, [len(share) * size for share in shares], "gathering outputs")
        rows = [
            part.view(states.dtype).reshape(len(share), *states.shape[1:])
            for part, share in zip(everyone, shares, strict=True)
        ]
        return torch.cat(rows).to(states.device)

    def _exchange(
        self, request: Request, shares: Sequence[torch.Tensor], own: Outputs | None, failure: Exception | None
    ) -> int:
        """Report, and look at what the others report. Returns the raw network calls of all ranks."""
        order = torch.arange(1, len(request) + 1)
        digest = int(((request.nodes * 31 + request.samples * 17 + 7) * order).sum())
        about, checksum = -1, 0
        if self._checksum is not None:
            about, checksum = self._checksum[0], int(self._checksum[1])
            self._checksum = None
        if self._request % self._check_every == 1 % self._check_every:
            self._checksum = self._request, _checksum(request.states)
        calls = 0 if own is None else own.calls
        found = self._ranks.exchange(
            f"request {self._request}",
            [self._request, len(request), digest, about, checksum, calls],
            failure,
            lambda rank, _: rows_of(shares[rank]) if len(shares[rank]) else "",
        )
        self._compare(found)
        return sum(row[5] for row in found)

    def _compare(self, found: list[list[int]]) -> None:
        first = found[0]
        names = ("request", "number of rows", "nodes and samples")
        for rank, row in enumerate(found):
            for column, name in enumerate(names):
                if row[column] != first[column]:
                    self._differ(rank, f"in the {name} of request {self._request}", row[column], first[column])
            if row[3] != first[3] or row[4] != first[4]:
                self._differ(rank, f"in the states of request {row[3]}", row[4], first[4])

    def _differ(self, rank: int, what: str, here: int, there: int) -> None:
        self._broken = (
            f"{self._ranks.name(rank)} differs from {self._ranks.name(0)} {what} ({here} and {there}): "
            "all ranks must run the same sampler on the same problem, with the same versions, dtype and number of "
            "threads"
        )
        raise EvaluatorError(self._broken)

    def _again(self, request: Request, shares: Sequence[torch.Tensor], outputs: Outputs, bad: torch.Tensor) -> Outputs:
        """Rows that are not finite, once more, each on the rank after the one that it came from."""
        doubted = [share[torch.isin(share, bad)] for share in shares]
        turned = [doubted[(rank - 1) % self.world] for rank in range(self.world)]
        again = self._gathered(request, turned)
        outputs, good = self._doubts.settle(request, outputs, torch.cat(turned), again)
        incidents = tuple(
            f"{self._ranks.name(rank)} returned numbers that are not finite for {rows_of(rows)}, the next rank did "
            "not: taken from there"
            for rank, share in enumerate(shares)
            if len(rows := share[torch.isin(share, good)])
        )
        return attrs.evolve(outputs, incidents=incidents)

    # -- the others -------------------------------------------------------------------------------------------------

    def _agree(self, what: str, text: str) -> None:
        said = self._ranks.gather_object(text, f"comparing the {what}")
        for rank, other in enumerate(said):
            if other != said[0]:
                raise EvaluatorError(
                    f"the {what} differs: {self._ranks.name(rank)} has {other}; {self._ranks.name(0)} has {said[0]}"
                )

    def close(self) -> None:
        """End the process group, if it was made here."""
        self._ranks.close()


distributed = Distributed
"""An evaluator over the ranks of a process group."""


def _check_like(values: torch.Tensor, request: Request, rows: int) -> None:
    """Bytes are gathered: what is no output of the states' dtype must not get there."""
    if values.dtype != request.states.dtype:
        raise TypeError(
            f"the network returned {values.dtype}, the states are {request.states.dtype}: convert its output, or x0"
        )
    if len(values) != rows:
        raise ValueError(f"the network returned {len(values)} rows for {rows}")


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _checksum(states: torch.Tensor) -> torch.Tensor:
    """Of the bits, and where they are; one pass, on the states' device, not waited for."""
    flat = states.detach().contiguous().reshape(-1)
    bits = flat.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[flat.element_size()])
    rows = bits.reshape(len(states), -1).sum(dim=1, dtype=torch.int64)
    place = torch.arange(1, len(states) + 1, device=rows.device)
    return (rows * place).sum() + (bits[::7].sum(dtype=torch.int64) * 31)
