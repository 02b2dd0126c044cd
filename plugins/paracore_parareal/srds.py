"""Parareal, pipelined: blocks are swept finely side by side, and a coarse solver carries the corrections."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from paracore import Problem, Status
from paracore.errors import ConfigurationError
from paracore.paced import NORMS, Hit, PacedSampler, Track, Turn, corrected, where_tracks
from paracore.parts.options import integer, number, one_of
from paracore.window import Bools, Floats, Ints
from paracore_parareal.layout import Layout, layout

__all__ = ["SRDS"]

FINE, COARSE = 0, 1


@attrs.frozen
class SRDS(PacedSampler):
    """``U_{k+1}^{i+1} = F(U_k^i) + G(U_{k+1}^i) - G(U_k^i)``, each task as soon as its start state exists.

    A task ``(i, k)`` sweeps block ``i`` from the ``k``-th iterate of its start state, with the scheme's own steps
    (``F``). Its first evaluation is also that of its coarse jump (``G``), made once. A state of the scheme is taken
    with the memory that its next step reads, so multistep and stage tables are corrected as a whole; noise comes from
    the tape and is the same for ``F`` and ``G``.

    Attributes:
        blocks: p; ``None`` is the rounded square root of N.
        coarse: evaluations of the coarse solver in a block; between them the output is held.
        window: most evaluations per round and sample; ``None`` is as many as there are tasks to advance.
        tolerance: of the change of the sample between two iterations; 0 waits for the exact chain.
        norm: how that change is measured, one of :data:`NORMS`.
    """

    blocks: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))
    coarse: int = attrs.field(default=1, validator=integer(1))
    window: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))
    tolerance: float = attrs.field(default=1e-3, validator=number(0.0))
    norm: str = attrs.field(default="l1", validator=one_of(*NORMS))

    def __attrs_post_init__(self) -> None:
        if self.tolerance == float("inf"):
            raise ConfigurationError(f"SRDS: tolerance is {self.tolerance!r}; a finite number is needed")

    @property
    def outcome(self) -> Status:
        """The change is small."""
        return Status.CONVERGED

    @property
    def most(self) -> int | None:
        """The window."""
        return self.window

    def steps(self, track: Track) -> bool:
        """The fine tasks."""
        return track.key[2] == FINE

    def first(self, problem: Problem, track: Track) -> dict[str, Any]:
        """The starts of the blocks, and what the tasks have brought so far, by ``(block, iteration)``."""
        plan = self._layout(problem)
        return {
            "starts": {0: track},
            "formed": [0] + [-1] * plan.blocks,
            "sound": {(0, 0): np.ones(problem.batch, dtype=np.bool_)},
            "fine": {},
            "coarse": {},
        }

    def follow(self, turn: Turn) -> tuple[tuple[Track, ...], dict[str, Any], list[Hit]]:
        """Advance the tasks, then form every start state whose three ingredients exist."""
        plan = self._layout(turn.problem)
        memory = {name: value.copy() for name, value in turn.memory.items()}
        tracks = list(turn.waiting)
        for move in turn.moves:
            block, iteration, kind = move.before.key
            task, node = (block, iteration), move.before.node
            if kind == FINE:
                after = turn.step(move)
                if after.node < plan.end(block):
                    tracks.append(after)
                else:
                    memory["fine"][task] = after
                    if plan.trivial(block):
                        memory["coarse"][task] = after
            if kind == COARSE or (node == plan.begin(block) and not plan.trivial(block)):
                cut = plan.coarse[block]
                jump = turn.jump(move, cut[cut.index(node) + 1])
                if jump.node < plan.end(block):
                    tracks.append(attrs.evolve(jump, key=(block, iteration, COARSE)))
                else:
                    memory["coarse"][task] = jump
        hits: list[Hit] = []
        for boundary in range(1, plan.blocks + 1):
            while (formed := _form(turn, plan, memory, boundary)) is not None:
                start, sound, iteration = formed
                exact = iteration == plan.exact[boundary]
                memory["formed"][boundary] = iteration
                turn.place(start.node, start.states[0], sound)
                if boundary == plan.blocks:
                    hits.append(Hit(start.states[0], turn.running if exact else sound, exact))
                else:
                    memory["starts"][boundary] = start
                    memory["sound"][boundary, iteration] = sound
                    tracks.append(attrs.evolve(start, key=(boundary, iteration, FINE)))
                if exact:  # whatever still runs before here, or could have come of it, has been overtaken
                    tracks = [t for t in tracks if t.key[0] >= boundary]
                    for name in ("fine", "coarse", "sound"):
                        memory[name] = {task: v for task, v in memory[name].items() if task[0] >= boundary}
                    memory["starts"] = {i: v for i, v in memory["starts"].items() if i >= boundary}
                elif iteration > 0:
                    for name in ("fine", "coarse", "sound"):
                        memory[name].pop((boundary - 1, iteration - 1), None)

        def order(track: Track) -> tuple[bool, int, int, int]:
            block, iteration, kind = track.key
            return (iteration != plan.exact[block] or kind == COARSE, iteration, block, -kind)

        if not tracks:  # the exact chain has arrived
            tracks = [turn.exact]
        return tuple(sorted(tracks, key=order)), memory, hits

    def accepts(self, hits: Ints, change: Floats) -> Bools:
        """Small change since the iteration before."""
        return np.asarray(change <= self.tolerance)

    def _layout(self, problem: Problem) -> Layout:
        return layout("SRDS", problem.scheme, self.blocks, self.coarse)


def _form(turn: Turn, plan: Layout, memory: dict[str, Any], boundary: int) -> tuple[Track, Bools, int] | None:
    """The next iterate at a boundary with the samples for which it is sound, if its ingredients exist.

    A sample whose ingredients are not finite gets some finite state instead, so that it can go on: such an iterate is
    as good a guess as any, but says nothing about convergence.
    """
    block, iteration, exact = boundary - 1, memory["formed"][boundary] + 1, plan.exact[boundary]
    fine, coarse, sound = memory["fine"], memory["coarse"], memory["sound"]
    if iteration > exact:
        return None
    start = (block, plan.exact[block])
    if iteration == exact and start in fine:
        return fine[start], turn.running, exact
    new, old = (block, iteration), (block, iteration - 1)
    value: Track | None = None
    if (iteration == 0 or plan.trivial(block)) and new in coarse:
        value, guess = coarse[new], None
    elif old in fine and old in coarse and new in coarse:
        value, guess = corrected(fine[old], coarse[new], coarse[old]), coarse[new]
    if value is None:
        if start in fine:  # overtaken: with few evaluations per round the exact chain comes first
            return fine[start], turn.running, exact
        return None
    good = turn.agreed(value.alive) & sound[new]
    previous = memory["starts"].get(boundary, memory["starts"][block])
    whole = np.ones_like(good)
    rest = attrs.evolve(previous, alive=whole)
    if guess is not None:
        rest = where_tracks(guess.alive, guess, rest)
    return attrs.evolve(where_tracks(value.alive, value, rest), alive=whole), good, iteration
