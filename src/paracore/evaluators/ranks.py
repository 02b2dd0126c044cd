"""The ranks of a process group that share work out: one small exchange per round, bytes gathered, failures named."""

from __future__ import annotations

import atexit
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from paracore.errors import ConfigurationError, EvaluatorError
from paracore.evaluators.crew import TIMEOUT, check_timeout

__all__ = ["Ranks", "checksum"]

TEXT = 240
"""Bytes of a failed rank's message."""
WIDTH = 8
"""Numbers in one exchange."""


_MOMENT = 0.05
_CLOSED = "this was closed; make a new one"


_CONTROLS: dict[tuple[tuple[int, ...], timedelta], tuple[Any, Any]] = {}
"""By ranks and timeout: all ranks, as they were then, and the gloo group for exchanges. One serves all that share work
out over these ranks; torch finds no free name for a second one after the first was destroyed."""


def _control_group(ranks: Sequence[int], timeout: timedelta) -> Any:
    key = tuple(ranks), timeout
    world, known = _CONTROLS.get(key, (None, None))
    if world is not dist.group.WORLD:  # none yet, or of a process group that has ended
        known = dist.new_group(list(ranks), backend="gloo", timeout=timeout, use_local_synchronization=True)
        _CONTROLS[key] = dist.group.WORLD, known
    return known


@functools.cache
def _settle_at_exit() -> None:
    """gloo's thread may be the last to let go of the tensors of an exchange. It needs the interpreter for that, and
    aborts the process if that has ended in the meantime: it is given a moment to finish before that."""
    atexit.register(time.sleep, _MOMENT)


def _destroy() -> None:
    _CONTROLS.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def _nowhere(rank: int, numbers: Sequence[int]) -> str:
    return ""


