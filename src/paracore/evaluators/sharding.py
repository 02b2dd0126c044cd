"""Which rows go where: requests in parts, answers put together again in the request's order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch

from paracore.request import Outputs, Request

__all__ = ["assemble", "even_shares", "moved", "nonfinite_rows", "rows_of", "subrequest"]


def even_shares(rows: int, workers: int) -> list[torch.Tensor]:
    """``0 .. rows - 1`` in ``workers`` runs whose lengths differ by at most one; the last may be empty.

    Returns:
        Row indices ``(m_i,)`` int64, one tensor per worker.
    """
    size, more = divmod(rows, workers)
    ends = [size * i + min(i, more) for i in range(workers + 1)]
    return [torch.arange(begin, end) for begin, end in pairwise(ends)]


def subrequest(request: Request, rows: torch.Tensor) -> Request:
    """The request for some of its rows; a view where they lie side by side."""
    index: slice | torch.Tensor = rows
    where: slice | torch.Tensor = rows
    if len(rows) and bool((rows.diff() == 1).all()):
        index = where = slice(int(rows[0]), int(rows[-1]) + 1)
    else:
        where = rows.to(request.states.device)
    return Request(
        nodes=request.nodes[index],
        samples=request.samples[index],
        states=request.states[where],
        times=request.times[index],
        tangents=None if request.tangents is None else request.tangents[where],
    )


def moved(request: Request, device: torch.device) -> Request:
    """The request with its states (and tangents) on a device; nodes, samples and times stay on the CPU."""
    if request.states.device == device:
        return request
    tangents = None if request.tangents is None else request.tangents.to(device, non_blocking=True)
    return attrs.evolve(request, states=request.states.to(device, non_blocking=True), tangents=tangents)


def assemble(request: Request, shares: Sequence[torch.Tensor], answers: Sequence[Outputs]) -> Outputs:
    """One answer, rows in the request's order, from the answers to disjoint shares that cover it."""
    calls = sum(answer.calls for answer in answers)
    incidents = tuple(text for answer in answers for text in answer.incidents)
    order = torch.cat(list(shares))
    values = _put(order, [answer.values for answer in answers])
    jvps = None
    if request.tangents is not None:
        jvps = _put(order, [a.jvps for a in answers if a.jvps is not None])
    return Outputs(values, jvps, calls, incidents)


def nonfinite_rows(values: torch.Tensor) -> torch.Tensor:
    """Indices ``(k,)`` int64 on the CPU of rows that hold a number that is not finite."""
    if bool(torch.isfinite(values).all()):
        return torch.empty(0, dtype=torch.int64)
    bad = ~torch.isfinite(values.flatten(1)).all(dim=1)
    return bad.nonzero().flatten().cpu()


def rows_of(rows: torch.Tensor) -> str:
    """Rows in words: ``row 3``, ``rows 3 to 7``, ``rows 1, 5``."""
    numbers = rows.tolist()
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"rows {numbers[0]} to {numbers[-1]}"
    return f"rows {', '.join(map(str, numbers))}"


def _put(order: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    if bool((order.diff() == 1).all()):
        return joined
    back = torch.empty_like(joined)
    back[order.to(joined.device)] = joined
    return back
