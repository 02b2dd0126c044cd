"""A window that follows the hardware: ``window="auto"``."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch

from paracore.errors import CapabilityError, ConfigurationError, EvaluatorError
from paracore.problem import Problem
from paracore.request import Evaluator, Outputs, Request
from paracore.result import Result
from paracore.sampler import Sampler
from paracore.status import Status

__all__ = ["AutoWindow", "WindowFit", "fit_window"]

_FEWER: dict[str, dict[int, float]] = {
    "ropa": {1: 1.0, 2: 3.33, 4: 4.42, 8: 5.16, 16: 5.63},
    "front": {1: 1.0, 2: 2.68, 4: 3.59, 8: 4.73, 16: 4.62},
    "picard": {1: 1.0, 2: 1.90, 4: 3.19, 8: 4.62, 16: 4.28},
}
"""How many times fewer rounds, by window: the README's table (``benchmarks/results/digits.json``; a test compares
them). Their shape matters here, not their height; beyond the last point nothing was measured, and nothing is gained."""

_WINDOWS_KEPT = 16
"""Windows of states that a sampler holds at most (docs/benchmarks.md)."""


@attrs.frozen
class WindowFit:
    """What was measured, and what follows.

    Attributes:
        window: the one with the smallest predicted time.
        seconds: measured time of one round by window.
        predicted: predicted time of a solve by window, in units of the sequential sampler's.
        limit: why no larger window was tried.
    """

    window: int
    seconds: Mapping[int, float]
    predicted: Mapping[int, float]
    limit: str


def fit_window(
    evaluator: Evaluator, problem: Problem, *, sampler: str = "ropa", largest: int = 32, repeats: int = 3
) -> WindowFit:
    """The window that promises the shortest solve on this evaluator.

    Rounds of 1, 2, 4, ... rows per sample are timed through the evaluator (so that shards, batches and transfers are
    in the figure), up to its memory; the time of a round, over how many times fewer rounds such a window needs on our
    benchmark, is the prediction. How many fewer it will be on another network is not known beforehand: the shape of
    the curve is what the choice rests on.

    Args:
        evaluator: called about ``4 log2(largest)`` times; these calls are not part of any result. Over several ranks
            all take the first one's measurements.
        problem: its shapes count, not its numbers.
        sampler: name of the sampler; those without a curve of their own take Picard's.
        largest: no window beyond this is tried.
        repeats: calls per window, of which the median counts (after one that warms up).

    Raises:
        ConfigurationError: if not even one row per sample can be evaluated.
    """
    curve, steps = _FEWER.get(sampler, _FEWER["picard"]), problem.scheme.steps
    agreed = getattr(evaluator, "broadcast", lambda value: value)  # over several ranks: what the first one measured
    seconds, predicted = dict[int, float](), dict[int, float]()
    limit, window = "", 1
    while not limit:
        try:
            spent = float(agreed(_time(evaluator, _request(problem, window), repeats)))
        except (MemoryError, torch.cuda.OutOfMemoryError, EvaluatorError) as error:
            if isinstance(error, EvaluatorError) and "OutOfMemoryError" not in str(error):  # how a rank says it
                raise
            if window == 1:
                raise ConfigurationError(f"one row per sample does not fit into memory: {error}") from error
            limit = f"a round of window {window} does not fit into memory"
            break
        seconds[window] = spent
        predicted[window] = spent / seconds[1] / _fewer(curve, window)
        best = min(predicted, key=predicted.__getitem__)
        window *= 2
        if window > min(largest, steps):
            limit = f"the largest window is {min(largest, steps)}"
        elif window > 4 * best:
            limit = f"windows above {best} are slower"
        elif not agreed(_room(problem, window)):
            limit = f"{_WINDOWS_KEPT} windows of {window} states would fill half of the free memory"
    return WindowFit(min(predicted, key=predicted.__getitem__), seconds, predicted, limit)


@attrs.frozen(eq=False)
class AutoWindow(Sampler):
    """A sampler whose window is chosen when :func:`paracore.solve` knows the evaluator.

    Attributes:
        name: of the preset.
        make: the sampler for a window.
    """

    name: str
    make: Callable[[int], Sampler]

    @property
    def needs(self) -> frozenset[str]:
        """As the preset's."""
        return self.make(4).needs

    def fitted(self, problem: Problem, evaluator: Evaluator) -> Sampler:
        """The preset with the window of :func:`fit_window`."""
        missing = self.needs - frozenset(evaluator.capabilities)
        if missing:
            raise CapabilityError(f"{self.name!r} needs {', '.join(sorted(missing))}, which the evaluator lacks")
        return self.make(fit_window(evaluator, problem, sampler=self.name).window)

    def start(self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False) -> Any:
        """Refused: there is no evaluator here."""
        raise self._unfitted()

    def request(self, state: Any) -> Request | None:
        """Refused."""
        raise self._unfitted()

    def advance(self, state: Any, outputs: Outputs) -> Any:
        """Refused."""
        raise self._unfitted()

    def result(self, state: Any, *, unfinished: Status = Status.INTERRUPTED) -> Result:
        """Refused."""
        raise self._unfitted()

    def plain(self, state: Any) -> dict[str, Any]:
        """Refused."""
        raise self._unfitted()

    def restore(self, problem: Problem, data: dict[str, Any]) -> Any:
        """Refused."""
        raise self._unfitted()

    def _unfitted(self) -> ConfigurationError:
        return ConfigurationError(
            f"the window of {self.name!r} is 'auto', and is chosen for an evaluator: use paracore.solve, or "
            "sampler.fitted(problem, evaluator), or give a number (for a checkpoint, the one it was saved with)"
        )


def _fewer(curve: Mapping[int, float], window: int) -> float:
    """The curve, linear between its points in log2 of the window, level after the last."""
    points = sorted(curve)
    if window >= points[-1]:
        return curve[points[-1]]
    low = max(p for p in points if p <= window)
    high = min(p for p in points if p > window)
    share = math.log2(window / low) / math.log2(high / low)
    return curve[low] + share * (curve[high] - curve[low])


def _request(problem: Problem, window: int) -> Request:
    count, scheme = problem.batch, problem.scheme
    nodes = torch.arange(window).clamp_max(scheme.steps - 1).repeat_interleave(count)
    return Request(
        nodes=nodes,
        samples=torch.arange(count).repeat(window),
        states=torch.cat([problem.x0] * window),
        times=torch.from_numpy(scheme.time[nodes.numpy()]),
    )


def _time(evaluator: Evaluator, request: Request, repeats: int) -> float:
    found = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        values = evaluator.evaluate(request).values
        if values.is_cuda:
            torch.cuda.synchronize(values.device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def _room(problem: Problem, window: int) -> bool:
    """Whether the windows a sampler holds fit into half of what is free where the states are."""
    x0 = problem.x0
    wanted = _WINDOWS_KEPT * window * x0.numel() * x0.element_size()
    if x0.is_cuda:
        return wanted < torch.cuda.mem_get_info(x0.device)[0] / 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system says
        return True
    return wanted < free / 2
