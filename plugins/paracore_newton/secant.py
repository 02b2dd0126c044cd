"""Block secants: each output's response to a move of its state, from the node's own past evaluations."""

from __future__ import annotations

import itertools
from typing import Any

import attrs
import numpy as np
import torch

import paracore
from paracore.parts.options import integer, number, one_of
from paracore.slide import lay_over, pick
from paracore.window import Bools, Floats, Ints, Local, Round, mean_product, per_sample, small_solve, to_numpy

__all__ = ["Secant"]

Pair = tuple[torch.Tensor, torch.Tensor]

_NEAR = 0.06
"""Nodes borrow from at most that part of N before them, one node at least: further away Jacobians differ (docs)."""


@attrs.frozen
class Secant(paracore.JacobianApproximation):
    """``G v = Y (S^T S + regularisation max diag(S^T S) I)^{-1} S^T v`` from the node's newest ``memory`` differences.

    ``S`` and ``Y`` hold the differences of a node's newest state and output from its earlier ones (multi-secant
    Broyden, per node). It costs no evaluation: a node has differences once it was evaluated twice; until then it takes
    those of the nearest node before it that has some, at most 0.06 N away, since Jacobians of near nodes are alike.
    Outputs are taken in the composition's form. Rows that have moved since they were evaluated only.

    It is the dearest part of the library in solver work: pairs and differences add about 7 windows of memory at
    ``memory=2``, and more than double the passes of a round (``benchmarks/overhead.py``).

    Attributes:
        memory: differences per node, at least 1.
        regularisation: relative to the largest squared difference, above 0.
        unseen: what nodes without differences respond by: ``nearest`` (those of the nearest node before them, at most
            0.06 N away) or ``held``.
    """

    memory: int = attrs.field(default=2, validator=integer(1))
    regularisation: float = attrs.field(default=1e-3, validator=number(1e-12))
    unseen: str = attrs.field(default="nearest", validator=one_of("nearest", "held"))

    reference = "Fang and Saad 2009 (two classes of multisecant methods), doi:10.1002/nla.617; per node: ours"

    def start(self, problem: paracore.Problem, rows: int) -> dict[str, Any]:
        """No pairs yet."""
        return {"front": np.zeros(problem.batch, dtype=np.int64), "count": [], "states": [], "outputs": []}

    def local(self, round: Round, state: Any) -> Local | None:
        """The response at each row: its own differences', or the nearest ones before it."""
        count, pairs = self._pairs(round, state)
        source = self._source(count > 1, round.window.scheme.steps)
        used = np.unique(source[1:][source[1:] >= 0]).tolist()
        if not used:
            return None
        blocks = dict(zip(used, self._blocks([(pairs[r], count[r] - 1) for r in used]), strict=True))

        def respond(row: int, v: torch.Tensor) -> torch.Tensor:
            block = _of_each(blocks, row, source[row]) if row else None  # the first row was evaluated where it is
            return torch.zeros_like(v) if block is None else block.apply(v)

        return respond

    def _source(self, usable: Bools, steps: int) -> Ints:
        """``(P, B)`` the row whose differences each row responds by; -1: none."""
        row = np.arange(len(usable))[:, None]
        own = np.where(usable, row, -1)
        if self.unseen == "held":
            return own
        nearest = np.maximum.accumulate(own, axis=0)
        return np.where(row - nearest <= max(1, round(_NEAR * steps)), nearest, -1)

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
        source = np.minimum(np.maximum(window.nodes - state["front"], 0), max(old - 1, 0))
        fresh: Bools = round.evaluated
        rows = _moved(state, source, known)
        seen = np.flatnonzero(fresh.any(axis=1)).tolist()
        new = [(round.anchors[r], round.form_output(r)) for r in seen]
        for r, pairs in zip(seen, _pushed([rows[r] for r in seen], new, fresh[seen]), strict=True):
            rows[r] = pairs
        return known + fresh, rows

    def _blocks(self, rows: list[tuple[list[Pair], Ints]]) -> list[_Block]:
        """Every row's block; the inner products of all rows come from the device in one transfer."""
        blocks = []
        for pairs, differences in rows:
            (newest_x, newest_f), earlier = pairs[0], pairs[1 : self.memory + 1]
            moves, changes = [newest_x - x for x, _ in earlier], [newest_f - f for _, f in earlier]
            there = np.arange(len(moves))[None, :] < differences[:, None]
            blocks.append(_Block(moves, changes, there))
        products = [
            mean_product(a, b) for block in blocks for i, a in enumerate(block.moves) for b in block.moves[: i + 1]
        ]
        at, numbers = 0, to_numpy(products)
        grams = np.zeros((len(blocks), numbers.shape[1], self.memory, self.memory))
        for gram, block in zip(grams, blocks, strict=True):
            for i in range(len(block.moves)):
                for j in range(i + 1):
                    gram[:, i, j] = gram[:, j, i] = numbers[at]
                    at += 1
        there = np.stack([np.pad(b.there, ((0, 0), (0, self.memory - len(b.moves)))) for b in blocks])
        for block, inverse in zip(blocks, _inverses(grams, there, self.regularisation), strict=True):
            block.inverse = inverse[:, : len(block.moves), : len(block.moves)]
        return blocks


