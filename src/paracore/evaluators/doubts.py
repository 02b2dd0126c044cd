"""Outputs that are not finite: the network's own, or one worker's?"""

from __future__ import annotations

from collections import Counter

import attrs
import torch

from paracore.evaluators.sharding import nonfinite_rows
from paracore.request import Outputs, Request

__all__ = ["Doubts"]

_OFTEN = 3
"""How often two workers must agree that a sample's outputs are not finite, before it is no longer asked for twice."""


class Doubts:
    """Which rows to ask for once more elsewhere, and what to make of the second answers. Kept for each sample."""

    def __init__(self) -> None:
        self._confirmed: Counter[int] = Counter()

    def clear(self) -> None:
        """Another problem begins."""
        self._confirmed.clear()

    def rows(self, request: Request, outputs: Outputs) -> torch.Tensor:
        """Rows ``(k,)`` int64 that are not finite, of samples for which that may be a worker's fault."""
        bad = nonfinite_rows(outputs.values)
        asked = [self._confirmed[b] < _OFTEN for b in request.samples[bad].tolist()]
        return bad[torch.tensor(asked, dtype=torch.bool)]

    def settle(
        self, request: Request, outputs: Outputs, rows: torch.Tensor, again: Outputs
    ) -> tuple[Outputs, torch.Tensor]:
        """Second answers that are finite take the place of the first.

        Args:
            request: the whole one.
            outputs: the first answers to it.
            rows: ``(k,)`` int64, those asked for again.
            again: the second answers, in the order of ``rows``.

        Returns:
            The outputs, with the calls of both, and the rows ``(m,)`` that were mended.
        """
        finite = torch.isfinite(again.values.flatten(1)).all(dim=1)
        good = rows[finite.cpu()]
        self._confirmed.update(set(request.samples[rows[~finite.cpu()]].tolist()))
        outputs = attrs.evolve(outputs, calls=outputs.calls + again.calls)
        if not len(good):
            return outputs, good
        values, jvps = outputs.values.clone(), outputs.jvps
        place = good.to(values.device)
        values[place] = again.values[finite]
        if jvps is not None and again.jvps is not None:
            jvps = jvps.clone()
            jvps[place] = again.jvps[finite]
        return attrs.evolve(outputs, values=values, jvps=jvps), good
