"""Parareal with a coarse solver of second order that costs one evaluation a block."""

from __future__ import annotations

import math
from typing import Any

import attrs
import numpy as np
import torch

from paracore import Problem, Status
from paracore.errors import ConfigurationError
from paracore.paced import NORMS, Hit, Move, PacedSampler, Track, Turn, corrected
from paracore.parts.options import integer, number, one_of
from paracore.window import Bools, Floats, Ints

__all__ = ["TwoStepParareal"]


@attrs.frozen
class TwoStepParareal(PacedSampler):
    """``U_{k+1}^{i+1} = F(U_k^i) + G(U_{k+1}^i) - G(U_k^i)``, with a ``G`` that goes on as the outputs did.

    ``F`` sweeps a block of the trajectory with the scheme's own steps, all blocks side by side. ``G`` sweeps it with
    outputs extrapolated in time through those at the starts of this block and of the one before: Adams and Bashforth's
    two-step method on the scheme's own grid, at one evaluation a block, which is also the first of ``F``. Outputs are
    extrapolated in the form that is calmest for the scheme. A task starts as soon as its start state exists, so that
    iterations overlap. States are corrected with the memory that their next step reads, and noise comes from the tape,
    so every scheme will do. Block i is exact after i iterations, and its sweep is the sequential sampler: there are at
    most N rounds, and at tolerance 0 its bits are the answer.

    A sample whose numbers leave the finite ones in a block waits there for an iterate from blocks before.

    Attributes:
        blocks: p, at most N / 2; ``None`` is the rounded square root of 2 N: two iterations then take fewest rounds.
        order: of the coarse solver: 2, or 1 to hold the output.
        window: most evaluations per round and sample; ``None`` is as many as there are tasks.
        tolerance: of the change of the sample from one iteration to the next; 0 waits for the exact chain.
        norm: how that change is measured, one of :data:`paracore.paced.NORMS`.
    """

    blocks: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))
    order: int = attrs.field(default=2, validator=integer(1))
    window: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))
    tolerance: float = attrs.field(default=0.02, validator=number(0.0))
    norm: str = attrs.field(default="relative", validator=one_of(*NORMS))

    def __attrs_post_init__(self) -> None:
        if self.order > 2:
            raise ConfigurationError(
                f"TwoStepParareal: order is {self.order}; use 1 (outputs held) or 2 (extrapolated)"
            )

    @property
    def outcome(self) -> Status:
        """The change is small."""
        return Status.CONVERGED

    @property
    def most(self) -> int | None:
        """The window."""
        return self.window

    def first(self, problem: Problem, track: Track) -> dict[str, Any]:
        """What the tasks have brought so far, by ``(block, iteration)``."""
        return {"formed": [0] + [-1] * (len(self._bounds(problem)) - 1), "fine": {}, "coarse": {}, "held": {}}

    def follow(self, turn: Turn) -> tuple[tuple[Track, ...], dict[str, Any], list[Hit]]:
        """Advance the tasks, then form every start state whose ingredients exist."""
        bounds = self._bounds(turn.problem)
        memory = {name: value.copy() for name, value in turn.memory.items()}
        tracks = list(turn.waiting)
        for move in turn.moves:
            block, iteration = task = _task(move.before)
            if move.before.node == bounds[block]:
                self._shoot(turn, move, memory, bounds, task)
            after = turn.step(move)
            if after.node < bounds[block + 1]:
                tracks.append(after)
            else:
                memory["fine"][task] = after
        hits: list[Hit] = []
        for boundary in range(1, len(bounds)):
            while (start := _formed(turn, memory, boundary)) is not None:
                iteration = memory["formed"][boundary] = start.key[1]
                exact = iteration == boundary
                turn.place(start.node, start.states[0], start.alive)
                if exact:  # what was begun before here has been overtaken
                    tracks = [t for t in tracks if t.key[0] >= boundary]
                    for name, least in (("fine", boundary), ("coarse", boundary), ("held", boundary - 1)):
                        memory[name] = {t: v for t, v in memory[name].items() if t[0] >= least}
                if boundary < len(bounds) - 1:
                    tracks.append(start)
                else:
                    hits.append(Hit(start.states[0], turn.running if exact else start.alive, exact, iteration > 0))
        tracks.sort(key=lambda t: (t.key[0] != t.key[1], t.key[1], t.key[0]))  # the exact chain first
        return tuple(tracks or [turn.exact]), memory, hits

    def accepts(self, hits: Ints, change: Floats) -> Bools:
        """Small change since the iteration before."""
        return np.asarray(change <= self.tolerance)

    def _bounds(self, problem: Problem) -> tuple[int, ...]:
        """The nodes where blocks begin and the last one ends."""
        steps = problem.scheme.steps
        most = max(1, steps // 2)
        count = min(max(1, round(math.sqrt(2 * steps))), most) if self.blocks is None else self.blocks
        if count > most:
            raise ConfigurationError(
                f"TwoStepParareal: blocks is {count}; scheme {problem.scheme.name!r} has {steps} steps, so that at "
                f"most {most} blocks have two: use blocks={most} or fewer"
            )
        return tuple(i * steps // count for i in range(count + 1))

    def _shoot(
        self, turn: Turn, move: Move, memory: dict[str, Any], bounds: tuple[int, ...], task: tuple[int, int]
    ) -> None:
        """The coarse solve of a block from the first evaluation of its task."""
        scheme, track = turn.problem.scheme, move.before
        block, iteration = task
        u, v = scheme.gain("auto")
        node, stop = track.node, bounds[block + 1]
        held = (move.output - track.states[0] * float(u[node])) / float(v[node])
        memory["held"][task] = held
        before, slope = memory["held"].get((block - 1, min(iteration, block - 1))), torch.zeros_like(held)
        gap = 0.0 if block == 0 else float(scheme.time[node] - scheme.time[bounds[block - 1]])
        if self.order == 2 and before is not None and gap != 0.0:
            slope = (held - before) / gap
        shot = track
        for n in range(node, stop):
            output = move.output
            if n > node:
                calm = held + slope * float(scheme.time[n] - scheme.time[node])
                output = (shot.states[0] * float(u[n]) + calm * float(v[n])).to(held.dtype)
            outputs = (output, *shot.outputs)
            state = scheme.step(n, shot.states, outputs, turn.tape.row(n))
            states = (state, *shot.states)[: scheme.memory + 1]
            shot = attrs.evolve(shot, node=n + 1, states=states, outputs=outputs[: scheme.memory])
        finite = torch.stack([x.flatten(1).isfinite().all(dim=1) for x in shot.states]).all(dim=0)
        memory["coarse"][task] = attrs.evolve(shot, alive=turn.agreed(track.alive & finite.cpu().numpy()))


def _task(track: Track) -> tuple[int, int]:
    """``(block, iteration)``."""
    return track.key[0], track.key[1]


def _formed(turn: Turn, memory: dict[str, Any], boundary: int) -> Track | None:
    """The next iterate at a boundary, if its ingredients exist, as the first state of the block's task."""
    block, iteration = boundary - 1, memory["formed"][boundary] + 1
    fine, coarse = memory["fine"], memory["coarse"]
    start: Track | None = None
    if iteration <= boundary and (block, block) in fine:  # the exact sweep has arrived: nothing else is worth it
        start, iteration = fine[block, block], boundary
    elif iteration == 0:
        start = coarse.get((block, 0))
    elif iteration < boundary:
        new, old = (block, iteration), (block, iteration - 1)
        if old in fine and old in coarse and new in coarse:
            start = corrected(fine[old], coarse[new], coarse[old])
            start = attrs.evolve(start, alive=turn.agreed(start.alive))
            for kind in (fine, coarse):  # nothing else is made of them
                kind.pop(old)
    return None if start is None else attrs.evolve(start, key=(boundary, iteration))
