"""Whether a pipeline can be run parallel in time, found out by running it: alone, exactly, and merged."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch

from paracore.errors import ConfigurationError, ParacoreError
from paracore_diffusers.errors import UnsupportedPipelineError
from paracore_diffusers.installation import networks_of
from paracore_diffusers.parallel import parallelize
from paracore_diffusers.survey import SurveyRecord, survey_case
from paracore_diffusers.survey_cases import Case

__all__ = ["PipelineCheck", "Trial", "check", "scheduler_verdict"]


@attrs.frozen
class Trial:
    """One run in parallel, beside the pipeline's own.

    Attributes:
        mode: ``"exact"`` (calls one by one, the real scheduler) or ``"merged"`` (calls in batches, tolerance 0).
        refused: why it could not be run; empty if it ran.
        route: ``"table"`` or ``"replay"``.
        cause: why the scheduler is replayed.
        equal: the output has the bits of the pipeline's own.
        error: relative root-mean-square difference of the output.
        rounds, evaluations, network_calls: see :class:`~paracore_diffusers.PipelineRun`.
        merges: by network class: ``"merged"``, or why not.
        seconds: of the whole call.
    """

    mode: str
    refused: str = ""
    route: str = ""
    cause: str = ""
    equal: bool = False
    error: float | None = None
    rounds: int = 0
    evaluations: int = 0
    network_calls: int = 0
    merges: dict[str, str] = attrs.field(factory=dict)
    seconds: float = 0.0


@attrs.frozen
class PipelineCheck:
    """What was found about a pipeline.

    Attributes:
        pipeline: its class.
        scheduler: the verdict on its own scheduler, found without running the pipeline; ``None`` if it has none.
        networks: components that may be called in the loop, and their classes.
        supported: the exact run gave the pipeline's own output: its bits, or close if it does not repeat them itself.
        route: ``"table"``, ``"replay"`` or, if it is not supported, ``"sequential"``.
        why: why it is not supported, or why the scheduler is replayed; empty if there is nothing to say.
        steps: N, nodes of the loop.
        network_calls: of the pipeline's own run.
        repeats: the pipeline gives the same bits twice.
        untouched: its last run, after the parallel ones, gave the bits of its first.
        trials: the runs in parallel.
        seconds: of the pipeline's own run.
    """

    pipeline: str
    scheduler: SurveyRecord | None
    networks: dict[str, str]
    supported: bool
    route: str
    why: str
    steps: int
    network_calls: int
    repeats: bool
    untouched: bool
    trials: tuple[Trial, ...]
    seconds: float


def scheduler_verdict(pipe: Any, steps: int) -> SurveyRecord | None:
    """The survey's verdict on the pipeline's own scheduler, as it is configured. Nothing is run but the scheduler."""
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None:
        return None
    return survey_case(Case(type(scheduler).__name__, {}, copy.deepcopy(scheduler)), steps)


def check(
    pipe: Any, call: Mapping[str, Any] | None = None, *, steps: int = 6, window: int = 4, seed: int = 0
) -> PipelineCheck:
    """Run a pipeline alone, through :func:`parallelize` exactly, merged at tolerance 0, and once more alone.

    Args:
        pipe: a diffusers pipeline.
        call: keyword arguments of its call; steps, generator and kind of output are filled in where it takes them.
        steps: ``num_inference_steps``.
        window: evaluations per round.
        seed: of the generator.

    Raises:
        ConfigurationError: if the pipeline itself does not run with these arguments.
    """
    if not callable(pipe) or not hasattr(pipe, "scheduler"):
        raise ConfigurationError(f"this is {type(pipe).__name__}; a diffusers pipeline with a scheduler is needed")
    runner = _Runner(pipe, dict(call or {}), steps, seed)
    verdict = scheduler_verdict(pipe, steps)
    with _counted(pipe) as calls:
        own, seconds = runner.alone()
    again, _ = runner.alone()
    repeats = _same(own, again)
    trials = tuple(runner.trial(mode, own, window) for mode in ("exact", "merged"))
    after, _ = runner.alone()
    exact, merged = trials
    close = exact.equal or (not repeats and (exact.error or 1.0) < 1e-3)
    supported = not exact.refused and close
    if supported:
        why = merged.cause or (f"merged calls are refused: {merged.refused}" if merged.refused else "")
    else:
        why = exact.refused or "the exact run gives other bits than the pipeline itself"
    return PipelineCheck(
        pipeline=type(pipe).__name__,
        scheduler=verdict,
        networks={name: type(part).__name__ for name, part in networks_of(pipe).items()},
        supported=supported,
        route=(merged.route or exact.route) if supported else "sequential",
        why=why,
        steps=max(runner.nodes, 0) or (verdict.nodes if verdict else 0),
        network_calls=calls[0],
        repeats=repeats,
        untouched=_same(own, after) or not repeats,
        trials=trials,
        seconds=seconds,
    )


class _Runner:
    """Calls with the same arguments and seed."""

    def __init__(self, pipe: Any, call: dict[str, Any], steps: int, seed: int) -> None:
        self.pipe, self.seed, self.nodes = pipe, seed, 0
        self._takes = set(inspect.signature(pipe.__call__).parameters)
        self._call = {"num_inference_steps": steps, **call} if "num_inference_steps" in self._takes else call
        free = "output_type" in self._takes and "output_type" not in call
        self._kinds: list[str | None] = ["np", "pt", None] if free else [None]

    def _arguments(self) -> dict[str, Any]:
        found = {name: _again(value) for name, value in self._call.items()}
        if "generator" in self._takes and "generator" not in found:
            found["generator"] = torch.Generator().manual_seed(self.seed)
        if self._kinds[0] is not None:
            found["output_type"] = self._kinds[0]
        return found

    def _run(self, target: Any) -> tuple[list[torch.Tensor], float]:
        torch.manual_seed(self.seed)
        began = time.perf_counter()
        output = target(**self._arguments())
        return list(_numbers(output)), time.perf_counter() - began

    def alone(self) -> tuple[list[torch.Tensor], float]:
        """The pipeline itself."""
        while True:
            try:
                found, seconds = self._run(self.pipe)
            except Exception as error:
                if len(self._kinds) > 1:  # not every pipeline knows every kind of output
                    self._kinds.pop(0)
                    continue
                text = " ".join(str(error).split())[:300]
                raise ConfigurationError(
                    f"{type(self.pipe).__name__} itself does not run with these arguments: {type(error).__name__}: "
                    f"{text}; give what it needs with --call"
                ) from error
            if not found:
                raise ConfigurationError(f"{type(self.pipe).__name__} returns nothing that can be compared")
            self._kinds = self._kinds[:1]
            return found, seconds

    def trial(self, mode: str, own: list[torch.Tensor], window: int) -> Trial:
        """One run in parallel; what goes wrong is its result."""
        settings: dict[str, Any] = {"exact": True} if mode == "exact" else {"tolerance": 0.0}
        fast = parallelize(self.pipe, window=window, **settings)
        try:
            found, _ = self._run(fast)
        except UnsupportedPipelineError as error:
            return Trial(mode, refused=str(error))
        except ParacoreError as error:
            return Trial(mode, refused=f"{type(error).__name__}: {error}")
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            return Trial(mode, refused=f"it fails in parallel though not alone: {type(error).__name__}: {text}")
        last = fast.last
        assert last is not None
        self.nodes = last.steps
        return Trial(
            mode=mode,
            route=last.route,
            cause=last.cause or "",
            equal=_same(own, found),
            error=_error(own, found),
            rounds=last.rounds,
            evaluations=last.evaluations,
            network_calls=last.network_calls,
            merges=dict(last.merges),
            seconds=last.wall_time,
        )


def _again(value: Any) -> Any:
    """A generator as it was given, each time anew."""
    if isinstance(value, list | tuple) and any(isinstance(v, torch.Generator) for v in value):
        return type(value)(_again(v) for v in value)
    if isinstance(value, torch.Generator):
        fresh = torch.Generator(value.device)
        fresh.set_state(value.get_state())
        return fresh
    return value


@contextmanager
def _counted(pipe: Any) -> Iterator[list[int]]:
    """Calls of the networks that a run makes."""
    count = [0]

    def tick(*_: Any) -> None:
        count[0] += 1

    handles = [part.register_forward_pre_hook(tick) for part in networks_of(pipe).values()]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def _numbers(output: Any) -> Iterator[torch.Tensor]:
    """Everything numerical in an output: tensors, arrays, pictures."""
    if isinstance(output, torch.Tensor):
        yield output.detach().cpu()
    elif isinstance(output, np.ndarray):
        yield torch.from_numpy(np.array(output))
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _numbers(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _numbers(value)
    elif hasattr(output, "__array_interface__"):  # a picture
        yield torch.from_numpy(np.array(output))


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True)
    )


def _error(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Relative root-mean-square difference of all numbers together."""
    if [x.shape for x in a] != [x.shape for x in b]:
        return float("inf")
    one, two = (torch.cat([x.double().flatten() for x in part]) for part in (a, b))
    return float((one - two).norm() / one.norm().clamp_min(1e-30))
