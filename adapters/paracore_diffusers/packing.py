"""Answers of network calls as bytes: bare ones where another answer of the kind tells the form, else pickled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch

from paracore_diffusers.calls import Call, plain, rebuilt, signature, tensors

__all__ = ["form", "packed", "unpacked"]

ALIGNED = 16
"""Bytes to which each tensor is padded, so that any dtype may begin there."""


def form(value: Any) -> Any:
    """Structure, shapes, dtypes and memory layout of a value: equal forms have bytes for bytes. Plain data."""
    return signature(value), tuple(_strides(t) for t in tensors(value))


def packed(calls: Sequence[Call]) -> tuple[torch.Tensor, bool]:
    """The answers to made calls.

    Returns:
        Bytes ``(n,)`` uint8, and whether they are pickled.
    """
    if not all(_told(call.result, call.like) for call in calls):
        buffer = io.BytesIO()
        torch.save([call.result for call in calls], buffer)
        return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8), True
    pieces = [_bytes(t) for call in calls for t in tensors(call.result)]
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.uint8), False


def unpacked(data: torch.Tensor, calls: Sequence[Call], home: torch.device, *, pickled: bool) -> list[Any]:
    """The answers that :func:`packed` was given for these calls.

    Args:
        data: its bytes.
        calls: with ``like`` where they are not pickled.
        home: device of the answers.
        pickled: as it returned.
    """
    if pickled:
        found: list[Any] = torch.load(io.BytesIO(data.cpu().numpy().tobytes()), map_location=home, weights_only=False)
        return found
    data, at, answers = data.to(home), 0, []
    for call in calls:
        leaves = []
        for like in tensors(call.like):
            size = like.numel() * like.element_size()
            flat = data[at : at + size].view(like.dtype)
            leaves.append(flat.as_strided(like.shape, _strides(like), flat.storage_offset()))
            at += _padded(size)
        answers.append(rebuilt(call.like, iter(leaves)))
    return answers


def _told(result: Any, like: Any) -> bool:
    """Whether an answer is that of its kind with other numbers."""
    if like is None or any(type(t) is not torch.Tensor or t.layout != torch.strided for t in tensors(result)):
        return False
    if form(result) != form(like):
        return False
    simple = (int, float, str, bool, type(None))
    return all(a is b or (type(a) in simple and a == b) for a, b in zip(plain(result), plain(like), strict=True))


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Those of a dense copy."""
    return tuple(torch.empty_like(tensor, device="meta").stride()) if tensor.layout == torch.strided else ()


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """In the order of memory of a dense copy, padded."""
    dense = tensor.detach().clone()
    flat = dense.as_strided((dense.numel(),), (1,), dense.storage_offset()).view(torch.uint8)
    return torch.nn.functional.pad(flat, (0, _padded(len(flat)) - len(flat)))
