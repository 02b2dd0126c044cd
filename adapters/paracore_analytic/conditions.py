"""Classes and classifier-free guidance for models that are a softmax over components or points."""

from __future__ import annotations

import math

import torch

from paracore import Rows
from paracore.errors import ConfigurationError

__all__ = ["check_classes", "guided_shares"]


def check_classes(classes: torch.Tensor | None, count: int, what: str) -> tuple[torch.Tensor, int]:
    """Class of each component or point ``(count,)`` int64, and the number of classes (0 for ``None``).

    Raises:
        ConfigurationError: for a wrong shape, a negative class, or a class that nothing belongs to.
    """
    if classes is None:
        return torch.zeros(count, dtype=torch.int64), 0
    owner = torch.as_tensor(classes, device="cpu")
    if owner.shape != (count,) or owner.dtype != torch.int64:
        raise ConfigurationError(
            f"classes must be ({count},) int64, one per {what}; got {tuple(owner.shape)} {owner.dtype}"
        )
    if int(owner.min()) < 0:
        raise ConfigurationError(f"class {int(owner.min())} is negative; classes count from 0")
    number = int(owner.max()) + 1
    empty = set(range(number)) - set(owner.tolist())
    if empty:
        raise ConfigurationError(f"class {min(empty)} has no {what}; number the classes 0..{number - 1} without gaps")
    return owner, number


def guided_shares(
    logits: torch.Tensor, labels: torch.Tensor | None, guidance: float, rows: Rows, owner: torch.Tensor
) -> torch.Tensor:
    """Softmax of ``logits (M, K)``, within each row's class if labels are given, and guided if guidance is not 1."""
    if labels is None:
        return torch.softmax(logits, -1)
    other = _row_labels(labels, rows, logits.device)[:, None] != owner
    inside = torch.softmax(logits.masked_fill(other, -math.inf), -1)
    if guidance == 1.0:
        return inside
    plain = torch.softmax(logits, -1)
    return plain + guidance * (inside - plain)


def _row_labels(labels: torch.Tensor, rows: Rows, device: torch.device) -> torch.Tensor:
    """``(M,)`` int64 class of each row.

    Raises:
        ConfigurationError: if a row belongs to a sample that has no label.
    """
    if len(rows.sample) and int(rows.sample.max()) >= len(labels):
        raise ConfigurationError(
            f"sample {int(rows.sample.max())} has no label: {len(labels)} labels were given; pass one per sample"
        )
    return labels[rows.sample.to(labels.device)].to(device)
