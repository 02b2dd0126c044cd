"""What a pipeline's first step tells: the problem to solve, and how its scheduler is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch

from paracore.schemes import compute_dtype
from paracore_diffusers.errors import NonFiniteSchedulerError, NonlinearSchedulerError, UnsupportedPipelineError
from paracore_diffusers.replay import ReplayScheme
from paracore_diffusers.replay_noise import RawNoise
from paracore_diffusers.replay_tape import TapedProblem
from paracore_diffusers.stepper import Dtypes, Stepper
from paracore_diffusers.table import SchedulerTable, small_signal_table, table_of

__all__ = ["Preparation", "check_first", "prepared_problem"]

OWN = ("model_output", "timestep", "sample", "generator", "return_dict", "timestep_back", "old_pred_original_sample")
"""Arguments of ``step`` that change from node to node, or that we answer ourselves."""


@attrs.define(eq=False)
class Preparation:
    """The problem, and all that is known of the scheduler.

    Attributes:
        problem: what the sampler solves.
        table: the scheduler as a table: for the solve, or for guesses only where it is replayed.
        dtypes: what the pipeline hands to ``step`` and gets from it.
        noise: the scheduler's draws, if it makes any.
        route: ``"table"`` or ``"replay"``.
        cause: why it is replayed, if that was not asked for.
        returns: how many values ``step`` returns.
    """

    problem: TapedProblem
    table: SchedulerTable
    dtypes: Dtypes
    noise: RawNoise | None
    route: str
    cause: str | None
    returns: int
    _unscaled: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._unscaled = bool((self.table.input_scale == 1.0).all())

    @property
    def unscaled(self) -> bool:
        """Whether ``scale_model_input`` gives back what it is given, at every node."""
        return self._unscaled

    def arrivals(self) -> Iterator[Any]:
        """The scheduler as it is when a sequential run arrives at each node, one after the other."""
        stepper, x0 = self.table.stepper, self.problem.x0
        run = stepper.fresh()
        state = torch.zeros(2, *(3,) * (x0.ndim - 1), dtype=self.dtypes.state, device=x0.device)
        for node in range(stepper.nodes):
            yield run.copy().scheduler
            run.step(node, torch.zeros_like(state), state, _no_noise)

    def recast(self, sample: torch.Tensor, kept: torch.dtype | None) -> None:
        """The pipeline's own casts, which show at its second step for the first time."""
        if (sample.dtype, kept) == (self.dtypes.state, self.dtypes.kept):
            return
        before, self.dtypes = self.dtypes, attrs.evolve(self.dtypes, state=sample.dtype, kept=kept)
        if isinstance(self.problem.scheme, ReplayScheme):
            self.problem.scheme.recast(self.dtypes)
        if self.noise is not None and before.state != sample.dtype:
            self.noise.again(self.table.stepper.rehearse(self.dtypes, sample.device, (3,) * (sample.ndim - 1)))

    def lent(self, node: int, state: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        """A copy of a state as the pipeline would hold it after the step before: a pipeline may write into it."""
        return x0.clone() if node == 0 else state.to(self.dtypes.returned, copy=True)


def prepared_problem(fresh: Any, times: Sequence[torch.Tensor], values: dict[str, Any], *, exact: bool) -> Preparation:
    """Make the problem.

    Args:
        fresh: the scheduler, ready for its first step.
        times: the timesteps that the pipeline iterates over.
        values: the arguments of its first step, by name.
        exact: step through the real scheduler.

    Raises:
        UnsupportedPipelineError: if the scheduler is called at other times than its own, or cannot be run from outside.
    """
    x0, f0, given = values["sample"], values["model_output"], values.get("timestep")
    _check_time(times[0], given)
    batched = isinstance(given, torch.Tensor) and given.ndim == 1 and len(given) == len(x0)
    options = {k: v for k, v in values.items() if k not in OWN}
    stepper = Stepper(fresh, torch.stack(list(times)), options, batched_times=batched)
    dtypes = Dtypes(x0.dtype, x0.dtype, x0.dtype, f0.dtype)
    event = (3,) * (x0.ndim - 1)
    returned = stepper.rehearse(dtypes, x0.device, event).returned[0]
    dtypes = attrs.evolve(dtypes, returned=returned, state=returned)
    if returned != x0.dtype:
        stepper.rehearse(dtypes, x0.device, event)
    cause = None
    try:
        table = table_of(stepper, ndim=x0.ndim)
    except (NonlinearSchedulerError, NonFiniteSchedulerError) as error:
        table, cause = small_signal_table(stepper, ndim=x0.ndim), str(error)
    scheme, noise = table.scheme, None
    if scheme.stochastic:
        noise = RawNoise.create(stepper, values.get("generator"), tuple(x0.shape), dtypes, x0.device)
    replayed = exact or cause is not None
    if replayed:
        scheme = ReplayScheme.create(
            stepper,
            scheme,
            first_dtype=dtypes.first,
            returned_dtype=dtypes.returned,
            state_dtype=dtypes.state,
            output_dtype=dtypes.output,
            noise=noise,
            window=len(times) // 4 + 16,
        )
    problem = TapedProblem.create(scheme, x0.to(compute_dtype(x0.dtype)), noise, lockstep=True)
    returns = 2 if _returns_more(stepper, x0, f0) else 1
    return Preparation(problem, table, dtypes, noise, "replay" if replayed else "table", cause, returns)


def check_first(values: dict[str, Any]) -> None:
    """Refuse a first step that no problem can be made of.

    Raises:
        UnsupportedPipelineError: for an output of another shape than the state's, or a state that is no batch.
    """
    x0, f0 = values["sample"], values["model_output"]
    if f0.shape != x0.shape:
        raise UnsupportedPipelineError(
            f"the pipeline steps with an output of shape {tuple(f0.shape)} at a state of shape {tuple(x0.shape)} "
            "(a learned variance, say); only outputs of the state's shape are supported"
        )
    if x0.ndim < 2 or not x0.is_floating_point():
        raise UnsupportedPipelineError(f"the state is a {tuple(x0.shape)} {x0.dtype}; (B, *event) floats needed")


def _check_time(own: torch.Tensor, given: Any) -> None:
    first = float(own.flatten()[0])
    told = float(given.flatten()[0]) if isinstance(given, torch.Tensor) else float(given)
    if told != first:
        raise UnsupportedPipelineError(
            f"the pipeline steps its scheduler at time {told:g} where its timesteps say {first:g}; that cannot be "
            "followed"
        )


def _returns_more(stepper: Stepper, x0: torch.Tensor, f0: torch.Tensor) -> bool:
    """Whether ``step`` returns something beside the state."""
    run, event = stepper.fresh(), (2, *(3,) * (x0.ndim - 1))
    like = torch.zeros(event, dtype=x0.dtype, device=x0.device)
    run.step(0, like.to(f0.dtype), like, _no_noise)
    return run.beside is not None


def _no_noise(k: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)
