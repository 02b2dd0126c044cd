"""One round, as a method sees it: which tracks were evaluated, and what they may do with their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch

from paracore.paced.tracks import Track, jumped
from paracore.problem import NoiseTape, Problem
from paracore.window import Bools, where_rows

__all__ = ["Hit", "Move", "Turn", "take"]


@attrs.frozen(eq=False)
class Move:
    """A track that was evaluated.

    Attributes:
        before: the track, its newest state being the one that was evaluated.
        output: ``(B, *event)`` network output there, zero where there is none.
    """

    before: Track
    output: torch.Tensor


@attrs.frozen(eq=False)
class Hit:
    """A complete sample.

    Attributes:
        sample: ``(B, *event)``.
        valid: ``(B,)`` samples that it counts for.
        exact: it is the sequential sampler's.
        counts: it is more than a coarse shot.
    """

    sample: torch.Tensor
    valid: Bools
    exact: bool
    counts: bool = True


@attrs.frozen(eq=False)
class Turn:
    """What a method works with in one round.

    Attributes:
        problem: what is sampled.
        tape: its noise.
        moves: the tracks that were evaluated, the exact chain first.
        steps: the tracks that step after it, by their keys.
        waiting: the tracks that were not evaluated.
        running: ``(B,)`` samples that are not done.
        memory: what the method keeps beside its tracks; it is replaced by what ``follow`` returns.
        trajectory: ``(N + 1, B, *event)`` states of the exact chain so far, if asked for.
    """

    problem: Problem
    tape: NoiseTape
    moves: tuple[Move, ...]
    steps: dict[tuple[int, ...], Track]
    waiting: tuple[Track, ...]
    running: Bools
    memory: dict[str, Any]
    trajectory: torch.Tensor | None

    @property
    def exact(self) -> Track:
        """The exact chain after its step."""
        return self.steps[self.moves[0].before.key]

    def agreed(self, alive: Bools) -> Bools:
        """In a lockstep problem a track is evaluated for all samples or for none."""
        if self.problem.lockstep and not alive[self.running].all():
            return np.zeros_like(alive)
        return alive

    def step(self, move: Move) -> Track:
        """The track one node on."""
        after = self.steps[move.before.key]
        if move is self.moves[0]:
            return after
        after = attrs.evolve(after, alive=self.agreed(after.alive))
        self.place(after.node, after.states[0], after.alive)
        return after

    def jump(self, move: Move, stop: int) -> Track:
        """The track at ``stop``, its newest output held."""
        after = jumped(self.problem.scheme, self.tape, move.before, move.output, stop)
        return attrs.evolve(after, alive=self.agreed(after.alive))

    def place(self, node: int, state: torch.Tensor, mask: Bools) -> None:
        """Keep a state in the trajectory, if there is one; the exact chain's are never overwritten."""
        if self.trajectory is not None and node > self.exact.node:
            self.trajectory[node] = where_rows(mask & self.running, state, self.trajectory[node])


def take(chosen: Sequence[Track], mask: Bools, values: torch.Tensor) -> tuple[tuple[Move, ...], Bools]:
    """Scatter the outputs; a track ends for samples whose output is not finite. Also ``(tracks, B)``: which are."""
    peaks = torch.linalg.vector_norm(values.reshape(len(values), -1), ord=float("inf"), dim=1)
    finite = np.zeros_like(mask)
    finite[mask] = torch.isfinite(peaks).cpu().numpy()
    moves, taken = [], 0
    for track, asked, good in zip(chosen, mask, finite, strict=True):
        count = int(asked.sum())
        block, taken = values[taken : taken + count], taken + count
        if good.all():
            output = block.clone()  # not a view: a track that waits must not keep the whole request alive
        else:
            output = torch.zeros_like(track.states[0])
            output[torch.from_numpy(np.flatnonzero(good)).to(output.device)] = block[
                torch.from_numpy(good[asked]).to(output.device)
            ]
        moves.append(Move(attrs.evolve(track, alive=good), output))
    return tuple(moves), finite
