"""How recorded calls are made: one by one or in batches, here, on several devices, or by all ranks of a group."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
import torch

from paracore.errors import ConfigurationError
from paracore.evaluators.crew import TIMEOUT, check_timeout
from paracore_diffusers.calls import Call, tensors
from paracore_diffusers.distributed import Distributed
from paracore_diffusers.merge import UnmergeableError, batch_of, merged, split
from paracore_diffusers.replicas import Replicas

__all__ = ["Distributed", "Executor", "Merged", "OneByOne", "Replicas", "executor_from"]


class Executor(Protocol):
    """Makes recorded calls: sets ``result`` and ``done`` of each that is not done.

    It may have more: ``verdicts`` (what was found about merging, by the network's class), ``incidents`` (what went
    wrong and was mended, in words), ``always`` (rounds of a single call are given to it, too), and the methods
    ``begin`` and ``ended`` of :class:`~paracore_diffusers.distributed.Distributed`, and ``close``.

    Attributes:
        inline: calls need not be recorded: the pipeline may make them itself, in its own loop.
    """

    inline: bool

    def run(self, calls: Sequence[Call], known: Sequence[Call]) -> None:
        """Make the calls; ``known`` are some with their true answers, to check against."""
        ...


@attrs.define
class OneByOne:
    """The pipeline makes every call itself, in its own loop: the bits of a sequential run."""

    inline: bool = attrs.field(default=True, init=False)

    def run(self, calls: Sequence[Call], known: Sequence[Call]) -> None:
        """Make each call by itself."""
        for call in calls:
            _alone(call)


@attrs.define(eq=False)
class Merged:
    """Calls of one kind are one batched call, where that is possible; the others are made one by one.

    The first merged call of a kind holds a call whose answer is known (made alone, if need be): if the merged answer
    differs from it by more than ``tolerance``, that kind is made one by one from then on.

    Attributes:
        max_batch: most samples (nodes times the pipeline's own batch) in one call; ``None``: no limit.
        tolerance: largest relative difference of a merged answer; ``None``: 1e-3, for half precision 0.05.
        verdicts: what was found, by the network's class: ``"merged"``, or why not.
    """

    max_batch: int | None = None
    tolerance: float | None = None
    verdicts: dict[str, str] = attrs.field(factory=dict, init=False)
    inline: bool = attrs.field(default=False, init=False)
    _checked: set[Any] = attrs.field(factory=set, init=False, repr=False)
    _refused: set[Any] = attrs.field(factory=set, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.max_batch is not None and (not isinstance(self.max_batch, int) or self.max_batch < 1):
            raise ConfigurationError(f"max_batch is {self.max_batch!r}; an integer of at least 1, or None, is needed")

    def run(self, calls: Sequence[Call], known: Sequence[Call]) -> None:
        """Make the calls."""
        groups: dict[Any, list[Call]] = {}
        for call in calls:
            if not call.done:
                groups.setdefault(call.key, []).append(call)
        for key, group in groups.items():
            if key in self._refused:
                for call in group:
                    _alone(call)
                continue
            reference = next((c for c in known if c.key == key), None)
            self._group(key, group, reference)

    def _group(self, key: Any, group: list[Call], reference: Call | None) -> None:
        name = type(group[0].module).__name__
        try:
            batch = batch_of(group[0])
            most = len(group) + 1 if self.max_batch is None else max(1, self.max_batch // batch)
            if key not in self._checked and reference is None and most > 1 and len(group) > 1:
                reference, group = group[0], group[1:]  # of a kind that is new in this run: nothing to check against
                _alone(reference)
            if key not in self._checked and reference is not None and most > 1:
                self._first(group[: most - 1], reference, batch)
                group = group[most - 1 :]
                self._checked.add(key)
            for begin in range(0, len(group), most):
                self._together(group[begin : begin + most], batch, None if reference is None else reference.result)
            self.verdicts.setdefault(name, "merged")
        except UnmergeableError as reason:
            self._refused.add(key)
            self.verdicts[name] = f"one by one: {reason}"
            for call in group:
                _alone(call)

    def _first(self, group: list[Call], reference: Call, batch: int) -> None:
        """A merged call that holds a known one: as the last, for networks that take something of the first for all."""
        *answers, found = self._answers([*group, reference], batch, reference.result)
        error = max((_difference(a, b) for a, b in _pairs(found, reference.result)), default=0.0)
        half = any(t.dtype in (torch.float16, torch.bfloat16) for t in tensors(reference.result))
        allowed = self.tolerance if self.tolerance is not None else 0.05 if half else 1e-3
        if not error <= allowed:
            raise UnmergeableError(f"a merged answer differs from the single one by {error:.1e} (allowed {allowed:g})")
        for call, answer in zip(group, answers, strict=True):
            call.result, call.done = answer, True

    def _together(self, group: list[Call], batch: int, like: Any) -> None:
        if len(group) == 1:
            _alone(group[0])
            return
        for call, answer in zip(group, self._answers(group, batch, like), strict=True):
            call.result, call.done = answer, True

    def _answers(self, group: list[Call], batch: int, like: Any) -> list[Any]:
        args, kwargs = merged(group)
        try:
            result = group[0].module(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            what = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise UnmergeableError(f"the network refuses the merged call ({what})") from error
        return split(result, len(group), batch, like)


def executor_from(
    asked: Any,
    devices: Sequence[Any] | None,
    max_batch: int | None,
    process_group: Any = None,
    timeout: float | None = TIMEOUT,
) -> Any:
    """``"merged"``, ``"one-by-one"``, or an object of one's own; on several devices, or by all ranks of a group.

    Raises:
        ConfigurationError: for another name, or options that do not go together.
    """
    if process_group is not None and devices is not None:
        raise ConfigurationError("devices and process_group were given; with a process group each rank has one device")
    if not isinstance(asked, str):
        for name, value in (("devices", devices), ("process_group", process_group), ("max_batch", max_batch)):
            if value is not None:
                raise ConfigurationError(f"{name} and an executor of one's own were given; give one of them")
        if isinstance(asked, type) or not callable(getattr(asked, "run", None)) or not hasattr(asked, "inline"):
            raise ConfigurationError(
                f"execution is {asked!r}; 'merged', 'one-by-one', or an object with run(calls, known) and inline is "
                "needed"
            )
        return asked
    kinds: dict[str, Any] = {"merged": functools.partial(Merged, max_batch), "one-by-one": OneByOne}
    if asked not in kinds:
        raise ConfigurationError(f"execution is {asked!r}; 'merged', 'one-by-one' or an executor is needed")
    if process_group is not None:
        if isinstance(process_group, str | bool | int) and process_group != "world":
            raise ConfigurationError(f"process_group is {process_group!r}; 'world' or a process group is needed")
        return Distributed(None if process_group == "world" else process_group, kinds[asked](), timeout)
    if devices is not None:
        return Replicas(devices, kinds[asked], timeout)
    check_timeout(timeout)
    return kinds[asked]()


def _alone(call: Call) -> None:
    if not call.done:
        call.result, call.done = call.run(), True


def _pairs(a: Any, b: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    found, known = tensors(a), tensors(b)
    if len(found) != len(known):
        raise UnmergeableError(f"a merged answer has {len(found)} tensors where a single one has {len(known)}")
    return list(zip(found, known, strict=True))


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative root-mean-square difference."""
    if a.shape != b.shape or not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    wide = torch.float64 if a.device.type == "cpu" else torch.float32
    size = float(b.to(wide).pow(2).mean().sqrt())
    return float((a.to(wide) - b.to(wide)).pow(2).mean().sqrt()) / max(size, 1e-30)
