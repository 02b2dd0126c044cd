"""CHORDS: cores that start ever later, from coarse jumps, and are set right by the slower core behind them."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from paracore import Problem, Status
from paracore.errors import ConfigurationError
from paracore.paced import NORMS, Hit, Move, PacedSampler, Track, Turn, corrected
from paracore.parts.options import integer, number, one_of
from paracore.window import Bools, Floats, Ints
from paracore_chords.starts import RULES, begins, checked

__all__ = ["Chords"]

DEFAULT_CORES = 8


@attrs.frozen
class Chords(PacedSampler):
    """Core k starts at node ``t_k`` and makes one step a round; core 1 is the sequential sampler.

    When core ``k - 1`` evaluates the node ``b`` from which core ``k`` was last set right (or started), while core
    ``k`` evaluates ``c``: ``x_{c+1} <- F(x_c) - G(x_b^k; b -> c+1) + G(x_b^{k-1}; b -> c+1)``, with ``G`` one long jump
    with a stored output: no further evaluation. A state is taken with the memory that its next step reads; noise comes
    from the tape and is the same for all cores. A core that is not finite ends, with all faster ones, for that sample.

    Attributes:
        cores: K; ``None`` is 8, or as many as there are ``starts``.
        starts: ``t_1 = 0 < t_2 < ... < N``; ``None`` is the published sequence, scaled to N, or by ``rule``.
        rule: for counts without a published sequence: ``even`` gaps, or ``greedy``, the rule for three cores.
        stop: ``core-index`` ends at the ``index``-th core to arrive, whatever its error; ``residual`` once a
            complete sample differs from the one before by at most ``tolerance``.
        index: 1 is the fastest core, K core 1; 0 is the coarse shot of the last core, before any core arrived.
        tolerance: of the residual; 0 waits for core 1, with either stop.
        norm: how a residual is measured, one of :data:`NORMS`.
    """

    cores: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))
    starts: tuple[int, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(checked))
    stop: str = attrs.field(default="core-index", validator=one_of("core-index", "residual"))
    index: int = attrs.field(default=1, validator=integer(0))
    tolerance: float = attrs.field(default=4e-4, validator=number(0.0))
    norm: str = attrs.field(default="l2-over-size", validator=one_of(*NORMS))
    rule: str = attrs.field(default="even", validator=one_of(*RULES))

    def __attrs_post_init__(self) -> None:
        if self.tolerance == float("inf"):
            raise ConfigurationError(f"Chords: tolerance is {self.tolerance!r}; a finite number is needed")
        if self.starts is not None and self.cores is not None and self.cores != len(self.starts):
            raise ConfigurationError(
                f"Chords: cores is {self.cores}, but there are {len(self.starts)} starts; leave cores out"
            )
        if self.index > self.window:
            raise ConfigurationError(
                f"Chords: index is {self.index}; at most the number of cores, {self.window}, is needed"
            )

    @property
    def window(self) -> int:
        """K: evaluations per round and sample."""
        if self.starts is not None:
            return len(self.starts)
        return DEFAULT_CORES if self.cores is None else self.cores

    @property
    def outcome(self) -> Status:
        """A fixed core promises nothing about its error."""
        return Status.CONVERGED if self.stop == "residual" else Status.BUDGET_COMPLETED

    def begins(self, steps: int) -> tuple[int, ...]:
        """The node at which each core starts, for N steps.

        Raises:
            ConfigurationError: if a core starts beyond the last step.
        """
        if self.starts is None:
            return begins(self.window, steps, self.rule)
        if self.starts[-1] >= steps:
            raise ConfigurationError(
                f"Chords: a core starts at node {self.starts[-1]}, but the scheme has {steps} steps: "
                f"the last start is {steps - 1}"
            )
        return self.starts

    def first(self, problem: Problem, track: Track) -> dict[str, Any]:
        """Where each core was last set right: its track there, and its output, once evaluated."""
        self.begins(problem.scheme.steps)
        return {"begin": (track,), "output": (None,)}

    def follow(self, turn: Turn) -> tuple[tuple[Track, ...], dict[str, Any], list[Hit]]:
        """Every core makes its step, the faster ones are set right, the newest sends out the next one."""
        starts, steps = self.begins(turn.problem.scheme.steps), turn.problem.scheme.steps
        begin, output = list(turn.memory["begin"]), list(turn.memory["output"])
        moves = {move.before.key[0]: move for move in turn.moves}
        ahead = {core: turn.step(move) for core, move in moves.items()}
        tracks: list[Track] = []
        hits: list[Hit] = []
        alive = np.ones(turn.problem.batch, dtype=np.bool_)
        for core, move in moves.items():
            after = ahead[core]
            if begin[core].node == move.before.node:
                output[core] = move.output
            behind = moves.get(core - 1)
            if behind is not None and behind.before.node == begin[core].node:
                after = self._rectified(turn, move, after, behind, ahead[core - 1], begin[core], output[core])
                begin[core], output[core] = after, None
            # A slower core that ended would never set this one right again.
            alive = turn.agreed(alive & after.alive)
            after = attrs.evolve(after, alive=alive)
            turn.place(after.node, after.states[0], alive)
            if after.node == steps:
                hits.insert(0, Hit(after.states[0], turn.running if core == 0 else alive, core == 0))
            else:
                tracks.append(after)
            if core == len(begin) - 1 and move.before.node == starts[core]:
                last = core == len(starts) - 1
                sent = turn.jump(move, steps if last else starts[core + 1])
                sent = attrs.evolve(sent, key=(core + 1, 0, 0), alive=turn.agreed(alive & sent.alive))
                if turn.trajectory is not None:
                    for node in range(move.before.node + 2, sent.node + 1):
                        turn.place(node, turn.jump(move, node).states[0], sent.alive)
                if last:
                    hits.insert(0, Hit(sent.states[0], sent.alive, False, counts=False))
                else:
                    tracks.append(sent)
                    begin.append(sent)
                    output.append(None)
        return tuple(tracks or [turn.exact]), {"begin": tuple(begin), "output": tuple(output)}, hits

    def _rectified(
        self, turn: Turn, move: Move, after: Track, behind: Move, step_behind: Track, begin: Track, output: Any
    ) -> Track:
        """The core's next state, moved by how much better the slower core knows the last common node."""
        if begin.node == move.before.node:  # the core's step and its jump are one evaluation and cancel
            alive = after.alive & step_behind.alive
            return attrs.evolve(step_behind, key=after.key, alive=alive)
        new = turn.jump(behind, after.node)
        old = turn.jump(Move(begin, output), after.node)
        return corrected(after, new, old)

    def accepts(self, hits: Ints, change: Floats) -> Bools:
        """The core that was asked for, or a small change since the last complete sample."""
        if self.stop == "residual":
            return np.asarray(change <= self.tolerance)
        return np.asarray(hits >= self.index)