def _inverses(grams: Floats, there: Bools, regularisation: float) -> Floats:
    """Of ``grams (R, B, m, m)`` with a regularised diagonal, over the differences that are there."""
    grams = np.where(there[..., :, None] & there[..., None, :], grams, 0.0)
    scale = np.diagonal(grams, axis1=-2, axis2=-1).max(axis=-1)[..., None]
    added = np.where(there & (scale > 0), regularisation * scale, 1.0)
    eye = np.eye(grams.shape[-1])
    matrices = torch.from_numpy(grams + added[..., :, None] * eye)
    return np.asarray(small_solve(matrices, torch.from_numpy(eye).expand_as(matrices)).numpy())


class _Block:
    """One row's ``Y (S^T S + ...)^{-1} S^T``.

    Its small numbers are worked out on the CPU: on an accelerator a kernel for each of them would cost more than all
    the sums over states.

    Attributes:
        moves, changes: differences of states and of outputs, newest first, each ``(B, *event)``.
        there: ``(B, m)`` which of them count.
        inverse: ``(B, m, m)`` float64.
    """

    def __init__(self, moves: list[torch.Tensor], changes: list[torch.Tensor], there: Bools) -> None:
        self.moves, self.changes, self.there = moves, changes, there
        self.inverse: Floats = np.zeros((len(there), len(moves), len(moves)))

    def apply(self, v: torch.Tensor) -> torch.Tensor:
        """``G v``, ``(B, *event)``."""
        along = to_numpy([mean_product(move, v) for move in self.moves]).T
        along = np.where(self.there & np.isfinite(along), along, 0.0)
        weights = np.where(self.there, (self.inverse * along[:, None, :]).sum(axis=2), 0.0)
        total = self.changes[0] * per_sample(weights[:, 0], v)
        for k, change in enumerate(self.changes[1:], start=1):
            total = total.add_(change * per_sample(weights[:, k], v))
        return total.to(v.dtype)


def _of_each(blocks: dict[int, _Block], row: int, source: Ints) -> _Block | None:
    """A row's block where samples respond by different rows' differences, ``source (B,)``; ``None``: none responds."""
    others = np.unique(source[source >= 0]).tolist()
    if not others:
        return None
    if others == [row] or (len(others) == 1 and (source >= 0).all()):
        return blocks[others[0]]
    chosen = [blocks[r] for r in others]
    at, sample = np.searchsorted(others, source), np.arange(len(source))
    depth = max(len(block.moves) for block in chosen)

    def gathered(kind: str, k: int) -> torch.Tensor:
        layers = [getattr(block, kind) for block in chosen]
        return pick([layer[min(k, len(layer) - 1)] for layer in layers], at[None, :])[0]

    numbers = [(len(block.moves), block.there, block.inverse) for block in chosen]
    there = np.stack([np.pad(t, ((0, 0), (0, depth - m))) for m, t, _ in numbers])[at, sample]
    inverse = np.stack([np.pad(i, ((0, 0), *[(0, depth - m)] * 2)) for m, _, i in numbers])[at, sample]
    moves, changes = ([gathered(kind, k) for k in range(depth)] for kind in ("moves", "changes"))
    merged = _Block(moves, changes, there & (source >= 0)[:, None])
    merged.inverse = inverse
    return merged


def _moved(state: Any, source: Ints, known: Ints) -> list[list[Pair]]:
    """Each row's pairs, found in the window they were kept for.

    Args:
        state: the part's.
        source: ``(P, B)`` rows of that window.
        known: ``(P, B)`` how many pairs each has.
    """
    depth = known.max(axis=1, initial=0)
    out: list[list[Pair]] = [[] for _ in depth]
    for k in range(int(depth.max(initial=0))):
        rows = np.flatnonzero(depth > k).tolist()
        layers = (pick(_layer(state[kind], k), source[rows]) for kind in ("states", "outputs"))
        for r, x, f in zip(rows, *layers, strict=True):
            out[r].append((x, f))
    return out


def _layer(block: list[list[torch.Tensor]], k: int) -> list[torch.Tensor]:
    """The k-th newest entry of each row; any entry where a row has none."""
    there = [row[min(k, len(row) - 1)] if row else None for row in block]
    spare = next(row for row in there if row is not None)
    return [spare if row is None else row for row in there]


def _pushed(rows: list[list[Pair]], new: list[Pair], fresh: Bools) -> list[list[Pair]]:
    """Each row's pairs with a new one in front for the samples that were evaluated, ``fresh (R, B)``."""
    shifted = [[first, *pairs] for first, pairs in zip(new, rows, strict=True)]
    kept = [[*pairs, pairs[-1]] if pairs else [first] for first, pairs in zip(new, rows, strict=True)]
    depth = [len(pairs) for pairs in shifted]
    mask = np.repeat(fresh, depth, axis=0)
    laid = [
        lay_over(mask, [pair[i] for row in shifted for pair in row], [pair[i] for row in kept for pair in row])
        for i in range(2)
    ]
    pairs = zip(*laid, strict=True)
    return [list(itertools.islice(pairs, count)) for count in depth]
