"""How a change of the sample is measured."""

from __future__ import annotations

import numpy as np
import torch

from paracore.schemes.table import compute_dtype
from paracore.window import Bools, Floats

__all__ = ["NORMS", "distance"]

NORMS = ("l1", "rms", "max", "relative", "l2-over-size")
"""How a change of the sample is measured: mean absolute, root mean square, largest, root mean square over that of the
sample, and the Euclidean norm over the number of entries."""


def distance(a: torch.Tensor, b: torch.Tensor, norm: str, who: Bools) -> Floats:
    """``(B,)`` how far two samples are apart, each measured alone so that its bits do not depend on the batch."""
    out = np.full(len(a), np.nan)
    wide = compute_dtype(a.dtype)
    for i in np.flatnonzero(who).tolist():
        x, y = a[i].to(wide).flatten(), b[i].to(wide).flatten()
        order = {"l1": 1.0, "max": float("inf")}.get(norm, 2.0)
        size = float(torch.linalg.vector_norm(x - y, ord=order))
        if norm == "relative":
            scale = float(torch.linalg.vector_norm(x))
            out[i] = size / scale if scale > 0 else size and float("inf")
        else:
            count = x.numel()
            out[i] = size / {"l1": count, "l2-over-size": count, "rms": count**0.5, "max": 1}[norm]
    return out
