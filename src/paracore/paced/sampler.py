"""The frame of samplers that advance several tracks side by side: one evaluation of each track per round.

The order of the tracks is fixed by the method and N alone, so all samples keep in step; what is decided per sample is
which of its tracks are still finite and when it ends. Track 0 is the exact chain: the sequential sampler itself.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch

from paracore.exchange import check_outputs, gather
from paracore.paced.norms import distance
from paracore.paced.shown import data_prediction, round_trace
from paracore.paced.state import PacedState, from_data, to_data
from paracore.paced.tracks import Track, stepped
from paracore.paced.turn import Hit, Turn, take
from paracore.problem import Problem
from paracore.request import Outputs, Request
from paracore.result import Result
from paracore.sampler import Sampler
from paracore.status import Status
from paracore.window import Bools, Floats, Ints, where_rows

__all__ = ["PacedSampler"]


class PacedSampler(Sampler):
    """Methods say how their tracks follow each other (:meth:`first`, :meth:`follow`) and when to stop.

    A method is a frozen record of options: its ``repr`` names the owner of a checkpoint.

    Attributes:
        tolerance: of what :meth:`accepts` compares; at 0 only the exact chain ends a sample.
        norm: how the change of a complete sample is measured, one of :data:`~paracore.paced.NORMS`.
    """

    tolerance: float
    norm: str

    @property
    @abc.abstractmethod
    def outcome(self) -> Status:
        """How a sample that :meth:`accepts` ends."""

    @property
    def most(self) -> int | None:
        """Most tracks evaluated in a round; ``None`` is no limit."""
        return None

    def steps(self, track: Track) -> bool:
        """Whether a track makes a step of the scheme after an evaluation, not a jump."""
        return True

    @abc.abstractmethod
    def first(self, problem: Problem, track: Track) -> dict[str, Any]:
        """What the method keeps, before the first round; ``track`` is the exact chain at node 0.

        Raises:
            ConfigurationError: if an option cannot work for this problem.
        """

    @abc.abstractmethod
    def follow(self, turn: Turn) -> tuple[tuple[Track, ...], dict[str, Any], list[Hit]]:
        """Tracks, memory and complete samples after a round; the worst sample first, the exact one last."""

    @abc.abstractmethod
    def accepts(self, hits: Ints, change: Floats) -> Bools:
        """``(B,)`` whether a complete sample is good enough, by how many there are and by its change."""

    # -- start, request -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(
        self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False
    ) -> PacedState:
        """The state before the first request."""
        x0, batch, store = problem.x0.detach().clone(), problem.batch, None
        track = Track((0, 0, 0), 0, (x0,), (), np.ones(batch, dtype=np.bool_))
        memory = self.first(problem, track)
        if trajectory:
            store = torch.zeros((problem.scheme.steps + 1, *x0.shape), dtype=x0.dtype, device=x0.device)
            store[0] = x0
        return PacedState(
            problem=problem,
            tape=problem.tape(),
            tracks=(track,),
            memory=memory,
            front=np.zeros(batch, dtype=np.int64),
            status=np.zeros(batch, dtype=np.int64),
            rounds=np.zeros(batch, dtype=np.int64),
            evaluations=np.zeros(batch, dtype=np.int64),
            hits=np.zeros(batch, dtype=np.int64),
            residual=np.zeros(batch),
            last=x0,
            seen=np.zeros(batch, dtype=np.bool_),
            final=x0,
            trajectory=store,
            trace=() if trace else None,
            preview=preview,
        )

    def request(self, state: PacedState) -> Request | None:
        """The newest state of each track, for all running samples; ``None`` when all have ended."""
        if not state.running.any():
            return None
        state.tape.free(min(track.node for track in state.tracks))
        chosen, mask = self._chosen(state)
        nodes = np.repeat(np.array([[track.node] for track in chosen], dtype=np.int64), len(state.front), axis=1)
        return gather(state.problem, nodes, mask, [track.states[0] for track in chosen], None)

    def _chosen(self, state: PacedState) -> tuple[tuple[Track, ...], Bools]:
        """The tracks of the next request, and for which samples ``(tracks, B)``."""
        chosen = state.tracks[: self.most]
        return chosen, np.stack([track.alive & state.running for track in chosen])

    # -- advance ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def advance(self, state: PacedState, outputs: Outputs) -> PacedState:
        """One round: every chosen track takes its output, the method draws its conclusions.

        Raises:
            DenoiserError: for outputs of wrong shape, dtype or device.
        """
        chosen, mask = self._chosen(state)
        rows = int(mask.sum())
        check_outputs(outputs.values, rows, state.problem.x0)
        moves, finite = take(chosen, mask, outputs.values)
        before = moves[0].before
        walking = [move for move in moves if self.steps(move.before)]
        after = stepped(
            state.problem.scheme, state.tape, [move.before for move in walking], [move.output for move in walking]
        )
        exact = after[0]
        status = np.where(state.running & ~exact.alive, int(Status.NONFINITE_STATE), state.status)
        status = np.where(state.running & ~finite[0], int(Status.NONFINITE_OUTPUT), status)
        running = np.asarray(status == Status.RUNNING)
        if state.trajectory is not None:
            state.trajectory[exact.node] = where_rows(running, exact.states[0], state.trajectory[exact.node])
        turn = Turn(
            state.problem,
            state.tape,
            moves,
            {track.key: track for track in after},
            state.tracks[len(chosen) :],
            running,
            state.memory,
            state.trajectory,
        )
        tracks, memory, hits = self.follow(turn) if running.any() else (state.tracks, state.memory, [])
        new = attrs.evolve(
            state,
            tracks=tracks,
            memory=memory,
            status=status,
            front=np.where(running, exact.node, state.front),
            final=where_rows(state.running & ~running, before.states[0], state.final),
            rounds=state.rounds + state.running,
            evaluations=state.evaluations + mask.sum(axis=0),
            calls=state.calls + outputs.calls,
            largest=max(state.largest, rows),
            total_rounds=state.total_rounds + 1,
        )
        if state.preview:
            new = attrs.evolve(new, newest=data_prediction(state, moves[0], running))
        new = self._accept(new, running, hits)
        if state.trace is not None:
            new = attrs.evolve(new, trace=(*state.trace, round_trace(state, new, chosen, mask)))
        return new

    def _accept(self, state: PacedState, running: Bools, hits: Sequence[Hit]) -> PacedState:
        """End the samples that are good enough. Of several in one round the last is the best."""
        count, seen, last, newest = state.hits, state.seen, state.last, state.newest
        status, final, residual = state.status, state.final, state.residual
        taken = np.zeros_like(running)
        for hit in hits:
            valid = hit.valid & running
            count = count + (valid & hit.counts)
            change = np.where(seen & valid, distance(hit.sample, last, self.norm, seen & valid), np.nan)
            good = valid & hit.exact
            if self.tolerance > 0 and not hit.exact:
                good = valid & (self.accepts(count, change) | taken)
            if state.problem.lockstep and not good[running].all():
                good = np.zeros_like(good)
            outcome = Status.EXACT if hit.exact else self.outcome
            status = np.where(good, int(outcome), status)
            residual = np.where(good, 0.0 if hit.exact else change, residual)
            final = where_rows(good, hit.sample, final)
            last, seen, taken = where_rows(valid, hit.sample, last), seen | valid, taken | good
            if newest is not None:
                newest = where_rows(valid, hit.sample, newest)
        if state.trajectory is not None:
            state.trajectory[-1] = where_rows(taken, final, state.trajectory[-1])
        front = np.where(taken, state.problem.scheme.steps, state.front)
        return attrs.evolve(
            state,
            hits=count,
            seen=seen,
            last=last,
            newest=newest,
            status=status,
            final=final,
            residual=residual,
            front=front,
        )

    # -- results ------------------------------------------------------------------------------------------------

    def result(self, state: PacedState, *, unfinished: Status = Status.INTERRUPTED) -> Result:
        """The result so far: samples that have not ended stand where the exact chain stands."""
        trajectory = state.trajectory
        short = np.flatnonzero(state.front < state.problem.scheme.steps)
        if trajectory is not None and len(short):  # what lies beyond the front was not accepted
            trajectory = trajectory.clone()
            for b in short.tolist():
                trajectory[int(state.front[b]) + 1 :, b] = 0
        return Result(
            sample=where_rows(state.running, state.tracks[0].states[0], state.final),
            status=tuple(Status(int(s)) if s else unfinished for s in state.status),
            front=state.front,
            rounds=state.rounds,
            evaluations=state.evaluations,
            network_calls=state.calls,
            total_rounds=state.total_rounds,
            largest_request=state.largest,
            residual=state.residual,
            interpolated=np.zeros_like(state.rounds),
            error_estimate=None,
            steps=state.problem.scheme.steps,
            trajectory=trajectory,
            trace=state.trace,
        )

    def plain(self, state: PacedState) -> dict[str, Any]:
        """The state as numbers, tensors, lists and dicts."""
        return to_data(repr(self), state)

    def restore(self, problem: Problem, data: dict[str, Any]) -> PacedState:
        """The state that :meth:`plain` described.

        Raises:
            CheckpointError: if the data belongs to another sampler or problem, or is damaged.
        """
        return from_data(repr(self), problem, data)
