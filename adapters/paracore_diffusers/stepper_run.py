"""One run of a scheduler, somewhere on its way, and what is known of runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import attrs
import torch

from paracore_diffusers.errors import UnsupportedSchedulerError
from paracore_diffusers.stepper_noise import Answer, AnsweredDraws, Ask, marker

if TYPE_CHECKING:
    from paracore_diffusers.stepper import Stepper

__all__ = ["Dtypes", "Rehearsal", "Run"]


@attrs.frozen
class Dtypes:
    """What a pipeline hands to ``step`` and gets from it.

    Attributes:
        first: of the sample at the first step.
        returned: of what ``step`` returns.
        state: of the sample at later steps, after the pipeline's own cast.
        output: of the network's output.
        kept: in which the pipeline keeps states between steps, where that rounds more than ``state`` does.
    """

    first: torch.dtype = torch.float32
    returned: torch.dtype = torch.float32
    state: torch.dtype = torch.float32
    output: torch.dtype = torch.float32
    kept: torch.dtype | None = None

    def given(self, node: int, state: torch.Tensor) -> torch.Tensor:
        """A returned state as the pipeline hands it to the next ``step``."""
        if node == 0:
            return state.to(self.first)
        return (state if self.kept is None else state.to(self.kept)).to(self.state)


@attrs.frozen
class Rehearsal:
    """What one run over all nodes with small tensors showed.

    Attributes:
        shape: of the small tensors.
        asks: draws of each node, in order.
        returned: dtype that each step returned.
        mutates: tensors kept in the scheduler are changed in place.
    """

    shape: tuple[int, ...]
    asks: tuple[tuple[Ask, ...], ...]
    returned: tuple[torch.dtype, ...]
    mutates: bool


class Run:
    """One run of the scheduler, somewhere on its way.

    Attributes:
        scheduler: this run's own scheduler.
        node: the next node to step.
        asks: draws that the last step asked for.
    """

    __slots__ = ("_stepper", "asks", "beside", "node", "scheduler")

    def __init__(self, stepper: Stepper, scheduler: Any, node: int, beside: Any) -> None:
        self._stepper = stepper
        self.scheduler = scheduler
        self.node = node
        self.beside = beside
        self.asks: list[Ask] = []

    def copy(self) -> Run:
        """An independent run at the same place; tables and, where nothing changes them in place, tensors are shared."""
        return Run(self._stepper, self._stepper._plan.copy(self.scheduler), self.node, self.beside)

    snapshot = copy

    @torch.no_grad()
    def scale(self, node: int, sample: torch.Tensor) -> torch.Tensor:
        """What the network is given instead of a sample: ``scale_model_input``, called as a pipeline calls it."""
        count = self._stepper._scale_arguments
        if count < 0:
            return sample
        time = self._stepper._time(node, sample)
        scaled: torch.Tensor = self.scheduler.scale_model_input(sample, *(time,)[: count - 1])
        return scaled

    @torch.no_grad()
    def step(
        self,
        node: int,
        output: torch.Tensor,
        sample: torch.Tensor,
        noise: Answer | None = None,
        *,
        watch: bool = False,
    ) -> torch.Tensor:
        """The scheduler's own step.

        Args:
            node: must be the run's next node.
            output: ``(B, *event)`` the network's (guided) output.
            sample: ``(B, *event)`` the state at the node.
            noise: answers the k-th draw of the node.
            watch: look out for draws even at nodes where no rehearsal met any (that costs as much as the step).

        Returns:
            The next state, in the dtype that the scheduler returns.

        Raises:
            UnsupportedSchedulerError: if the step fails, or draws noise by other means.
        """
        stepper = self._stepper
        if node != self.node:
            raise ValueError(f"this run of {stepper.name} is at node {self.node}, not {node}; copy one at node {node}")
        time, takes = stepper._time(node, sample), stepper._takes
        extra = dict(stepper._options)
        if "timestep_back" in takes:
            extra["timestep_back"] = stepper._time(node - 1, sample) if node else None
        if "old_pred_original_sample" in takes:
            extra["old_pred_original_sample"] = self.beside
        if "generator" in takes:
            extra["generator"] = marker(sample.device)
        if "return_dict" in takes:
            extra["return_dict"] = False
        draws: AnsweredDraws | None = None
        if watch or stepper._drawing is None or stepper._drawing[node]:
            draws = AnsweredDraws(noise, stepper.name, node)
        try:
            with draws or nullcontext():
                self.scale(node, sample)
                result = self.scheduler.step(model_output=output, timestep=time, sample=sample, **extra)
        except UnsupportedSchedulerError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            raise UnsupportedSchedulerError(
                f"{stepper.name}.step fails at node {node} of {stepper.nodes} (timestep {_shown(time)}): {what}"
                f"{_hint(stepper.config)}"
            ) from error
        self.asks, self.node = [] if draws is None else draws.asks, node + 1
        values = tuple(result.values()) if isinstance(result, Mapping) else result
        if not isinstance(values, tuple | list) or not values or not isinstance(values[0], torch.Tensor):
            raise UnsupportedSchedulerError(f"{stepper.name}.step gives {type(result).__name__}, not a state")
        self.beside = values[1] if len(values) > 1 else None
        return values[0]


def _shown(time: torch.Tensor) -> float:
    return float(time.flatten()[0])


def _hint(config: Mapping[str, Any]) -> str:
    kind = str(config.get("variance_type"))
    if not kind.startswith("learned"):
        return ""
    return f"; with variance_type={kind!r} the output holds a variance, too: only a fixed variance can be run so"
