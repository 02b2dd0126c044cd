"""SPMD: every rank runs the same pipeline, the calls of a round are shared out, their answers gathered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from paracore.errors import EvaluatorError
from paracore.evaluators.crew import TIMEOUT
from paracore.evaluators.ranks import Ranks, checksum
from paracore_diffusers.calls import Call, tensors
from paracore_diffusers.packing import form, packed, unpacked
from paracore_diffusers.sharing import shares_of, words

__all__ = ["Distributed"]

BEGIN, CALLS, END = range(3)
"""What a rank may be doing."""
CLOSE = 1e-3, 0.05
"""How far first outputs of ranks may lie apart (relative), in single and in half precision: kernels may round."""
SEED = "give every rank the same seed (generator=torch.Generator().manual_seed(...))"
SAME = "all ranks must call the same pipeline with the same arguments, on the same kind of hardware"

WEIGHTS = "all ranks must call the same pipeline with the same prompts, guidance and weights"


class Distributed:
    """Makes this rank's share of the calls of each round, and gathers the answers of all ranks.

    The first network output is the first rank's on all of them, and after that all numbers are gathered: all ranks end
    with the same latents, which is checked. Each round has one small exchange on the CPU in which ranks report
    failures and compare what they ask for; a rank that fails, asks for something else or begins with other random
    numbers is named on all of them.

    Args:
        group: process group over which calls are shared out; ``None``: all ranks, a process group being made from what
            ``torchrun`` sets if there is none.
        each: makes a rank's share: :class:`~paracore_diffusers.execution.OneByOne` or
            :class:`~paracore_diffusers.execution.Merged`.
        timeout: seconds that a rank waits for the others; ``None``: for ever.

    Attributes:
        rank, workers: this rank's number in the group, and how many there are.

    Raises:
        ConfigurationError: without a process group or the environment to make one; for a rank outside the group.
    """

    inline = False
    always = True

    def __init__(self, group: Any, each: Any, timeout: float | None = TIMEOUT) -> None:
        self._ranks = Ranks(group, timeout)
        self._each = each
        self._round = 0
        self._far = 0
        self.rank, self.workers = self._ranks.rank, self._ranks.world

    @property
    def verdicts(self) -> dict[str, str]:
        """What was found about merging on this rank."""
        return dict(getattr(self._each, "verdicts", {}))

    def begin(self, x0: torch.Tensor, f0: torch.Tensor, generators: Sequence[torch.Tensor], steps: int) -> torch.Tensor:
        """All ranks begin a run.

        Args:
            x0: initial latents ``(B, *event)``.
            f0: this rank's network output there.
            generators: states of the random generators.
            steps: N.

        Returns:
            The first rank's ``f0``.

        Raises:
            EvaluatorError: if a rank begins with other latents, random numbers or steps, or does not answer.
        """
        self._round = 0
        kind = _digest((tuple(x0.shape), str(x0.dtype), tuple(f0.shape), str(f0.dtype), steps))
        found = self._exchange("beginning", BEGIN, [kind, checksum([x0]), checksum(generators)])
        self._compare(found, 2, "begins with latents of another shape or dtype, or another number of steps", SAME)
        self._compare(found, 3, "begins with other latents", SEED)
        self._compare(found, 4, "begins with other random generators", SEED)
        size = f0.numel() * f0.element_size()
        mine = f0.contiguous().reshape(-1).view(torch.uint8) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        sizes = [size, *(0,) * (self.workers - 1)]
        first = self._ranks.gather(mine.to(self._ranks.place(f0.device)), sizes, "the first output")[0]
        theirs = first.view(f0.dtype).reshape(f0.shape).to(f0.device)
        apart = float((f0.float() - theirs.float()).norm() / theirs.float().norm().clamp_min(1e-30))
        self._far = int(not apart <= CLOSE[f0.element_size() < 4])  # said with the first round
        return theirs

    def run(self, calls: Sequence[Call], known: Sequence[Call]) -> None:
        """Make this rank's share of the calls; all calls have their answers afterwards.

        Raises:
            EvaluatorError: if a rank died, failed, did not answer in time, or asks for other calls.
        """
        todo = [call for call in calls if not call.done]
        shares = shares_of(todo, self.workers)
        self._round += 1
        own, failure = shares[self.rank], None
        payload, pickled = torch.empty(0, dtype=torch.uint8), False
        try:
            self._each.run(own, known)
            payload, pickled = packed(own)
        except Exception as error:
            failure = error
        numbers = [len(todo), _digest([_asked(c) for c in todo]), self._far, pickled, len(payload)]
        found = self._exchange(f"round {self._round}", CALLS, numbers, failure, shares)
        self._compare(found, 4, "has another first network output", WEIGHTS)
        self._compare(found, 2, f"asks for another number of network calls in round {self._round}", SAME, count=True)
        self._compare(found, 3, f"asks for other network calls (shapes, nodes) in round {self._round}", SAME)
        home = next((t.device for c in todo for t in tensors((c.args, c.kwargs))), payload.device)
        sizes = [row[6] for row in found]
        parts = self._ranks.gather(payload.to(self._ranks.place(home)), sizes, f"answers of round {self._round}")
        for share, part, row in zip(shares, parts, found, strict=True):
            answers = unpacked(part, share, home, pickled=bool(row[5]))
            for call, answer in zip(share, answers, strict=True):
                call.result, call.done = answer, True

    def ended(self, latents: torch.Tensor | None, failure: Exception | None = None) -> None:
        """The loop is over on this rank, with these latents, or with an exception that the others are told.

        Raises:
            EvaluatorError: if another rank did not end, or ended with other latents.
        """
        if failure is None:
            found = self._exchange("the end", END, [checksum([] if latents is None else [latents])])
            self._compare(found, 2, "ends with other latents", SAME)
        elif not isinstance(failure, EvaluatorError):
            failure.add_note(f"paracore: raised on {self._ranks.name(self.rank)}; the other ranks are told")
            with suppress(EvaluatorError):
                self._exchange("a failure", END, [], failure)

    def close(self) -> None:
        """End the process group, if it was made here."""
        self._ranks.close()

    def _exchange(
        self,
        what: str,
        doing: int,
        numbers: Sequence[int],
        failure: Exception | None = None,
        shares: Sequence[Sequence[Call]] = (),
    ) -> list[list[int]]:
        numbers = [*numbers, *[0] * (5 - len(numbers))]

        def where(rank: int, theirs: Sequence[int]) -> str:
            return words(shares[rank]) if shares and theirs[0] == CALLS else ""

        found = self._ranks.exchange(what, [doing, self._round, *numbers], failure, where)
        for rank, row in enumerate(found):
            if row[:2] != found[0][:2]:
                raise EvaluatorError(
                    f"{self._ranks.name(rank)} {_doing(row)} when {self._ranks.name(0)} {_doing(found[0])}: {SAME}"
                )
        return found

    def _compare(self, found: list[list[int]], column: int, what: str, advice: str, *, count: bool = False) -> None:
        for rank, row in enumerate(found):
            if row[column] != found[0][column]:
                numbers = f" ({row[column]} and {found[0][column]})" if count else ""
                raise EvaluatorError(f"{self._ranks.name(rank)} {what}{numbers} than {self._ranks.name(0)}: {advice}")


def _doing(row: list[int]) -> str:
    return ("begins a run", f"is in round {row[1]}", f"has ended its loop after round {row[1]}")[row[0]]


def _asked(call: Call) -> Any:
    """A call in a form that is the same on all ranks that ask for it."""
    return type(call.module).__name__, call.node, *call.key[1:], form(call.like)


def _digest(value: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=7).digest(), "big")
