"""Cheap independent copies of a scheduler on its way."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch

__all__ = ["CopyPlan"]

FIXED = (bool, int, float, complex, str, bytes, NoneType, type, torch.dtype, torch.device, np.generic)
FIXED += (FunctionType, BuiltinFunctionType, ModuleType)  # type: ignore[assignment]
_MISSING = object()


class CopyPlan:
    """What of a scheduler's attributes a copy may share.

    Shared are the tables of the scheduler as it was before its first step (found by identity: a step that replaces
    one has its own) and, once a rehearsal has shown that no step changes a tensor in place, every tensor.

    Attributes:
        mutates: whether steps change kept tensors in place; ``None`` as long as nothing was seen (then: as if so).
    """

    def __init__(self, base: Any) -> None:
        self.mutates: bool | None = None
        self._class = type(base)
        self._start: dict[str, Any] = {k: v for k, v in vars(base).items() if _shareable(v)}

    def copy(self, scheduler: Any) -> Any:
        """An independent copy of the scheduler, or of a copy of it."""
        attributes = dict(vars(scheduler))
        start, share = self._start, self.mutates is False
        for key, value in attributes.items():
            if value is not start.get(key, _MISSING) and not isinstance(value, FIXED):
                attributes[key] = _copied(value, share)
        new = object.__new__(self._class)
        vars(new).update(attributes)
        return new

    def tables(self, scheduler: Any) -> dict[str, Any]:
        """The attributes that copies share, with what tells whether they were changed in place since."""
        return {key: _stamp(value) for key, value in vars(scheduler).items() if key in self._start}

    def unshare(self, tables: dict[str, Any], scheduler: Any) -> None:
        """Share no longer what was changed in place since :meth:`tables`."""
        for key, (value, stamp) in tables.items():
            if value is vars(scheduler).get(key) and _stamp(value)[1] != stamp:
                self._start.pop(key)
                self.mutates = True

    def tensors(self, scheduler: Any) -> Iterator[torch.Tensor]:
        """All tensors that a scheduler keeps."""
        return _tensors(list(vars(scheduler).values()))


def _stamp(value: Any) -> tuple[Any, Any]:
    if isinstance(value, torch.Tensor) and not value.is_inference():
        return value, value._version
    return value, value.tobytes() if isinstance(value, np.ndarray) else None


def _shareable(value: Any) -> bool:
    """A table or a constant: nothing that a step could change in place without our seeing it."""
    if isinstance(value, (*FIXED, torch.Tensor, np.ndarray)):
        return True
    if isinstance(value, tuple):
        return all(_shareable(item) for item in value)
    # A configuration: diffusers freezes it.
    return isinstance(value, OrderedDict) and type(value) is not OrderedDict


def _copied(value: Any, share: bool) -> Any:
    if isinstance(value, FIXED):
        return value
    if isinstance(value, torch.Tensor):
        return value if share else value.clone()
    if type(value) in (list, tuple, set, deque):
        items = [_copied(item, share) for item in value]
        return deque(items, value.maxlen) if isinstance(value, deque) else type(value)(items)
    if type(value) in (dict, OrderedDict):
        return type(value)((k, _copied(v, share)) for k, v in value.items())
    return copy.deepcopy(value)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple | deque):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(list(value.values()))
