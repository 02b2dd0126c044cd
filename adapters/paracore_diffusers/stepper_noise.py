"""Answering a scheduler's own random draws from outside, for one thread and for the length of one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch.overrides import TorchFunctionMode

from paracore_diffusers.errors import UnsupportedSchedulerError

__all__ = ["Answer", "AnsweredDraws", "Ask", "marker"]

Answer = Callable[[int, tuple[int, ...], torch.dtype, torch.device], torch.Tensor]
"""``answer(k, shape, dtype, device)``: the k-th draw of a node, standard normal."""

FOREIGN = frozenset(
    {"rand", "rand_like", "randint", "randint_like", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
    | {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_", "log_normal_"}
)
"""Draws other than standard normal ones: a table or a replay cannot answer them."""


@attrs.frozen
class Ask:
    """One draw that a scheduler asked for.

    Attributes:
        shape: shape asked.
        dtype: dtype asked.
        device: device asked.
        own: asked from the generator given to ``step``; otherwise from the global random state.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    own: bool


_MARKERS: dict[str, torch.Generator] = {}


def marker(device: torch.device) -> torch.Generator:
    """The generator that stands for the user's: draws that carry it are the scheduler's own. It is never drawn from."""
    key = str(device)
    if key not in _MARKERS:
        _MARKERS[key] = torch.Generator(device=device)
    return _MARKERS[key]


class AnsweredDraws(TorchFunctionMode):
    """While entered, this thread's standard normal draws are answered by a callable.

    A function mode is local to its thread and to the ``with`` block, so no name is replaced anywhere: a second
    pipeline elsewhere draws as usual.

    Attributes:
        asks: the draws asked for, in order.
    """

    def __init__(self, answer: Answer | None, name: str, node: int) -> None:
        super().__init__()
        self._answer = answer
        self._name = name
        self._node = node
        self.asks: list[Ask] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        called = getattr(func, "__name__", "")
        if called == "randn":
            return self._draw(_shape(args, kwargs), kwargs, torch.get_default_dtype(), torch.get_default_device())
        if called == "randn_like":
            like = args[0] if args else kwargs["input"]
            return self._draw(tuple(like.shape), kwargs, like.dtype, like.device)
        if called in FOREIGN:
            raise self._foreign(f"torch.{called}")
        return func(*args, **kwargs)

    def _draw(
        self, shape: tuple[int, ...], kwargs: dict[str, Any], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        generator = kwargs.get("generator")
        own = generator is not None and any(generator is known for known in _MARKERS.values())
        if generator is not None and not own:
            raise self._foreign("a generator of its own")
        asked = Ask(shape, kwargs.get("dtype") or dtype, torch.device(kwargs.get("device") or device), own)
        self.asks.append(asked)
        if self._answer is None:
            raise UnsupportedSchedulerError(f"{self._name} draws noise at node {self._node}; none was given")
        # A mode is off inside its own handler, so the answer may draw from copies of the user's generators.
        noise = self._answer(len(self.asks) - 1, asked.shape, asked.dtype, asked.device)
        if tuple(noise.shape) != asked.shape or noise.dtype != asked.dtype:
            noise = noise.to(asked.dtype).expand(asked.shape)
        return noise

    def _foreign(self, means: str) -> UnsupportedSchedulerError:
        return UnsupportedSchedulerError(
            f"{self._name} draws noise by {means} at node {self._node}; only standard normal draws from the "
            "generator given to step can be answered from outside: choose another scheduler, or run the pipeline as "
            "it is"
        )


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    size = kwargs["size"] if "size" in kwargs else args[0] if len(args) == 1 and not isinstance(args[0], int) else args
    return tuple(int(n) for n in size)