class Ranks:
    """The ranks over which work is shared out (SPMD): every rank makes the same calls of these methods, in turn.

    Args:
        group: their process group; ``None``: all ranks. Without an initialised process group one is made from the
            environment that ``torchrun`` sets (NCCL with CUDA, gloo without).
        timeout: seconds that a rank waits for the others; ``None``: for ever.

    Attributes:
        rank: this one's number in the group.
        world: how many there are.
        broken: why nothing can be exchanged any more; empty as long as all ranks answer.

    Raises:
        ConfigurationError: without a process group or the environment to make one; for a rank outside the group.
    """

    def __init__(self, group: Any = None, timeout: float | None = TIMEOUT) -> None:
        check_timeout(timeout)
        _initialise(timeout)
        group = group if group is not None else dist.group.WORLD
        self.rank = dist.get_rank(group)
        self.world = dist.get_world_size(group)
        if self.rank < 0:
            raise ConfigurationError("this rank is not in the process group given; call this on its members")
        self.broken = ""
        self._everywhere = dist.get_process_group_ranks(group)
        self._seconds = timeout
        wait = timedelta(seconds=timeout) if timeout is not None else timedelta(days=365)
        self._control = _control_group(self._everywhere, wait)
        self._nccl = "nccl" in str(dist.get_backend(group))
        self._group = group
        _settle_at_exit()

    def name(self, rank: int) -> str:
        """A rank of the group in words."""
        everywhere = self._everywhere[rank]
        return f"rank {rank}" if everywhere == rank else f"rank {rank} of the group (rank {everywhere} of all)"

    def place(self, home: torch.device) -> torch.device:
        """Where :meth:`gather` takes bytes from: ``home`` for CUDA with NCCL, else the CPU."""
        return home if self._nccl and home.type == "cuda" else torch.device("cpu")

    def exchange(
        self,
        what: str,
        numbers: Sequence[int],
        failure: BaseException | None = None,
        where: Callable[[int, Sequence[int]], str] = _nowhere,
    ) -> list[list[int]]:
        """Report, and look at what the others report: one small all-gather on the CPU.

        Args:
            what: that is going on, for messages.
            numbers: at most eight.
            failure: of this rank's share.
            where: the share in words of a rank that fails, from its number and its numbers.

        Returns:
            The numbers of each rank.

        Raises:
            EvaluatorError: if a rank died, did not answer in time, or reports a failure.
        """
        head = torch.tensor([failure is not None, *numbers, *[0] * (WIDTH - len(numbers))])
        said = torch.zeros(TEXT, dtype=torch.uint8)
        if failure is not None:
            text = f"{type(failure).__name__}: {failure}".encode()[:TEXT]
            said[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        mine = torch.cat([head.view(torch.uint8), said])
        rows = self._all_gather(mine, what, self._control)
        size = head.numel() * 8
        found = rows[:, :size].contiguous().view(torch.int64).tolist()
        for rank, row in enumerate(found):
            if row[0]:
                words = bytes(rows[rank, size:].tolist()).rstrip(b"\0").decode(errors="replace")
                there = where(rank, row[1:])
                error = EvaluatorError(f"{self.name(rank)}{', ' if there else ''}{there}: {words}")
                if failure is not None and rank == self.rank:
                    raise error from failure
                raise error
        return [row[1 : 1 + len(numbers)] for row in found]

    def gather(self, mine: torch.Tensor, sizes: Sequence[int], what: str) -> list[torch.Tensor]:
        """Bytes of all ranks.

        Args:
            mine: ``(sizes[rank],)`` uint8, on :meth:`place`.
            sizes: of all ranks.
            what: they are, for messages.

        Raises:
            EvaluatorError: if a rank died or did not answer in time.
        """
        size = max(-(-max(sizes) // 16), 1) * 16
        padded = mine
        if len(mine) < size:
            padded = torch.zeros(size, dtype=torch.uint8, device=mine.device)
            padded[: len(mine)] = mine
        everyone = self._all_gather(padded, what, self._group if mine.is_cuda else self._control)
        return [row[:size] for row, size in zip(everyone, sizes, strict=True)]

    def gather_object(self, mine: Any, what: str) -> list[Any]:
        """Plain objects of all ranks, pickled.

        Raises:
            EvaluatorError: if a rank died or did not answer in time.
        """
        said: list[Any] = [None] * self.world
        with self._watched(what):
            dist.all_gather_object(said, mine, group=self._control)
        return said

    def broadcast(self, data: Any) -> Any:
        """A plain object of the group's first rank, pickled, on all of them.

        Raises:
            EvaluatorError: if a rank died or did not answer in time.
        """
        box = [data]
        with self._watched("broadcast"):
            dist.broadcast_object_list(box, src=self._everywhere[0], group=self._control)
        return box[0]

    def _all_gather(self, mine: torch.Tensor, what: str, group: Any) -> torch.Tensor:
        everyone = torch.empty(self.world, len(mine), dtype=torch.uint8, device=mine.device)
        with self._watched(what):
            dist.all_gather(list(everyone), mine, group=group)
        return everyone

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """Turns what a process group raises into an error that says what happened."""
        if self.broken:
            raise EvaluatorError(self.broken)
        try:
            yield
        except RuntimeError as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            limit = "in time" if self._seconds is None else f"within {self._seconds:g} s"
            self.broken = (
                f"another rank died or did not answer {limit} ({what}, seen by {self.name(self.rank)}): {first}"
            )
            raise EvaluatorError(self.broken) from error

    def close(self) -> None:
        """Exchange nothing any more. A process group that was made here serves whoever comes next, and ends with the
        process: made a second time under one ``torchrun``, ranks wait for each other for ever."""
        self.broken = _CLOSED


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """Of the bits of tensors, and where they are: equal tensors have equal ones."""
    total = 0
    for tensor in tensors:
        flat = tensor.detach().contiguous().reshape(-1)
        flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
        kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
        bits = flat.view(kinds[flat.element_size()])
        place = torch.arange(len(bits), device=bits.device) % 251 + 1
        total = (total * 1000003 + int((bits * place).sum(dtype=torch.int64))) % 2**62
    return total


def _initialise(timeout: float | None) -> None:
    """Make sure that there is a process group."""
    if not dist.is_available():
        raise ConfigurationError("this torch was built without torch.distributed; use several devices instead")
    if dist.is_initialized():
        return
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigurationError(
            f"no process group, and {', '.join(missing)} not set; start with torchrun (torchrun --nproc-per-node=2 "
            "...), or call torch.distributed.init_process_group first"
        )
    wait = None if timeout is None else timedelta(seconds=timeout)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=wait)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise EvaluatorError(f"the process group cannot be made: {first}") from error
    atexit.register(_destroy)
