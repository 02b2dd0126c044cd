"""One run of a pipeline: its own loop serves as the network, node by node as the sampler asks.

The pipeline makes its first iteration as ever; when it steps its scheduler for the first time, the session knows the
initial state, the first output, and how the scheduler is called. From there on ``step`` returns the states that the
sampler wants evaluated. A round is either made in the pipeline's own iterations, one by one, or **recorded**
(iterations whose network calls are noted and answered with zeros), **executed** (the calls, merged or spread over
devices) and **replayed** (the same iterations, with the true answers: the pipeline's own arithmetic makes the guided
output).
"""

from __future__ import annotations

import copy
import inspect
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Any

import attrs
import numpy as np
import torch

from paracore import Outputs, Request, Result, Sampler
from paracore.errors import DenoiserError, EvaluatorError, SolveInterrupted
from paracore.schemes import compute_dtype
from paracore_diffusers.calls import Call
from paracore_diffusers.errors import UnsupportedPipelineError
from paracore_diffusers.loop import Loop
from paracore_diffusers.preparation import Preparation, check_first, prepared_problem
from paracore_diffusers.proxies import Beside, StepOutput
from paracore_diffusers.randomness import Randomness
from paracore_diffusers.recording import REMEMBERS, Recording

__all__ = ["Accepted", "Session"]

Outcome = Generator[tuple[int, torch.Tensor], torch.Tensor, torch.Tensor]


@attrs.frozen(eq=False)
class Accepted:
    """A step that was accepted: node ``node`` was left for the state ``state`` at ``node + 1``."""

    node: int
    time: torch.Tensor
    state: torch.Tensor


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


def _ignored(_: Any) -> None:
    return None


