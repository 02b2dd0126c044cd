"""Several recorded calls of one network as a single batched call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from paracore_diffusers.calls import Call, mapped, tensors

__all__ = ["UnmergeableError", "batch_of", "merged", "split"]

MAIN = ("hidden_states", "sample", "x", "latents")
"""Parameter names of a network's main input, whose first dimension is the batch."""
SHARED = ("img_ids", "txt_ids", "image_rotary_emb", "freqs_cis", "rotary_emb")
"""Parameters that hold positions: the same for all samples, whatever their first dimension."""


class UnmergeableError(Exception):
    """These calls cannot be one call; they are made one by one."""


def batch_of(call: Call) -> int:
    """B of the main input: its first dimension, or how many samples a list holds.

    Raises:
        UnmergeableError: if no main input is found.
    """
    named = next((call.kwargs[name] for name in MAIN if name in call.kwargs), None)
    found = named if named is not None else next(iter(call.args), None)
    if found is None:
        found = next((v for v in call.kwargs.values() if isinstance(v, torch.Tensor) and v.ndim > 1), None)
    if isinstance(found, torch.Tensor) and found.ndim > 1:
        return int(found.shape[0])
    if isinstance(found, list | tuple) and found:
        return len(found)
    raise UnmergeableError("no main input")


def merged(calls: Sequence[Call]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of one call that does the work of all; calls must have equal keys.

    Raises:
        UnmergeableError: naming the argument that differs and cannot be batched.
    """
    batch = batch_of(calls[0])
    args = tuple(
        _joined(f"argument {i}", [c.args[i] for c in calls], batch, shared=False) for i in range(len(calls[0].args))
    )
    kwargs = {k: _joined(k, [c.kwargs[k] for c in calls], batch, shared=k in SHARED) for k in calls[0].kwargs}
    home = next((t.device for t in tensors((args, kwargs)) if t.ndim > 1), None)

    def moved(value: torch.Tensor) -> torch.Tensor:  # networks take a single time from anywhere, several only at home
        return value.to(home) if value.ndim == 1 and len(value) == len(calls) * batch else value

    return mapped(args, moved), mapped(kwargs, moved)


def split(result: Any, parts: int, batch: int, like: Any = None) -> list[Any]:
    """The merged call's answer as one answer per call.

    Args:
        result: of the merged call.
        parts: how many calls were merged.
        batch: B of each.
        like: the answer of a single call of the kind, if one is known: tells lists of one tensor per sample from lists
            of batched ones.

    Raises:
        UnmergeableError: if it has no batch dimension of ``parts * batch``.
    """
    if parts == 1:
        return [result]
    if isinstance(result, torch.Tensor):
        if result.ndim == 0 or result.shape[0] != parts * batch:
            raise UnmergeableError(f"an answer of shape {tuple(result.shape)} for {parts} calls of {batch}")
        return list(torch.split(result, batch))
    if isinstance(result, Mapping):
        known = like if isinstance(like, Mapping) else {}
        inner = {k: split(v, parts, batch, known.get(k)) for k, v in result.items()}
        make = dict if type(result) is dict else type(result)
        return [make(**{k: v[p] for k, v in inner.items()}) for p in range(parts)]
    if isinstance(result, list | tuple):
        if _per_sample(result, parts, batch, like):
            return [type(result)(result[p * batch : (p + 1) * batch]) for p in range(parts)]
        entries = like if isinstance(like, list | tuple) and len(like) == len(result) else [None] * len(result)
        columns = [split(v, parts, batch, known) for v, known in zip(result, entries, strict=True)]
        rows = [[column[p] for column in columns] for p in range(parts)]
        return [type(result)(*row) if hasattr(result, "_fields") else type(result)(row) for row in rows]
    return [result] * parts


def _per_sample(result: Any, parts: int, batch: int, like: Any) -> bool:
    """Whether a list holds one tensor per sample."""
    whole = parts * batch
    if not result or len(result) != whole or not all(isinstance(v, torch.Tensor) for v in result):
        return False
    if isinstance(like, list | tuple):
        return len(like) == batch
    if all(v.ndim > 0 and v.shape[0] == whole for v in result):
        raise UnmergeableError(f"a list of {whole} tensors of shape ({whole}, ...) for {parts} calls of {batch}")
    return True


def _joined(name: str, values: list[Any], batch: int, *, shared: bool) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return _joined_tensors(name, values, batch, shared)
    if isinstance(first, Mapping):
        inner = {k: _joined(f"{name}.{k}", [v[k] for v in values], batch, shared=shared or k in SHARED) for k in first}
        return inner if type(first) is dict else type(first)(**inner)
    if isinstance(first, list | tuple):
        return _joined_lists(name, values, batch, shared)
    if all(v is first for v in values):
        return first
    try:
        same = all(type(v) is type(first) and bool(v == first) for v in values)
    except (TypeError, ValueError, RuntimeError):
        same = False
    if not same:
        raise UnmergeableError(f"{name} differs from call to call ({first!r:.40}) and is no tensor")
    return first


def _joined_tensors(name: str, values: list[torch.Tensor], batch: int, shared: bool) -> torch.Tensor:
    first = values[0]
    parts = len(values)
    per_sample = first.ndim > 0 and first.shape[0] == batch and not shared
    if per_sample:
        if all(v is first for v in values):
            return first.repeat(parts, *(1,) * (first.ndim - 1))
        return torch.cat(values)
    if all(v is first for v in values) or all(torch.equal(v, first) for v in values[1:]):
        return first
    if first.numel() == 1:  # one number for the whole batch (a time): one for each sample
        return torch.stack([v.reshape(()) for v in values]).repeat_interleave(batch)
    if first.ndim > 1 and first.shape[0] == 1:
        return torch.cat([v.expand(batch, *v.shape[1:]) for v in values])
    raise UnmergeableError(f"{name} of shape {tuple(first.shape)} differs from call to call and has no batch dimension")


def _joined_lists(name: str, values: list[Any], batch: int, shared: bool) -> Any:
    first = values[0]
    if all(v is first for v in values) and shared:
        return first
    if len(first) == batch and not shared and not all(_is_batched(v, batch) for v in first):
        return type(first)([x for v in values for x in v])  # one entry per sample
    inner = [_joined(f"{name}[{i}]", [v[i] for v in values], batch, shared=shared) for i in range(len(first))]
    return type(first)(*inner) if hasattr(first, "_fields") else type(first)(inner)


def _is_batched(value: Any, batch: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 1 and value.shape[0] == batch
