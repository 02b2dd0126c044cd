"""The preset, and its registration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paracore
from paracore_parareal.citations import CITATIONS
from paracore_parareal.srds import SRDS

__all__ = ["paracore_citations", "paracore_samplers", "srds"]


def srds(
    blocks: int | None = None,
    coarse: int = 1,
    window: int | None = None,
    tolerance: float = 1e-3,
    norm: str = "l1",
) -> SRDS:
    """Parareal on blocks of the trajectory, pipelined; the coarse solver is one long jump per block.

    ``U_{k+1}^{i+1} = F(U_k^i) + G(U_{k+1}^i) - G(U_k^i)``. Tolerance: change of the sample from one iteration to the
    next, by default its mean absolute value in the unit of the states (the paper's 0.1 of 255 grey levels is 8e-4 for
    images in [-1, 1]). It is no bound on the error.

    References: Selvam, Merchant, Ermon 2024 (SRDS), arXiv:2412.08292, Algorithm 1 and its pipelined form; Lions, Maday,
    Turinici 2001 (parareal).

    Args:
        blocks: how many; None is the rounded square root of N.
        coarse: evaluations of the coarse solver in a block, at most its steps.
        window: most evaluations per round and sample; None is as many as there are tasks.
        tolerance: of the change; 0 gives the sequential answer itself.
        norm: of the change: l1 (mean absolute), rms, max, relative, l2-over-size.
    """
    return SRDS(blocks=blocks, coarse=coarse, window=window, tolerance=tolerance, norm=norm)


@paracore.hookimpl
def paracore_samplers() -> Mapping[str, Callable[..., Any]]:
    """The preset of this package."""
    return {"srds": srds}


@paracore.hookimpl
def paracore_citations() -> Mapping[str, str]:
    """BibTeX of the preset."""
    return CITATIONS
