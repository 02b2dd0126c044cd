"""What a pipeline asks of its networks: calls, their shapes, and stand-ins for their answers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch

__all__ = ["Call", "mapped", "plain", "rebuilt", "same", "signature", "stand_in", "tensors"]

ATOMS = frozenset({bool, float, int, str, type(None)})
"""The usual types that hold nothing: known at once, where asking an abstract class takes longer than all else here."""
MAPPINGS, SEQUENCES = (dict, Mapping), (list, tuple)
"""Types that hold others, the usual one first."""


@attrs.define(eq=False)
class Call:
    """One call of a network inside the pipeline's loop.

    Attributes:
        module: the network itself.
        args, kwargs: as the pipeline gave them.
        ordinal: which call of its kind this is within the iteration.
        key: module, ordinal and shapes: calls with equal keys may be merged.
        node: the node of the iteration.
        result: the answer, once known.
        like: another answer of the kind, if one is known: tells structure and shapes.
    """

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    ordinal: int
    node: int
    key: Any = None
    result: Any = None
    done: bool = False
    like: Any = None
    _given: list[torch.Tensor] = attrs.field(factory=list, init=False)
    _versions: list[int] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        given = self._given
        self.key = (id(self.module), self.ordinal, _signature(self.args, given), _signature(self.kwargs, given))
        self._versions = [_version(t) for t in given]

    @property
    def changed(self) -> bool:
        """Whether a tensor among the arguments was, or may have been, written to or exchanged since then."""
        now = tensors((self.args, self.kwargs))
        if len(now) != len(self._given) or not all(map(operator.is_, now, self._given)):
            return True
        # torch counts no writes into inference tensors
        return [_version(t) for t in now] != self._versions or -1 in self._versions

    @property
    def written(self) -> list[int | str]:
        """The arguments, by position or name, of which that is true."""
        if not self.changed:
            return []
        marked = zip(self._given, self._versions, strict=True)
        kept = {id(t) for t, version in marked if version == _version(t) != -1}
        arguments: list[tuple[int | str, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        found = [name for name, value in arguments if any(id(t) not in kept for t in tensors(value))]
        return found or [name for name, _ in arguments]  # tensors were taken out of a list, or have changed places

    def run(self) -> Any:
        """Make the call."""
        return self.module(*self.args, **self.kwargs)


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors inside lists, tuples and mappings, in order."""
    found: list[torch.Tensor] = []
    _gather(value, found)
    return found


def _gather(value: Any, found: list[torch.Tensor]) -> None:
    if type(value) in ATOMS:
        return
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, MAPPINGS):
        for inner in value.values():
            _gather(inner, found)
    elif isinstance(value, SEQUENCES):
        for inner in value:
            _gather(inner, found)


def plain(value: Any) -> Iterator[Any]:
    """Everything inside lists, tuples and mappings that is no tensor, in order."""
    if isinstance(value, MAPPINGS):
        for inner in value.values():
            yield from plain(inner)
    elif isinstance(value, SEQUENCES):
        for inner in value:
            yield from plain(inner)
    elif not isinstance(value, torch.Tensor):
        yield value


def signature(value: Any) -> Any:
    """The structure of a value: shapes and dtypes of tensors, types of everything else. Hashable."""
    return _signature(value, [])


def _signature(value: Any, found: list[torch.Tensor]) -> Any:
    """The same, and the tensors as by :func:`tensors`: both are wanted of every call."""
    kind = type(value)
    if kind in ATOMS:
        return kind.__name__
    if isinstance(value, torch.Tensor):
        found.append(value)
        return ("tensor", tuple(value.shape), value.dtype)
    if isinstance(value, MAPPINGS):
        return ("mapping", tuple(value), tuple([_signature(v, found) for v in value.values()]))
    if isinstance(value, SEQUENCES):
        return (kind.__name__, tuple([_signature(v, found) for v in value]))
    return kind.__name__


def same(value: Any, known: Any) -> bool:
    """Whether a value has the structure, the numbers and the words of another; other objects need the same type."""
    if value is known:
        return True
    kind = type(value)
    if kind in ATOMS:
        return kind is type(known) and bool(value == known)
    if isinstance(value, torch.Tensor):
        if not isinstance(known, torch.Tensor) or value.dtype != known.dtype or value.device != known.device:
            return False
        return torch.equal(value, known)
    if kind is not type(known):
        return False
    if isinstance(value, MAPPINGS):
        return list(value) == list(known) and all(map(same, value.values(), known.values()))
    if isinstance(value, SEQUENCES):
        return len(value) == len(known) and all(map(same, value, known))
    return not isinstance(value, int | float | str) or value == known


def mapped(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """A value of the same structure with a function of each tensor, in the order of :func:`tensors`."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, MAPPINGS):
        items = {k: mapped(v, function) for k, v in value.items()}
        return items if kind is dict else kind(**items)
    if isinstance(value, SEQUENCES):
        inner = [mapped(v, function) for v in value]
        return kind(*inner) if hasattr(value, "_fields") else kind(inner)
    return value


def rebuilt(value: Any, leaves: Iterator[Any]) -> Any:
    """A value of the same structure with other tensors, in the order of :func:`tensors`."""
    return mapped(value, lambda _: next(leaves))


def stand_in(result: Any) -> Any:
    """Zeros in the shape of an answer: nothing that the pipeline makes of them is used."""
    return mapped(result, torch.zeros_like)