@attrs.define(eq=False)
class Session:
    """See the module's text.

    Attributes:
        sampler: decides what is evaluated when.
        executor: makes recorded calls.
        scheduler: the pipeline's own, real one.
        exact: step through the real scheduler, so that the bits are the sequential run's.
        interrupted: whether the user asked the pipeline to stop; the pipeline is then let run on for one iteration, to
            be given the state that was accepted last.
        ended: called when the loop ends.
        progressed: called with the accepted node.
        trajectory: keep all accepted states.
        generators: the random generators of the call: the loop itself must not draw from them.
        calls: what becomes of network calls.
        random: tells whether the loop draws random numbers.
        inside: the pipeline is in its denoising loop.
        total: N.
        evaluated: nodes evaluated, for the whole batch at a time.
        seconds: time spent in the sampler.
        stop_at: the node after whose step the user's callback asked the pipeline to stop.
        accepted: the steps accepted so far, if the trajectory is kept.
    """

    sampler: Sampler
    executor: Any
    scheduler: Any
    exact: bool
    interrupted: Callable[[], bool] = _never
    ended: Callable[[], None] = _nothing
    progressed: Callable[[int], None] = _ignored
    generators: list[torch.Generator] = attrs.field(factory=list)
    trajectory: bool = False
    calls: Recording = attrs.field(factory=Recording)
    random: Randomness = attrs.field(init=False)
    inside: bool = False
    total: int = 0
    evaluated: int = 0
    seconds: float = 0.0
    stop_at: int | None = None
    result: Result | None = None
    accepted: list[Accepted] = attrs.field(factory=list)
    _loop: Loop | None = None
    _solver: Outcome | None = None
    _served: tuple[int, torch.Tensor] | None = None
    _mark: Any = None
    _finished: bool = False
    _stopping: bool = False
    _fresh: Any = None
    _begin: int = 0
    _index: Any = None
    _parameters: tuple[str, ...] = ()
    _scalers: dict[int, Any] = attrs.field(factory=dict)
    _ready: Preparation | None = None
    _now: Any = None

    def __attrs_post_init__(self) -> None:
        self.random = Randomness(self.generators)

    @property
    def finished(self) -> bool:
        """Whether the final state was handed to the pipeline."""
        return self._finished

    @property
    def ready(self) -> Preparation:
        """What the first step told."""
        assert self._ready is not None
        return self._ready

    # -- the loop -----------------------------------------------------------------------------------------------

    def begin_loop(self, times: torch.Tensor) -> Loop:
        """The pipeline iterates over its timesteps."""
        if self._loop is not None and self._loop.own and not self._finished:
            raise UnsupportedPipelineError("the pipeline iterates over its timesteps inside its denoising loop")
        if self._finished:
            raise UnsupportedPipelineError(
                "the pipeline iterates over its timesteps a second time; only one denoising loop is supported"
            )
        listed = list(times.unbind())
        for node, one in enumerate(listed):
            one.paracore_node = node  # type: ignore[attr-defined]  # read where a pipeline enumerates
        self._loop = Loop(self, listed)
        self.total = len(self._loop.times)
        return self._loop

    def entering(self, loop: Loop) -> None:
        """An iteration before the scheduler was stepped: the first may become ours."""
        if loop.node == 0:
            self._fresh = copy.deepcopy(self.scheduler)
            self._begin = getattr(self._fresh, "begin_index", None) or 0
            self._index = self.scheduler.__dict__.get("_step_index")
            self.calls.mode, self.inside = "first", True
            self.calls.arrive()
        elif self.calls.mode == "first":  # left without a step: skipped by the pipeline, or an interrupt
            self.calls.mode = "outside"

    def next_node(self, loop: Loop) -> int:
        """The node of the next iteration."""
        if self._finished:
            self.calls.mode, self.inside = "outside", False
            self.ended()
            raise StopIteration
        if not loop.stepped:
            raise UnsupportedPipelineError("an iteration of the pipeline's loop did not step its scheduler")
        self._stopping = self._stopping or self.interrupted()
        loop.stepped = False
        assert self._served is not None
        self.calls.arrive()
        node = self._served[0]
        if "_step_index" in self.scheduler.__dict__:  # pipelines look sigmas up with it
            self.scheduler.__dict__["_step_index"] = self._begin + node
        return node

    # -- the scheduler ------------------------------------------------------------------------------------------

    def on_scale(self, sample: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """``scale_model_input`` at the visited node, by the scheduler as it would be there."""
        loop = self._loop
        if loop is None or not self.inside:
            found: torch.Tensor = type(self.scheduler).scale_model_input(self.scheduler, sample, *args, **kwargs)
            return found
        if self._ready is not None and self._ready.unscaled:
            return sample
        found = self._scaler(loop.node).scale_model_input(sample, *args, **kwargs)
        return found

    def _scaler(self, node: int) -> Any:
        """A scheduler as it is when a sequential run arrives at a node."""
        if self._ready is None:
            return self._scalers.setdefault(0, copy.deepcopy(self._fresh))
        if len(self._scalers) < self.total:
            self._scalers = dict(enumerate(self._ready.arrivals()))
        return self._scalers[node]

    def on_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The pipeline's step: take the output, say which state comes next."""
        loop = self._loop
        if loop is None or not self.inside:
            raise UnsupportedPipelineError(
                "the pipeline steps its scheduler outside a loop over its timesteps (for t in timesteps)"
            )
        if not self._parameters:
            self._parameters = tuple(inspect.signature(type(self.scheduler).step).parameters)[1:]
        values = dict(zip(self._parameters, args, strict=False)) | kwargs
        if len(args) > len(self._parameters) or "model_output" not in values or "sample" not in values:
            raise UnsupportedPipelineError(
                f"step was given {len(args)} arguments and {', '.join(kwargs) or 'no names'}"
            )
        output, sample = values["model_output"], values["sample"]
        if not isinstance(output, torch.Tensor) or not isinstance(sample, torch.Tensor):
            raise UnsupportedPipelineError(f"step was given {type(output).__name__} and {type(sample).__name__}")
        if not loop.own:
            reply = self._start(loop, values)
        else:
            if loop.stepped:
                raise UnsupportedPipelineError("the pipeline steps its scheduler twice in one iteration")
            reply = self._go_on(output, sample)
        loop.stepped = True
        state = reply[1]
        self._mark = _mark(state)
        return StepOutput((state, *[_BESIDE] * (self.ready.returns - 1)))

    def _start(self, loop: Loop, values: dict[str, Any]) -> tuple[int, torch.Tensor]:
        if loop.node != 0:
            raise UnsupportedPipelineError(
                f"the pipeline steps its scheduler for the first time in iteration {loop.node}, not in the first"
            )
        if not self.calls.visit:
            raise UnsupportedPipelineError("the pipeline called none of its networks before its first step")
        check_first(values)
        loop.own = True
        self._solver = self._solve(loop, values)
        try:
            self._served = next(self._solver)
        except StopIteration as end:
            self._served = (self.total, end.value)
            self._finished = True
        return self._served

    def _go_on(self, output: torch.Tensor, sample: torch.Tensor) -> tuple[int, torch.Tensor]:
        assert self._solver is not None
        assert self._served is not None
        node, served = self._served
        if sample is not served:
            self._check_state(node, sample, served)
        if not _untouched(served, self._mark):
            raise UnsupportedPipelineError(_EDITS)
        self.calls.leave()
        try:
            self._served = self._solver.throw(_Stop()) if self._stopping else self._solver.send(output)
        except StopIteration as end:
            self._served = (self.total, end.value)
            self._finished = True
        return self._served

    def _check_state(self, node: int, sample: torch.Tensor, served: torch.Tensor) -> None:
        """A pipeline may cast what ``step`` returned, nothing else; how it casts shows here for the first time."""
        kept: torch.dtype | None = None
        cast = served if sample.dtype == served.dtype else served.to(sample.dtype)
        if not torch.equal(sample, cast):
            halves = (torch.bfloat16, torch.float16) if node > 0 else ()
            kept = next((d for d in halves if torch.equal(sample, served.to(d).to(sample.dtype))), None)
            if kept is None:
                raise UnsupportedPipelineError(_EDITS)
        if node > 0:
            self.ready.recast(sample, kept)

    # -- the networks -------------------------------------------------------------------------------------------

    def on_call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A network call: made, noted, or answered from what was executed."""
        if self.calls.mode == "outside" or self._loop is None:
            return module(*args, **kwargs)
        return self.calls.call(module, args, kwargs, self._loop.node)

    # -- the solve ----------------------------------------------------------------------------------------------

    def _solve(self, loop: Loop, values: dict[str, Any]) -> Outcome:
        """Yields ``(node, state)`` to visit, is sent the output there; returns the final state."""
        x0, f0 = values["sample"].clone(), values["model_output"].clone()  # a pipeline may write into its own
        self.random.settle()
        self._ready = ready = prepared_problem(self._fresh, loop.times, values, exact=self.exact)
        problem = ready.problem
        wide = problem.x0.dtype
        began = time.perf_counter()
        sampler = self.sampler
        state = sampler.start(problem, trajectory=self.trajectory)
        self.calls.keep_first()
        begin = getattr(self.executor, "begin", None)
        if begin is not None:
            drawn = [] if ready.noise is None else ready.noise.plain()["generators"]
            f0 = begin(x0, f0, [*(g.get_state() for g in self.generators), *drawn], self.total)
        first_round, check_at = True, 2
        try:
            while (request := sampler.request(state)) is not None:
                self._now = state
                if state.total_rounds + 1 >= check_at:  # what begins late shows late; it costs no network call
                    check_at *= 2
                    yield from self._check_memory(x0, f0)
                order, where = _by_node(request)
                parts = torch.split(request.states[order], list(where.values()))
                states = dict(zip(where, parts, strict=True))
                known: dict[int, torch.Tensor] = {}
                if first_round and 0 in states and torch.equal(states[0], problem.x0):
                    known[0] = f0
                self.seconds += time.perf_counter() - began
                todo = {n: ready.lent(n, s, x0) for n, s in states.items() if n not in known}
                answers = yield from self._evaluate(todo)
                known.update(answers)
                if first_round:
                    first_round = False
                    yield from self._check_memory(x0, f0)
                if self.random.drew():  # another thread may have
                    yield from self._check_memory(x0, f0)
                    self.random.confirm()
                began = time.perf_counter()
                for n, asked in states.items():
                    if known[n].shape != asked.shape:
                        raise DenoiserError(
                            f"the pipeline steps with an output of shape {tuple(known[n].shape)} at a state of shape "
                            f"{tuple(asked.shape)}"
                        )
                outputs = torch.empty_like(request.states)
                outputs[order] = torch.cat([known[n].to(wide) for n in where])
                self.evaluated += len(where)  # nodes, for the whole batch at a time
                front = int(state.front.min())
                state = sampler.advance(state, Outputs(outputs, calls=len(request)))
                self._book(loop, state, front)
        except _Stop:
            pass
        result = sampler.result(state)
        self.result = result
        self.seconds += time.perf_counter() - began
        self.random.drew()
        if (ended := getattr(self.executor, "ended", None)) is not None:
            ended(result.sample)
        last = int(result.front.min())
        if self.stop_at is not None and last > self.stop_at + 1 and result.trajectory is not None:
            last = self.stop_at + 1
            return ready.lent(last, result.trajectory[last], x0)
        return ready.lent(last, result.sample, x0)

    def failed(self, error: Exception) -> None:
        """The call raised: other ranks, if there are any, are told; what was accepted goes with the error."""
        if isinstance(error, EvaluatorError) and self._now is not None and not self._finished:
            error.result, error.state = self.sampler.result(self._now), self._now
        if not self._finished and (ended := getattr(self.executor, "ended", None)) is not None:
            ended(None, error)

    def broken_off(self, stop: KeyboardInterrupt) -> KeyboardInterrupt:
        """Ctrl-C as the library reports it, with what was accepted so far; as it is if nothing was begun."""
        if isinstance(stop, SolveInterrupted) or self._now is None or self._finished:
            return stop
        self.result = self.sampler.result(self._now)
        return SolveInterrupted("interrupted in the middle of a solve", self.result, self._now)

    def _evaluate(self, todo: Mapping[int, torch.Tensor]) -> Generator[Any, torch.Tensor, dict[int, torch.Tensor]]:
        answers: dict[int, torch.Tensor] = {}
        calls = self.calls
        always = getattr(self.executor, "always", False)
        if self.executor.inline or calls.dependent or (len(todo) == 1 and not always):
            calls.mode = "inline"
            for node, state in todo.items():
                answers[node] = yield node, state
            return answers
        visits: dict[int, list[Call]] = {}
        noting = True
        while noting:
            for node, state in todo.items():
                calls.mode = "record"
                yield node, state
                visits[node] = calls.visit
            noting = not calls.unwritten(visits.values())
        noted = [call for visit in visits.values() for call in visit]
        calls.made += sum(not call.done for call in noted)
        self.executor.run(noted, calls.first)
        for node, state in todo.items():
            calls.replay(visits.pop(node))
            answers[node] = yield node, state
        return answers

    def _check_memory(self, x0: torch.Tensor, f0: torch.Tensor) -> Generator[Any, torch.Tensor, None]:
        """Visit node 0 once more with the answers known: a loop that remembers earlier steps gives another output."""
        self.calls.replay(self.calls.first, checking=True)
        again = yield 0, x0.clone()
        wide = compute_dtype(f0.dtype)
        error = float((again.to(wide) - f0.to(wide)).norm() / f0.to(wide).norm().clamp_min(1e-30))
        if not error <= 1e-5:
            raise UnsupportedPipelineError(
                REMEMBERS.format(what="guided output", much=f" (relative difference {error:.1e})")
            )

    def _book(self, loop: Loop, state: Any, before: int) -> None:
        front = int(state.front.min())
        if front > before and self.trajectory and state.trajectory is not None:
            for n in range(before, front):
                held = state.trajectory[n + 1].to(self.ready.dtypes.returned, copy=True)
                self.accepted.append(Accepted(n, loop.times[n], held))
        self.progressed(front)

    def check_ended(self) -> None:
        """After the call.

        Raises:
            UnsupportedPipelineError: if the loop was left before its end, or there was none.
        """
        if not self._finished:
            begun = self._loop is not None and self._loop.own
            what = "left its loop before its end" if begun else "has no loop that steps its scheduler"
            raise UnsupportedPipelineError(f"the pipeline {what}; nothing was run in parallel")

    def close(self) -> None:
        """The run is over: leave the scheduler and the user's generators as a sequential run would."""
        if self._index is not None or "_step_index" in self.scheduler.__dict__:
            self.scheduler.__dict__["_step_index"] = self._index
        self._solver = None
        if self._finished and self._ready is not None and self._ready.noise is not None:
            self._ready.noise.advance()


class _Stop(Exception):  # noqa: N818
    """The user interrupts the pipeline."""


_EDITS = (
    "the pipeline edits its latents between steps (as inpainting does: kept regions are put back after every step); "
    "that is not part of the scheduler. Use on_unsupported='sequential', or a pipeline whose network takes the mask as "
    "input"
)


_BESIDE = Beside()


def _by_node(request: Request) -> tuple[torch.Tensor, dict[int, int]]:
    """The rows sorted by node, then sample, and how many each node has."""
    nodes = request.nodes.numpy()
    order = np.lexsort((request.samples.numpy(), nodes))
    return torch.from_numpy(order), Counter(nodes[order].tolist())


def _mark(state: torch.Tensor) -> int | torch.Tensor:
    """Tells later whether a tensor was written to: torch's count of writes, or a copy where it keeps none."""
    return state.clone() if state.is_inference() else state._version


def _untouched(state: torch.Tensor, mark: int | torch.Tensor) -> bool:
    return torch.equal(state, mark) if isinstance(mark, torch.Tensor) else state._version == mark
