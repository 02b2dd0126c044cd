"""torch.distributed: every rank runs the same sampler and evaluates its share of each round."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import attrs
import torch
from torch import distributed as dist

from paracore.checkpoint import from_plain, to_plain
from paracore.errors import ConfigurationError, EvaluatorError
from paracore.evaluators.batched import Batched
from paracore.evaluators.pool import TIMEOUT, check_timeout
from paracore.evaluators.sharding import even_shares, nonfinite_rows, rows_of, subrequest
from paracore.problem import Problem
from paracore.request import Denoiser, Outputs, Request

__all__ = ["Distributed", "distributed"]

_TEXT = 240  # bytes of a failed rank's message


class Distributed:
    """Evaluates a rank's share of each request and gathers the outputs of all ranks (SPMD).

    Every rank builds the same sampler and calls :func:`paracore.solve` with its own ``Distributed``: :meth:`begin`
    broadcasts initial states and generators from the group's first rank, after that outputs alone travel. All ranks
    end with the same bits. Which group: the ranks that hold the *same* part of the network. A denoiser that is itself
    split over ranks (tensor, sequence or guidance parallel) uses groups of its own, at right angles to this one.

    Each round ends with one small exchange on the CPU, in which ranks report failures and compare what they ask for,
    and every ``check_every`` rounds a checksum of the states of the round before: ranks that differ are named.

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
        check_timeout(timeout)
        if isinstance(check_every, bool) or not isinstance(check_every, int) or check_every < 1:
            raise ConfigurationError(f"check_every is {check_every!r}; an integer of at least 1 is needed")
        self._evaluator = Batched(denoiser, max_batch, jvp)
        self._own = _initialised(timeout)
        self._group = group if group is not None else dist.group.WORLD
        self.rank = dist.get_rank(self._group)
        self.world = dist.get_world_size(self._group)
        if self.rank < 0:
            raise ConfigurationError("this rank is not in the process group given; build the evaluator on its members")
        self._ranks = dist.get_process_group_ranks(self._group)
        self._nccl = "nccl" in str(dist.get_backend(self._group))
        self._timeout = timedelta(seconds=timeout) if timeout is not None else timedelta(days=365)
        self._control = dist.new_group(
            self._ranks, backend="gloo", timeout=self._timeout, use_local_synchronization=True
        )
        self._data = self._group if self._nccl else self._control
        self._check_every = check_every
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
        box = [to_plain(data) if self.main else None]
        with self._watched("broadcast"):
            dist.broadcast_object_list(box, src=self._ranks[0], group=self._control)
        return from_plain(box[0])

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate this rank's share, and gather those of all.

        Raises:
            EvaluatorError: if a rank died, failed, did not answer in time, or asks for something else.
        """
        if self._broken:
            raise EvaluatorError(self._broken)
        self._request += 1
        shares = even_shares(len(request), self.world)
        if self._request == 1:
            self._exchange(request, shares, None, None)
        outputs = self._gathered(request, shares)
        bad = nonfinite_rows(outputs.values)
        return outputs if not len(bad) or self.world == 1 else self._again(request, shares, outputs, bad)

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
        most = max(len(share) for share in shares)
        values = self._all_gather(None if own is None else own.values, request, shares, most)
        jvps = None
        if request.tangents is not None:
            jvps = self._all_gather(None if own is None else own.jvps, request, shares, most)
        return Outputs(values, jvps, calls)

    def _all_gather(
        self, own: torch.Tensor | None, request: Request, shares: Sequence[torch.Tensor], most: int
    ) -> torch.Tensor:
        states = request.states
        place = states.device if self._nccl else torch.device("cpu")
        event, dtype = states.shape[1:], states.dtype
        mine = torch.zeros((most, *event), dtype=dtype, device=place)
        if own is not None:
            mine[: len(own)] = own.to(place)
        everyone = torch.empty((self.world * most, *event), dtype=dtype, device=place)
        with self._watched("gathering outputs"):
            dist.all_gather(list(_bytes(everyone).chunk(self.world)), _bytes(mine), group=self._data)
        parts = [everyone[r * most : r * most + len(share)] for r, share in enumerate(shares)]
        return torch.cat(parts).to(states.device)

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
        numbers = torch.tensor([failure is not None, self._request, len(request), digest, about, checksum, calls])
        text = b"" if failure is None else f"{type(failure).__name__}: {failure}".encode()[:_TEXT]
        mine = torch.cat([numbers.view(torch.uint8), torch.tensor(list(text.ljust(_TEXT, b"\0")), dtype=torch.uint8)])
        everyone = torch.empty(self.world * len(mine), dtype=torch.uint8)
        with self._watched(f"request {self._request}"):
            dist.all_gather(list(everyone.chunk(self.world)), mine, group=self._control)
        rows = everyone.reshape(self.world, -1)
        size = numbers.numel() * 8
        found = rows[:, :size].contiguous().view(torch.int64).tolist()
        for rank, row in enumerate(found):
            if row[0]:
                said = bytes(rows[rank, size:].tolist()).rstrip(b"\0").decode(errors="replace")
                where = f", {rows_of(shares[rank])}" if len(shares[rank]) else ""
                error = EvaluatorError(f"{self._name(rank)}{where}: {said}")
                if failure is not None and rank == self.rank:
                    raise error from failure
                raise error
        self._compare(found)
        return sum(row[6] for row in found)

    def _compare(self, found: list[list[int]]) -> None:
        first = found[0]
        names = ("request", "number of rows", "nodes and samples")
        for rank, row in enumerate(found):
            for column, name in enumerate(names, start=1):
                if row[column] != first[column]:
                    self._differ(rank, f"in the {name} of request {self._request}", row[column], first[column])
            if row[4] != first[4] or row[5] != first[5]:
                self._differ(rank, f"in the states of request {row[4]}", row[5], first[5])

    def _differ(self, rank: int, what: str, here: int, there: int) -> None:
        self._broken = (
            f"{self._name(rank)} differs from {self._name(0)} {what} ({here} and {there}): all ranks must run the same "
            "sampler on the same problem, with the same versions, dtype and number of threads"
        )
        raise EvaluatorError(self._broken)

    def _again(self, request: Request, shares: Sequence[torch.Tensor], outputs: Outputs, bad: torch.Tensor) -> Outputs:
        """Rows that are not finite, once more, each on the rank after the one that it came from."""
        doubted = [share[torch.isin(share, bad)] for share in shares]
        turned = [doubted[(rank - 1) % self.world] for rank in range(self.world)]
        again = self._gathered(request, turned)
        order = torch.cat(turned)
        finite = torch.isfinite(again.values.flatten(1)).all(dim=1)
        good = order[finite.cpu()]
        calls = outputs.calls + again.calls
        if not len(good):
            return attrs.evolve(outputs, calls=calls)
        values, jvps = outputs.values.clone(), outputs.jvps
        values[good.to(values.device)] = again.values[finite]
        if jvps is not None and again.jvps is not None:
            jvps = jvps.clone()
            jvps[good.to(values.device)] = again.jvps[finite]
        incidents = tuple(
            f"{self._name(rank)} returned numbers that are not finite for {rows_of(rows)}, the next rank did not: "
            "taken from there"
            for rank, share in enumerate(shares)
            if len(rows := share[torch.isin(share, good)])
        )
        return Outputs(values, jvps, calls, incidents)

    # -- the others -------------------------------------------------------------------------------------------------

    def _agree(self, what: str, text: str) -> None:
        said: list[Any] = [None] * self.world
        with self._watched(f"comparing the {what}"):
            dist.all_gather_object(said, text, group=self._control)
        for rank, other in enumerate(said):
            if other != said[0]:
                raise EvaluatorError(
                    f"the {what} differs: {self._name(rank)} has {other}; {self._name(0)} has {said[0]}"
                )

    def _name(self, rank: int) -> str:
        everywhere = self._ranks[rank]
        return f"rank {rank}" if everywhere == rank else f"rank {rank} of the group (rank {everywhere} of all)"

    def _watched(self, what: str) -> _Watched:
        return _Watched(self, what)

    def close(self) -> None:
        """End the process group, if it was made here."""
        if self._own and dist.is_initialized():
            dist.destroy_process_group()
            self._own = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Watched:
    """Turns what a process group raises into an error that says what happened."""

    def __init__(self, owner: Distributed, what: str) -> None:
        self._owner, self._what = owner, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError) and not isinstance(error, EvaluatorError):
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            owner = self._owner
            owner._broken = (
                f"another rank died or did not answer within {owner._timeout.total_seconds():g} s ({self._what}, seen "
                f"by {owner._name(owner.rank)}): {first}"
            )
            raise EvaluatorError(owner._broken) from error


def distributed(
    denoiser: Denoiser,
    group: Any = None,
    *,
    max_batch: int | None = None,
    jvp: bool = False,
    timeout: float | None = TIMEOUT,
    check_every: int = 8,
) -> Distributed:
    """An evaluator over the ranks of a process group; see :class:`Distributed`."""
    return Distributed(denoiser, group, max_batch=max_batch, jvp=jvp, timeout=timeout, check_every=check_every)


def _initialised(timeout: float | None) -> bool:
    """Make sure that there is a process group. Returns whether it was made here."""
    if not dist.is_available():
        raise ConfigurationError("this torch was built without torch.distributed; use the evaluator 'devices'")
    if dist.is_initialized():
        return False
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"no process group, and {', '.join(missing)} not set; start with torchrun (torchrun --nproc-per-node=2 -m "
            "paracore ...), or call torch.distributed.init_process_group first"
        )
    wait = None if timeout is None else timedelta(seconds=timeout)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=wait)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise EvaluatorError(f"the process group cannot be made: {first}") from error
    return True


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
