"""``parallelize(pipe)``: a pipeline whose denoising loop runs parallel in time, everything else its own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch

import paracore
from paracore.compose import DEFAULT_SAMPLER
from paracore.errors import CapabilityError, ConfigurationError
from paracore.evaluators.crew import TIMEOUT
from paracore.parts import WarmStart
from paracore.plugins import options_of
from paracore_diffusers.callbacks import Callbacks
from paracore_diffusers.errors import UnsupportedPipelineError
from paracore_diffusers.execution import executor_from
from paracore_diffusers.installation import installed
from paracore_diffusers.session import Session

__all__ = ["ParallelPipeline", "PipelineRun", "parallelize"]

WIDTHS = ("window", "cores")
"""What samplers call the number of evaluations per round."""


@attrs.frozen(eq=False)
class PipelineRun:
    """How the last call went.

    Attributes:
        route: ``"table"`` (the scheduler as a table), ``"replay"`` (its own ``step``), or ``"sequential"``.
        rounds: dependent rounds of network evaluations; a sequential run makes ``steps``.
        steps: N, scheduler steps of a sequential run.
        evaluations: nodes evaluated, for the whole batch of the pipeline at a time.
        network_calls: calls of networks that the evaluations took (two with separate guidance), merged ones counted
            singly.
        error_estimate: estimated relative error of the final latents against a sequential run; 0 where exact,
            ``None`` if the stopping rule keeps none.
        wall_time: seconds of the whole call, decoding included.
        solver_time: seconds spent in the sampler.
        cause: why the scheduler is replayed, or the pipeline was run sequentially.
        merges: by network class: ``"merged"``, or why its calls are made one by one.
        incidents: replicas that failed and whose calls were made elsewhere, in words.
        result: the sampler's own record; ``None`` for a sequential run.
    """

    route: str
    rounds: int
    steps: int
    evaluations: int
    network_calls: int
    error_estimate: float | None
    wall_time: float
    solver_time: float
    cause: str | None
    merges: dict[str, str]
    result: paracore.Result | None
    incidents: tuple[str, ...] = ()

    @property
    def speedup(self) -> float:
        """N over the rounds made."""
        return self.steps / max(self.rounds, 1)

    @property
    def trajectory(self) -> torch.Tensor | None:
        """``(N + 1, B, *event)`` accepted latents, if they were kept; another call may start from them."""
        return None if self.result is None else self.result.trajectory


class ParallelPipeline:
    """Called like the pipeline; see :func:`parallelize`.

    Attributes:
        pipe: the pipeline, untouched between calls.
        last: how the last call went; ``None`` before the first.
    """

    def __init__(
        self,
        pipe: Any,
        make: Callable[[], paracore.Sampler],
        *,
        exact: bool,
        executor: Any,
        on_unsupported: str,
        keep_trajectory: bool,
    ) -> None:
        self.pipe = pipe
        self.last: PipelineRun | None = None
        self._make = make
        self._exact = exact
        self._executor = executor
        self._on_unsupported = on_unsupported
        self._keep = keep_trajectory
        self._busy = False

    def __call__(self, *args: Any, start_from: Any = None, **kwargs: Any) -> Any:
        """Call the pipeline, its denoising loop in parallel.

        Args:
            args, kwargs: the pipeline's own.
            start_from: an earlier run (``fast.last``, made with ``keep_trajectory=True``) or its trajectory
                ``(N + 1, B, *event)``, with the same initial noise: states are guessed from it.

        Returns:
            What the pipeline returns.

        Raises:
            UnsupportedPipelineError: if pipeline, scheduler or this call cannot be run in parallel; it says why.
            ConfigurationError: if it is released, or already running.
            EvaluatorError: if no replica is left, or a rank failed or does something else than the others; it says
                which, and ``result`` has what was accepted.
            SolveInterrupted: on Ctrl-C; the pipeline is as before.
        """
        if self._make is None:
            raise ConfigurationError("this pipeline was released; call parallelize(pipe) again")
        if self._busy:
            raise ConfigurationError("this pipeline is running already; make a second one with parallelize(pipe)")
        began = time.perf_counter()
        before = _Random(args, kwargs)
        self._busy = True
        try:
            return self._parallel(args, kwargs, start_from, began, before.generators)
        except UnsupportedPipelineError as error:
            if self._on_unsupported != "sequential":
                raise
            before.restore()
            warnings.warn(f"run sequentially: {error}", stacklevel=2)
            output = self.pipe(*args, **kwargs)
            steps = int(getattr(self.pipe, "num_timesteps", 0) or len(getattr(self.pipe.scheduler, "timesteps", ())))
            wall = time.perf_counter() - began
            self.last = PipelineRun("sequential", steps, steps, steps, 0, 0.0, wall, 0.0, str(error), {}, None)
            return output
        finally:
            self._busy = False

    def _parallel(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        start_from: Any,
        began: float,
        generators: list[torch.Generator],
    ) -> Any:
        sampler = self._sampler(start_from)
        callbacks = Callbacks.taken(self.pipe, args, kwargs)
        pipe = self.pipe
        session = Session(
            sampler=sampler,
            executor=self._executor,
            scheduler=getattr(pipe, "scheduler", None),
            exact=self._exact,
            trajectory=self._keep or callbacks.wanted,
            generators=generators,
        )
        callbacks.session = session
        before = len(getattr(self._executor, "incidents", ()))
        grad = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        try:
            # Writes into inference tensors cannot be noticed; without gradients the numbers are the same.
            with installed(pipe, session), torch.inference_mode(False), torch.set_grad_enabled(grad):
                output = pipe(*callbacks.args, **callbacks.kwargs)
            session.check_ended()
        except KeyboardInterrupt as stop:
            raise session.broken_off(stop) from stop
        except Exception as error:
            session.failed(error)
            raise
        incidents = tuple(getattr(self._executor, "incidents", ())[before:])
        self.last = self._record(session, time.perf_counter() - began, incidents)
        return output

    def _sampler(self, start_from: Any) -> paracore.Sampler:
        sampler = self._make()
        if sampler.needs:
            raise CapabilityError(
                f"{sampler!r} needs {', '.join(sorted(sampler.needs))}, which a pipeline cannot give; choose a sampler "
                "without Jacobian-vector products ('ropa', 'front', 'picard', 'anderson', ...)"
            )
        if start_from is None:
            return sampler
        trajectory = start_from.trajectory if isinstance(start_from, PipelineRun) else start_from
        if not isinstance(trajectory, torch.Tensor):
            raise ConfigurationError("start_from has no trajectory; make that run with keep_trajectory=True")
        if not isinstance(sampler, paracore.Engine):
            raise ConfigurationError(f"{sampler!r} is no composition; it cannot start from a trajectory")
        wide = trajectory.float() if trajectory.dtype in (torch.float16, torch.bfloat16) else trajectory
        return paracore.Engine(attrs.evolve(sampler.composition, initializer=WarmStart(wide)))

    def _record(self, session: Session, wall: float, incidents: tuple[str, ...]) -> PipelineRun:
        result = session.result
        estimate = None if result is None or result.error_estimate is None else float(result.error_estimate.max())
        return PipelineRun(
            route=session.ready.route,
            rounds=0 if result is None else result.total_rounds,
            steps=session.total,
            evaluations=session.evaluated,
            network_calls=session.calls.made,
            error_estimate=estimate,
            wall_time=wall,
            solver_time=session.seconds,
            cause=session.ready.cause,
            merges={**getattr(self._executor, "verdicts", {}), **session.calls.verdicts},
            result=result,
            incidents=incidents,
        )

    def release(self) -> Any:
        """Let go of the copies of networks, end their threads and a process group that was made here.

        Returns:
            The pipeline itself, as it always was.
        """
        close = getattr(self._executor, "close", None)
        if close is not None:
            close()
        self._make = None  # type: ignore[assignment]
        self._executor = None
        return self.pipe

    def __getattr__(self, name: str) -> Any:
        if name == "pipe":
            raise AttributeError(name)
        return getattr(self.pipe, name)

    def __repr__(self) -> str:
        return f"<ParallelPipeline of {type(self.pipe).__name__}>"


def parallelize(
    pipe: Any,
    sampler: str | paracore.Sampler | None = None,
    *,
    window: int | str = 8,
    tolerance: float | None = None,
    exact: bool = False,
    execution: Any = None,
    devices: Sequence[str | torch.device] | None = None,
    process_group: Any = None,
    timeout: float | None = TIMEOUT,
    max_batch: int | None = None,
    keep_trajectory: bool = False,
    on_unsupported: str = "raise",
    **options: Any,
) -> ParallelPipeline:
    """Make a diffusers pipeline's denoising loop parallel in time. The pipeline itself is not changed.

    Args:
        pipe: any diffusers pipeline with a scheduler and a loop over its timesteps.
        sampler: a registered sampler's name, a sampler or composition, or ``None``: the library's default.
        window: evaluations per round (for a sampler given by name, or the default); ``"auto"`` with devices or a
            process group: the smallest multiple of their number that is at least 4.
        tolerance: of the sampler; ``None``: its default (1 % of the sample by the default rule).
        exact: the sequential run's bits: tolerance 0, every call made by itself, the real scheduler's ``step``. On
            accelerators that needs deterministic kernels.
        execution: ``"merged"`` (calls of a round in one batch where the network allows it; the default),
            ``"one-by-one"`` (the default with ``exact``), or an object with ``run`` (see
            :class:`~paracore_diffusers.execution.Executor`).
        devices: copy the networks there and share the calls out; with ``execution="one-by-one"`` bits are kept.
        process_group: share the calls out over ranks, each of which has its own pipeline and calls it with the same
            arguments: a process group of torch, or ``"world"`` for all ranks (of ``torchrun``).
        timeout: seconds that a device may take for its share, or that a rank waits for the others; ``None``: for ever.
        max_batch: most samples in one network call.
        keep_trajectory: keep all accepted latents in ``last.trajectory``.
        on_unsupported: ``"raise"``, or ``"sequential"``: run the pipeline as it is, and warn why.
        options: of the sampler, by name.

    Raises:
        ConfigurationError: for options that are not allowed.
        UnknownNameError: for an unknown sampler.
    """
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise ConfigurationError(f"pipe is {type(pipe).__name__}; a diffusers pipeline with a scheduler is needed")
    if on_unsupported not in ("raise", "sequential"):
        raise ConfigurationError(f"on_unsupported is {on_unsupported!r}; 'raise' or 'sequential' is needed")
    if exact:
        if tolerance not in (None, 0, 0.0):
            raise ConfigurationError(f"exact=True with tolerance={tolerance}; leave tolerance out")
        if execution not in (None, "one-by-one"):
            raise ConfigurationError(
                f"exact=True with execution={execution!r}: merged calls have other bits; leave execution out"
            )
        tolerance = 0.0
    given = dict(options)
    if tolerance is not None:
        given["tolerance"] = tolerance

    if window == "auto" and devices is None and process_group is None:
        raise ConfigurationError(
            "window='auto' follows the number of devices or ranks; give devices=[...] or process_group=..., or a number"
        )
    _sampler(sampler, 4 if window == "auto" else window, given)  # refuse bad options now
    executor = executor_from(
        execution or ("one-by-one" if exact else "merged"), devices, max_batch, process_group, timeout
    )
    width = window_for(executor.workers) if window == "auto" else window

    def make() -> paracore.Sampler:
        return _sampler(sampler, width, given)

    return ParallelPipeline(
        pipe,
        make,
        exact=exact,
        executor=executor,
        on_unsupported=on_unsupported,
        keep_trajectory=keep_trajectory,
    )


def window_for(workers: int) -> int:
    """The smallest multiple of the number of workers that is at least 4: even shares, and enough rows to gain from."""
    return -(-4 // workers) * workers


def _sampler(sampler: str | paracore.Sampler | None, window: int | str, options: dict[str, Any]) -> paracore.Sampler:
    if isinstance(sampler, str) or sampler is None:
        name = DEFAULT_SAMPLER if sampler is None else sampler
        factory = paracore.registry.find("sampler", name.partition("(")[0].strip()).factory
        width = next((w for w in WIDTHS if w in options_of(factory) and w not in options), None)
        inner = {} if width is None or f"{width}=" in name else {width: window}
        return paracore.sampler(name, **inner, **options)
    if isinstance(sampler, paracore.Composition):
        sampler = paracore.Engine(sampler)
    if not isinstance(sampler, paracore.Sampler):
        raise ConfigurationError(f"sampler is {type(sampler).__name__}; a name, a sampler or a composition is needed")
    if not options:
        return sampler
    if isinstance(sampler, paracore.Engine) and set(options) == {"tolerance"}:
        return paracore.Engine(attrs.evolve(sampler.composition, tolerance=options["tolerance"]))
    raise ConfigurationError(
        f"options {', '.join(options)} with a sampler that is built already; build it with them instead"
    )


class _Random:
    """Random states, and tensors that a call may write into, as they were before a call."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        listed = [g for value in given for g in (value if isinstance(value, list | tuple) else (value,))]
        self._generators = [(g, g.get_state()) for g in listed if isinstance(g, torch.Generator)]
        self._tensors = [(t, t.clone()) for t in given if isinstance(t, torch.Tensor)]
        self._cpu = torch.get_rng_state()
        used: Any = torch.cuda.is_initialized
        self._cuda = torch.cuda.get_rng_state_all() if used() else None

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators given."""
        return [generator for generator, _ in self._generators]

    def restore(self) -> None:
        """Put them back."""
        for generator, state in self._generators:
            generator.set_state(state)
        for tensor, held in self._tensors:
            if not torch.equal(tensor, held):
                tensor.copy_(held)
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
