"""Whole samplers: a preset, a sampler written from nothing, and one in the frame for fixed schedules."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import numpy as np
import torch

import paracore
from paracore import Outputs, Problem, Request, Result, RoundTrace, Sampler, Status
from paracore.checkpoint import from_plain, problem_digest, to_plain
from paracore.errors import CheckpointError, DenoiserError, SchemeError
from paracore.paced import NORMS, Hit, PacedSampler, Track, Turn
from paracore.parts.options import number, one_of
from paracore.window import Bools, Floats, Ints, where_rows

__all__ = ["Glide", "Steps", "StepsState", "gentle"]


def gentle(window: int = 4, tolerance: float = 0.01, guess: str = "copy") -> paracore.Engine:
    """Picard iteration that accepts a row by its distance from the state that was evaluated.

    Tolerance: root-mean-square distance, in state units.

    References: Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Eq. 8.

    Args:
        window: evaluations per round and sample.
        tolerance: of the distance; 0 gives the sequential answer itself.
        guess: how rows enter: hold, copy, linear, damped-linear.
    """
    return paracore.compose(window=window, tolerance=tolerance, stopping="change", initializer=guess, name="gentle")


@attrs.frozen(eq=False, kw_only=True)
class StepsState:
    """Everything that changes in :class:`Steps`. Arrays are ``(B,)``."""

    problem: Problem
    tape: paracore.NoiseTape
    node: int
    states: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]
    status: Ints
    front: Ints
    rounds: Ints
    evaluations: Ints
    calls: int = 0
    largest: int = 0
    total_rounds: int = 0
    trajectory: torch.Tensor | None = None
    trace: tuple[RoundTrace, ...] | None = None
    newest: torch.Tensor | None = None
    preview: bool = False

    @property
    def running(self) -> Bools:
        """Samples that have not ended."""
        return np.asarray(self.status == Status.RUNNING, dtype=np.bool_)


@attrs.frozen
class Steps(Sampler):
    """The sequential sampler as a state machine: one node a round, and a sample that fails leaves the others alone."""

    reference: ClassVar[str] = "the scheme itself: docs/mathematics.md, section 1"

    @torch.no_grad()
    def start(
        self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False
    ) -> StepsState:
        """The state before the first request."""
        x0, none = self._first(problem), np.zeros(problem.batch, dtype=np.int64)
        store = None
        if trajectory:
            store = torch.zeros((problem.scheme.steps + 1, *x0.shape), dtype=x0.dtype, device=x0.device)
            store[0] = x0
        return StepsState(
            problem=problem,
            tape=problem.tape(),
            node=0,
            states=(x0,),
            outputs=(),
            status=none,
            front=none,
            rounds=none,
            evaluations=none,
            trajectory=store,
            trace=() if trace else None,
            preview=preview,
        )

    def _first(self, problem: Problem) -> torch.Tensor:
        return problem.x0.detach().clone()

    def _asked(self, state: StepsState) -> Ints:
        """Samples of the next request."""
        return np.flatnonzero(state.running)

    def _node(self, state: StepsState) -> int:
        return state.node

    def request(self, state: StepsState) -> Request | None:
        """One node, for all running samples."""
        if not state.running.any():
            return None
        node, who = self._node(state), self._asked(state)
        state.tape.free(node)  # not in advance: one that is interrupted can be made again
        states = state.states[0]
        return Request(
            nodes=torch.full((len(who),), node, dtype=torch.int64),
            samples=torch.from_numpy(who),
            states=states if len(who) == len(states) else states[torch.from_numpy(who).to(states.device)],
            times=torch.full((len(who),), float(state.problem.scheme.time[node]), dtype=torch.float64),
        )

    @torch.no_grad()
    def advance(self, state: StepsState, outputs: Outputs) -> StepsState:
        """One step.

        Raises:
            DenoiserError: for outputs of wrong shape, dtype or device.
        """
        who, node, scheme = self._asked(state), self._node(state), state.problem.scheme
        x, values = state.states[0], outputs.values
        _check(values, (len(who), *x.shape[1:]), x)
        fine = torch.isfinite(values).flatten(1).all(dim=1)
        output = torch.zeros_like(x)
        output[torch.from_numpy(who).to(x.device)] = torch.where(fine.reshape(-1, *[1] * (x.ndim - 1)), values, 0.0)
        lost = state.running.copy()
        lost[who] = ~fine.cpu().numpy()
        lost = self._lost(lost, state)
        past = (output, *state.outputs)[: scheme.memory + 1]
        new = scheme.step(node, state.states, past, state.tape.row(node))
        wild = ~torch.isfinite(new).flatten(1).all(dim=1).cpu().numpy() & state.running & ~lost
        status = np.where(lost, int(Status.NONFINITE_OUTPUT), state.status)
        status = np.where(wild, int(Status.NONFINITE_STATE), status)
        going = np.asarray(status == Status.RUNNING)
        new = self._placed(where_rows(going, new, x), state)
        front = np.where(going, node + 1, state.front)
        if node + 1 == scheme.steps:
            status = np.where(going, int(Status.EXACT), status)
        if state.trajectory is not None:
            state.trajectory[node + 1] = where_rows(going, new, state.trajectory[node + 1])
        trace = None if state.trace is None else (*state.trace, _record(state, going, lost))
        return attrs.evolve(
            state,
            node=state.node + 1,
            states=(new, *state.states)[: scheme.memory + 1],
            outputs=past[: scheme.memory],
            status=status,
            front=front,
            rounds=state.rounds + state.running,
            evaluations=state.evaluations + self._spent(state, who),
            calls=state.calls + outputs.calls,
            largest=max(state.largest, len(who)),
            total_rounds=state.total_rounds + 1,
            trace=trace,
            newest=_data(state, x, output, node) if state.preview else None,
        )

    def _lost(self, lost: Bools, state: StepsState) -> Bools:
        """``(B,)`` samples that end for an output that is not finite."""
        return lost

    def _placed(self, new: torch.Tensor, state: StepsState) -> torch.Tensor:
        """The new state, where it is kept."""
        return new

    def _spent(self, state: StepsState, who: Ints) -> Ints:
        """``(B,)`` evaluations of this round."""
        return np.bincount(who, minlength=state.problem.batch)

    def result(self, state: StepsState, *, unfinished: Status = Status.INTERRUPTED) -> Result:
        """The samples so far."""
        return Result(
            sample=state.states[0],
            status=tuple(Status(int(s)) if s else unfinished for s in state.status),
            front=state.front,
            rounds=state.rounds,
            evaluations=state.evaluations,
            network_calls=state.calls,
            total_rounds=state.total_rounds,
            largest_request=state.largest,
            residual=np.zeros(state.problem.batch),
            interpolated=np.zeros(state.problem.batch, dtype=np.int64),
            error_estimate=None,
            steps=state.problem.scheme.steps,
            trajectory=state.trajectory,
            trace=state.trace,
        )

    def plain(self, state: StepsState) -> dict[str, Any]:
        """The state as numbers, tensors, lists and dicts."""
        apart = ("problem", "tape", "trace")
        data = {n: to_plain(getattr(state, n)) for n in attrs.fields_dict(StepsState) if n not in apart}
        data["trace"] = None if state.trace is None else [to_plain(attrs.asdict(t)) for t in state.trace]
        data["tape"] = to_plain(state.tape.plain())
        return {**data, "sampler": repr(self), "problem": problem_digest(state.problem)}

    def restore(self, problem: Problem, data: dict[str, Any]) -> StepsState:
        """The state that :meth:`plain` described.

        Raises:
            CheckpointError: if the data belongs to another sampler or problem, or is damaged.
        """
        if data.get("sampler") != repr(self) or data.get("problem") != problem_digest(problem):
            raise CheckpointError(f"the checkpoint is of {data.get('sampler')} or another problem; this is {self!r}")
        try:
            apart = ("sampler", "problem", "tape", "trace")
            fields = {name: from_plain(value) for name, value in data.items() if name not in apart}
            if fields["states"][0].shape != problem.x0.shape:
                raise CheckpointError(f"the checkpoint's samples are {tuple(fields['states'][0].shape)}")
            trace, tape = data["trace"], problem.tape()
            fields["trace"] = None if trace is None else tuple(RoundTrace(**from_plain(t)) for t in trace)
            tape.restore(from_plain(data["tape"]))
            return StepsState(problem=problem, tape=tape, **fields)
        except CheckpointError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint is damaged: {type(error).__name__}: {error}") from error


def _check(values: Any, shape: tuple[int, ...], like: torch.Tensor) -> None:
    if not isinstance(values, torch.Tensor):
        raise DenoiserError(f"the network returned {type(values).__name__}; a tensor {shape} is needed")
    if tuple(values.shape) != shape or values.dtype != like.dtype or values.device != like.device:
        raise DenoiserError(
            f"the network returned shape {tuple(values.shape)} {values.dtype} on {values.device}; "
            f"{shape} {like.dtype} on {like.device} is needed"
        )


def _record(state: StepsState, going: Bools, lost: Bools) -> RoundTrace:
    nothing, shape = np.zeros((1, len(going))), (1, len(going))
    evaluated = (state.running & ~lost).reshape(shape)
    return RoundTrace(state.front, going.astype(np.int64), evaluated, nothing, nothing, None, nothing)


def _data(state: StepsState, x: torch.Tensor, output: torch.Tensor, node: int) -> torch.Tensor | None:
    """The data that the newest output predicts, where the scheme can tell."""
    scheme = state.problem.scheme
    if scheme.levels is None or scheme.prediction is None:
        return None
    try:
        u, v = scheme.levels.conversion(scheme.prediction, "data", slice(0, scheme.steps))
    except SchemeError:
        return None
    return (x * float(u[node]) + output * float(v[node])).to(x.dtype)


@attrs.frozen
class Glide(PacedSampler):
    """The exact chain, and after every step a glide to the end with the newest output held, until two of them agree.

    Attributes:
        tolerance: of the change between two glides, times the caution; 0 waits for the exact chain.
        caution: how many times smaller than the tolerance the change must be.
        norm: how the change is measured, one of :data:`paracore.paced.NORMS`.
    """

    tolerance: float = attrs.field(default=1e-2, validator=number(0.0, 1e6))
    caution: float = attrs.field(default=20.0, validator=number(1.0, 1e6))
    norm: str = attrs.field(default="relative", validator=one_of(*NORMS))

    reference: ClassVar[str] = "early exit; docs/architecture.md, samplers that are no compositions"

    @property
    def outcome(self) -> Status:
        """Two glides agree."""
        return Status.CONVERGED

    def first(self, problem: Problem, track: Track) -> dict[str, Any]:
        """Nothing beside the chain."""
        return {}

    def follow(self, turn: Turn) -> tuple[tuple[Track, ...], dict[str, Any], list[Hit]]:
        """One step, one glide."""
        steps, move = turn.problem.scheme.steps, turn.moves[0]
        after = turn.step(move)
        if after.node == steps:
            return (after,), {}, [Hit(after.states[0], turn.running, exact=True)]
        if turn.trajectory is not None:
            for node in range(after.node + 1, steps):
                on_the_way = turn.jump(move, node)
                turn.place(node, on_the_way.states[0], on_the_way.alive)
        end = turn.jump(move, steps)
        return (after,), {}, [self._hit(end, turn)]

    def _hit(self, end: Track, turn: Turn) -> Hit:
        return Hit(end.states[0], end.alive, exact=False)

    def accepts(self, hits: Ints, change: Floats) -> Bools:
        """Small change since the last glide."""
        return np.asarray(change * self.caution <= self.tolerance)
