"""What a pipeline asks of its networks: calls, their shapes, and stand-ins for their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch

__all__ = ["Call", "mapped", "plain", "rebuilt", "same", "signature", "stand_in", "tensors"]


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
    versions: tuple[int, ...] = ()
    like: Any = None

    def __attrs_post_init__(self) -> None:
        self.key = (id(self.module), self.ordinal, signature(self.args), signature(self.kwargs))
        self.versions = self._versions()

    @property
    def changed(self) -> bool:
        """Whether a tensor among the arguments was, or may have been, written to since the call was made."""
        # torch counts no writes into inference tensors
        return self.versions != self._versions() or -1 in self.versions

    def run(self) -> Any:
        """Make the call."""
        return self.module(*self.args, **self.kwargs)

    def _versions(self) -> tuple[int, ...]:
        return tuple(-1 if t.is_inference() else t._version for t in tensors((self.args, self.kwargs)))


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors inside lists, tuples and mappings, in order."""
    return iter(_gathered(value, []))


def _gathered(value: Any, found: list[torch.Tensor]) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, Mapping):
        for inner in value.values():
            _gathered(inner, found)
    elif isinstance(value, list | tuple):
        for inner in value:
            _gathered(inner, found)
    return found


def plain(value: Any) -> Iterator[Any]:
    """Everything inside lists, tuples and mappings that is no tensor, in order."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from plain(inner)
    elif not isinstance(value, torch.Tensor):
        yield value


def signature(value: Any) -> Any:
    """The structure of a value: shapes and dtypes of tensors, types of everything else. Hashable."""
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), value.dtype)
    if isinstance(value, Mapping):
        return ("mapping", tuple((k, signature(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return (type(value).__name__, tuple(signature(v) for v in value))
    return type(value).__name__


def same(value: Any, known: Any) -> bool:
    """Whether a value has the structure, the numbers and the words of another; other objects need the same type."""
    if value is known:
        return True
    if isinstance(value, torch.Tensor):
        if not isinstance(known, torch.Tensor) or value.dtype != known.dtype or value.device != known.device:
            return False
        return torch.equal(value, known)
    if type(value) is not type(known):
        return False
    if isinstance(value, Mapping):
        return list(value) == list(known) and all(same(v, known[k]) for k, v in value.items())
    if isinstance(value, list | tuple):
        return len(value) == len(known) and all(map(same, value, known))
    return not isinstance(value, int | float | str) or value == known


def mapped(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """A value of the same structure with a function of each tensor."""
    return rebuilt(value, iter([function(t) for t in tensors(value)]))


def rebuilt(value: Any, leaves: Iterator[Any]) -> Any:
    """A value of the same structure with other tensors, in the order of :func:`tensors`."""
    if isinstance(value, torch.Tensor):
        return next(leaves)
    if isinstance(value, Mapping):
        items = {k: rebuilt(v, leaves) for k, v in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, list | tuple):
        inner: Iterable[Any] = [rebuilt(v, leaves) for v in value]
        if hasattr(value, "_fields"):
            return type(value)(*inner)
        return type(value)(inner)
    return value


def stand_in(result: Any) -> Any:
    """Zeros in the shape of an answer: nothing that the pipeline makes of them is used."""
    return mapped(result, torch.zeros_like)
