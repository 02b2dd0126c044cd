"""Block secants: each output's response to a move of its state, from the node's own past evaluations."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

import paracore
from paracore.parts.options import integer, number
from paracore.schemes.table import compute_dtype
from paracore.slide import pick
from paracore.window import Bools, Ints, Local, Round, small_solve, where_rows

__all__ = ["Secant"]

Pair = tuple[torch.Tensor, torch.Tensor]


@attrs.frozen
class Secant(paracore.JacobianApproximation):
    """``G v = Y (S^T S + regularisation max diag(S^T S) I)^{-1} S^T v`` from the node's newest ``memory`` differences.

    ``S`` and ``Y`` hold the differences of a node's newest state and output from its earlier ones (multi-secant
    Broyden, per node). It costs no evaluation: a node has differences once it was evaluated twice. Outputs are taken in
    the composition's form. Rows that have moved since they were evaluated only.

    It is the dearest part of the library in solver work: pairs and differences add about 7 windows of memory at
    ``memory=2``, and more than double the passes of a round (``benchmarks/overhead.py``).

    Attributes:
        memory: differences per node, at least 1.
        regularisation: relative to the largest squared difference, above 0.
    """

    memory: int = attrs.field(default=2, validator=integer(1))
    regularisation: float = attrs.field(default=1e-3, validator=number(1e-12))

    reference = "Fang and Saad 2009 (two classes of multisecant methods), doi:10.1002/nla.617; per node: ours"

    def start(self, problem: paracore.Problem, rows: int) -> dict[str, Any]:
        """No pairs yet."""
        return {"front": np.zeros(problem.batch, dtype=np.int64), "count": [], "states": [], "outputs": []}

    def local(self, round: Round, state: Any) -> Local | None:
        """The response at each row that has at least one difference."""
        count, pairs = self._pairs(round, state)
        usable = count > 1
        if not usable.any():
            return None
        blocks = {
            r: self._block(pairs[r], np.minimum(count[r] - 1, self.memory))
            for r in range(1, len(count))
            if usable[r].any()
        }

        def respond(row: int, v: torch.Tensor) -> torch.Tensor:
            return blocks[row].apply(v) if row in blocks else torch.zeros_like(v)

        return respond

    def observe(self, round: Round, state: Any) -> dict[str, Any]:
        """Keep the newest ``memory`` pairs of every row."""
        count, pairs = self._pairs(round, state)
        kept = [row[: self.memory] for row in pairs]
        return {
            "front": round.window.front.copy(),
            "count": [np.minimum(c, self.memory) for c in count],
            "states": [[x for x, _ in row] for row in kept],
            "outputs": [[f for _, f in row] for row in kept],
        }

    def _pairs(self, round: Round, state: Any) -> tuple[Ints, list[list[Pair]]]:
        """How many pairs each row has, ``(P, B)``, and the pairs, newest first: worked out once a round."""
        known = round.memo.get(self)
        if known is None or known[0] is not state:
            known = round.memo[self] = state, self._collect(round, state)
        pairs: tuple[Ints, list[list[Pair]]] = known[1]
        return pairs

    def _collect(self, round: Round, state: Any) -> tuple[Ints, list[list[Pair]]]:
        window = round.window
        old = len(state["count"])
        counts = np.stack(state["count"]) if old else np.zeros((1, window.batch), dtype=np.int64)
        known = window.realign(counts, state["front"])
        source = np.clip(window.nodes - state["front"][None, :], 0, max(old - 1, 0))
        fresh: Bools = round.evaluated
        rows: list[list[Pair]] = []
        for r in range(window.rows):
            mine = _moved(state, source[r], known[r])
            if fresh[r].any():
                new = (round.anchors[r], round.form_output(r))
                mine = _pushed(mine, new, fresh[r])
            rows.append(mine)
        return known + fresh, rows

    def _block(self, pairs: list[Pair], differences: Ints) -> _Block:
        (newest_x, newest_f), earlier = pairs[0], pairs[1 : self.memory + 1]
        moves = [newest_x - x for x, _ in earlier]
        changes = [newest_f - f for _, f in earlier]
        there = torch.from_numpy(np.arange(len(moves))[None, :] < differences[:, None]).to(newest_x.device)
        products = [[_mean_product(a, b) for b in moves[: i + 1]] for i, a in enumerate(moves)]
        gram = torch.stack(
            [torch.stack([products[max(i, j)][min(i, j)] for j in range(len(moves))]) for i in range(len(moves))]
        )
        gram = torch.where(there[:, :, None] & there[:, None, :], gram.permute(2, 0, 1), 0.0)
        scale = gram.diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True)
        diagonal = torch.where(there & (scale > 0), self.regularisation * scale, 1.0)
        return _Block(moves, changes, gram + torch.diag_embed(diagonal), there)


@attrs.frozen(eq=False)
class _Block:
    """One row's ``Y (S^T S + ...)^{-1} S^T``; ``gram (B, m, m)`` and ``there (B, m)``: which differences count."""

    moves: list[torch.Tensor]
    changes: list[torch.Tensor]
    gram: torch.Tensor
    there: torch.Tensor

    def apply(self, v: torch.Tensor) -> torch.Tensor:
        """``G v``, ``(B, *event)``."""
        along = torch.stack([_mean_product(move, v) for move in self.moves], dim=1)
        weights = small_solve(self.gram, torch.where(self.there, along, 0.0)[:, :, None])[:, :, 0]
        weights = torch.where(self.there, weights, 0.0).to(compute_dtype(v.dtype))
        columns = weights.T.reshape((weights.shape[1], -1) + (1,) * (v.ndim - 1))
        total = self.changes[0] * columns[0]
        for change, column in zip(self.changes[1:], columns[1:], strict=True):
            total = total.addcmul_(change, column)
        return total.to(v.dtype)


def _mean_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``(B,)`` float64: inner products over the event, divided by its length."""
    wide = compute_dtype(a.dtype)
    return (a.to(wide) * b.to(wide)).flatten(1).mean(dim=1).to(torch.float64)


def _moved(state: Any, source: Ints, known: Ints) -> list[Pair]:
    """A row's pairs, found in the window they were kept for."""
    depth = int(known.max(initial=0))
    out: list[Pair] = []
    for k in range(depth):
        rows = state["states"], state["outputs"]
        x, f = (_layer(block, source, known, k) for block in rows)
        out.append((x, f))
    return out


def _layer(block: list[list[torch.Tensor]], source: Ints, known: Ints, k: int) -> torch.Tensor:
    """The k-th newest entry of each sample's source row; any entry where a sample has none."""
    if (source == source[0]).all():
        return block[int(source[0])][k]
    there = [row[min(k, len(row) - 1)] if row else None for row in block]
    spare = next(row for row in there if row is not None)
    return pick([spare if row is None else row for row in there], source[None, :])[0]


def _pushed(pairs: list[Pair], new: Pair, fresh: Bools) -> list[Pair]:
    """The pairs with a new one in front for the samples that were evaluated."""
    if fresh.all():
        return [new, *pairs]
    shifted = [new, *pairs]
    kept = [*pairs, pairs[-1]] if pairs else [new]
    return [(where_rows(fresh, a, c), where_rows(fresh, b, d)) for (a, b), (c, d) in zip(shifted, kept, strict=True)]
