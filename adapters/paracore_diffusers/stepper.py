"""A scheduler's own, unmodified ``step``, run from outside: from any node, any number of times, in branches."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from paracore_diffusers.errors import UnsupportedSchedulerError
from paracore_diffusers.stepper_copies import CopyPlan
from paracore_diffusers.stepper_run import Dtypes, Rehearsal, Run

__all__ = ["Dtypes", "Rehearsal", "Run", "Stepper"]

KNOWN = ("model_output", "timestep", "sample")
GIVEN = (*KNOWN, "timestep_back", "old_pred_original_sample", "generator", "return_dict")


class Stepper:
    """Independent runs of one scheduler.

    Attributes:
        timesteps: the 0-dimensional tensors that ``step`` is given, one per node.
        nodes: N, how many ``step`` calls make a sample.
        name: the scheduler's class, for messages.
        config: the scheduler's configuration.
        batched_times: ``step`` is given one timestep per sample instead of one number.
        reached: nodes that the last rehearsal got through.
    """

    def __init__(
        self,
        scheduler: Any,
        timesteps: torch.Tensor,
        options: Mapping[str, Any] | None = None,
        *,
        batched_times: bool = False,
    ) -> None:
        """Keep a copy of a scheduler that is ready for its first step.

        Args:
            scheduler: after ``set_timesteps`` (and ``set_begin_index``), not stepped yet. It is copied.
            timesteps: ``(N,)`` the timesteps that the pipeline iterates over: all, or a tail of
                ``scheduler.timesteps``.
            options: keyword arguments that the pipeline gives to every ``step`` beyond output, timestep and sample
                (``eta``, say). A generator among them is ignored: draws are answered from outside.
            batched_times: give ``step`` a timestep per sample ``(B,)``.

        Raises:
            UnsupportedSchedulerError: if its ``step`` has another form.
        """
        self.name = type(scheduler).__name__
        self.timesteps = list(torch.as_tensor(timesteps).detach().unbind())
        self.nodes = len(self.timesteps)
        self.batched_times = batched_times
        self._options = {k: v for k, v in (options or {}).items() if k not in ("generator", "return_dict")}
        step = getattr(scheduler, "step", None)
        if not callable(step):
            raise UnsupportedSchedulerError(f"{self.name} has no step(); it cannot be run from outside")
        if self.nodes < 1:
            raise UnsupportedSchedulerError(f"{self.name} has no timesteps; call set_timesteps first")
        parameters = inspect.signature(step).parameters
        self._takes = {name for name in GIVEN if name in parameters}
        if missing := [name for name in KNOWN if name not in self._takes]:
            raise UnsupportedSchedulerError(
                f"{self.name}.step takes ({', '.join(parameters)}), not {' and '.join(missing)}; only schedulers with "
                "step(model_output, timestep, sample) can be run from outside"
            )
        empty, plain = inspect.Parameter.empty, (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        needed = [n for n, p in parameters.items() if p.default is empty and p.kind not in plain and n not in GIVEN]
        if unknown := [name for name in needed if name not in self._options]:
            raise UnsupportedSchedulerError(
                f"{self.name}.step also needs {', '.join(unknown)}; give it in options, or choose another scheduler"
            )
        free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        if foreign := [name for name in self._options if name not in parameters and not free]:
            raise UnsupportedSchedulerError(f"{self.name}.step takes no {', '.join(foreign)}; leave it out of options")
        scale = getattr(scheduler, "scale_model_input", None)
        self._scale_arguments = _positional(scale) if callable(scale) else -1
        try:
            self._base = copy.deepcopy(scheduler)
        except Exception as error:
            raise UnsupportedSchedulerError(f"{self.name} cannot be copied: {error}") from error
        self._plan = CopyPlan(self._base)
        self._drawing: list[bool] | None = None
        self.reached = 0
        self.config: Mapping[str, Any] = dict(getattr(self._base, "config", None) or {})

    @property
    def scheduler(self) -> Any:
        """The kept copy, ready for its first step. Read it only."""
        return self._base

    @property
    def mutates(self) -> bool | None:
        """Whether steps change tensors in place; ``None`` before a rehearsal."""
        return self._plan.mutates

    def _time(self, node: int, sample: torch.Tensor) -> torch.Tensor:
        time = self.timesteps[node]
        return time.expand(sample.shape[0]) if self.batched_times else time

    def fresh(self) -> Run:
        """A run ready for node 0."""
        return Run(self, self._plan.copy(self._base), 0, None)

    def rehearse(
        self,
        dtypes: Dtypes | None = None,
        device: torch.device | str = "cpu",
        event: tuple[int, ...] = (2, 3, 3),
        scale: float = 1.0,
    ) -> Rehearsal:
        """Run all nodes once with small zero-noise tensors ``(2, *event)``, to see what the scheduler asks for.

        Raises:
            UnsupportedSchedulerError: if a step fails, or draws noise by other means.
        """
        dtypes, device = dtypes or Dtypes(), torch.device(device)
        run, shape = Run(self, copy.deepcopy(self._base), 0, None), (2, *event)
        tables = self._plan.tables(run.scheduler)
        source = torch.Generator().manual_seed(0)
        state = torch.randn(shape, generator=source).to(device, dtypes.first) * scale
        asks, returned = [], []
        self.reached = 0
        with torch.inference_mode(False):
            for node in range(self.nodes):
                output = torch.randn(shape, generator=source).to(device, dtypes.output)
                before = [(t, t._version) for t in (state, output, *self._plan.tensors(run.scheduler))]
                result = run.step(node, output, state, _no_noise, watch=True)
                if any(tensor._version != version for tensor, version in before):
                    self._plan.mutates = True
                self.reached = node + 1
                asks.append(tuple(run.asks))
                returned.append(result.dtype)
                state = result.to(dtypes.state)
        if self._plan.mutates is None:
            self._plan.mutates = False
        before_now = self._drawing or [False] * self.nodes
        self._drawing = [bool(here) or earlier for here, earlier in zip(asks, before_now, strict=True)]
        self._plan.unshare(tables, run.scheduler)
        return Rehearsal(shape, tuple(asks), tuple(returned), bool(self._plan.mutates))


def _no_noise(k: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def _positional(function: Any) -> int:
    """How many of (sample, timestep) a function takes."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return min(2, sum(p.kind in kinds for p in parameters))
