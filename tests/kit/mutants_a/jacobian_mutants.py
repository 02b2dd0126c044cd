"""Jacobian approximations with one mistake each."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from kit.mutants_a.jacobians import OneProduct, Probed, Relaxed, Slopes, Swept, mean_product, ratio
from kit.mutants_a.records import Mutant, correct
from paracore import Round, Window
from paracore.schemes import RowWeights
from paracore.window import Bools, Floats, per_sample, where_rows

__all__ = ["MUTANTS", "ORIGINALS"]


@attrs.frozen
class Plus(Relaxed):
    __doc__ = Relaxed.__doc__

    def _next(self, old: torch.Tensor, residual: torch.Tensor, share: Floats) -> torch.Tensor:
        return (old + residual * per_sample(share, residual)).to(old.dtype)


@attrs.frozen
class Undamped(Relaxed):
    __doc__ = Relaxed.__doc__

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | None:
        """The damping is not read."""
        return super().solve(round, weights, rhs, np.zeros_like(damping), state)


@attrs.frozen
class SinglePrecision(Relaxed):
    __doc__ = Relaxed.__doc__

    def _next(self, old: torch.Tensor, residual: torch.Tensor, share: Floats) -> torch.Tensor:
        new = old.float() - residual.float() * per_sample(share, residual.float())
        return new.to(old.dtype)


@attrs.frozen
class ThroughData(Relaxed):
    __doc__ = Relaxed.__doc__

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | None:
        """The residual is scaled where it lies."""
        assert rhs is not None
        rhs.data.mul_(self.gain)
        old = round.window.state_rows
        rows = [old[r + 1] - row / per_sample(1.0 + damping[r], row) for r, row in enumerate(rhs)]
        return torch.stack(rows).to(rhs.dtype)


@attrs.frozen
class LargestMove(Relaxed):
    __doc__ = Relaxed.__doc__

    def _next(self, old: torch.Tensor, residual: torch.Tensor, share: Floats) -> torch.Tensor:
        largest = float(residual.abs().max())
        share = share * min(1.0, 0.1 / largest) if largest > 0 else share
        return (old - residual * per_sample(share, residual)).to(old.dtype)


@attrs.frozen
class ByHand(Swept):
    __doc__ = Swept.__doc__

    def _step(self, round: Round, row: int, states: list[torch.Tensor]) -> torch.Tensor:
        scheme, nodes = round.window.scheme, round.window.nodes[row]
        node, x, f = np.minimum(nodes, scheme.steps - 1), states[row], round.outputs[row]
        new = x * per_sample(scheme.a[node, 0], x) + f * per_sample(scheme.b[node, 0], f)
        noise = round.window.tape.gather(nodes)
        new = new if noise is None else new + noise
        return where_rows(nodes < scheme.steps, new.to(x.dtype), x)


@attrs.frozen
class OneSlope(Slopes):
    __doc__ = Slopes.__doc__

    def _slope(self, round: Round, row: int, states: Any, outputs: Any, usable: Bools) -> Floats:
        moved, changed = round.anchors[row] - states[row], round.form_output(row) - outputs[row]
        top, bottom = mean_product(changed, moved).sum(), mean_product(moved, moved).sum()
        slope = ratio(top.expand(len(usable)), bottom.expand(len(usable)), usable)
        return np.clip(np.nan_to_num(slope), -self.most, self.most)


@attrs.frozen
class NextRow(Slopes):
    __doc__ = Slopes.__doc__

    def _slope(self, round: Round, row: int, states: Any, outputs: Any, usable: Bools) -> Floats:
        return super()._slope(round, min(row + 1, len(states) - 1), states, outputs, usable)


@attrs.frozen
class InThePlaceOfOld(Slopes):
    __doc__ = Slopes.__doc__

    def observe(self, round: Round, state: Any) -> Any:
        """The lists of the state are written into."""
        new = super().observe(round, state)
        for name in ("states", "outputs"):
            state[name][: len(new[name])] = new[name]
            new[name] = state[name]
        state["known"][: len(new["known"])] = new["known"]
        return {**new, "known": state["known"]}


@attrs.frozen
class UndeclaredProduct(Probed):
    __doc__ = Probed.__doc__

    needs = frozenset()


@attrs.frozen
class RandomProbes(Probed):
    __doc__ = Probed.__doc__

    def probes(self, window: Window, state: Any) -> torch.Tensor | None:
        """Random signs."""
        return torch.stack([torch.sign(torch.randn_like(row)) for row in window.state_rows[: window.rows]])


@attrs.frozen
class AllOrNone(OneProduct):
    __doc__ = OneProduct.__doc__

    def _who(self, round: Round) -> Bools:
        return np.full(round.window.batch, bool(round.spare.min() > 0)) & round.window.running


ORIGINALS = [
    correct("jacobian:relaxed", "jacobian", lambda: Relaxed),
    correct("jacobian:swept", "jacobian", lambda: Swept),
    correct("jacobian:slopes", "jacobian", lambda: Slopes),
    correct("jacobian:probed", "jacobian", lambda: Probed),
    correct("jacobian:one-product", "jacobian", lambda: OneProduct),
]


def _wrong(name: str, part: type, breaks: str, contract: str, original: str) -> Mutant:
    return Mutant(f"jacobian:{name}", "jacobian", lambda: part, breaks, contract, f"jacobian:{original}")


MUTANTS = [
    _wrong("plus", Plus, "convergence", "the next states lie on the root's side of the residual", "relaxed"),
    _wrong("undamped", Undamped, "convergence", "a solve of its own owns how the damping enters", "relaxed"),
    _wrong("single-precision", SinglePrecision, "dtype", "float64 states are updated in float64", "relaxed"),
    _wrong("through-data", ThroughData, "read-only", "the residual that is handed over is not written into", "relaxed"),
    _wrong("largest-move", LargestMove, "batch", "a sample's step does not depend on its mates' residuals", "relaxed"),
    _wrong("by-hand", ByHand, "tables", "a step reads as many past states and outputs as the table has", "swept"),
    _wrong("one-slope", OneSlope, "batch", "a sample's slope comes from its own evaluations", "slopes"),
    _wrong("next-row", NextRow, "causal", "a row's response is not read off the row after it", "slopes"),
    _wrong(
        "in-the-place-of-old", InThePlaceOfOld, "read-only", "observe returns a new state, nested lists too", "slopes"
    ),
    _wrong("undeclared-product", UndeclaredProduct, "capability", "a part that asks products needs 'jvp'", "probed"),
    _wrong("random-probes", RandomProbes, "deterministic", "no draw comes from the global generator", "probed"),
    _wrong("all-or-none", AllOrNone, "batch", "who spends a round is decided per sample", "one-product"),
]
