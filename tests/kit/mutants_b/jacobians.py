"""Jacobian approximations: three correct ones, and five with one mistake each."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from kit.mutants_b.record import Mutant
from paracore import Problem
from paracore.parts.options import number
from paracore.schemes import RowWeights
from paracore.slide import pick
from paracore.strategies import JacobianApproximation
from paracore.window import Floats, Local, Round, Window, per_sample

__all__ = ["MUTANTS", "ORIGINALS"]

_LEAST_MOVE = 1e-3
"""Moves below this part of a state's size are rounding errors in single precision."""


def along(a: torch.Tensor, b: torch.Tensor) -> Floats:
    """``(B,)`` mean of the products of two rows ``(B, *event)``, in float64."""
    return (a.double() * b.double()).flatten(1).mean(dim=1).cpu().numpy()


def quotient(above: Floats, below: Floats, sound: Any) -> Floats:
    """``above / below`` where sound and finite, else 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.divide(above, below, out=np.zeros_like(below), where=sound & (below > 0))
    return np.where(np.isfinite(found), found, 0.0)


@attrs.frozen
class Relaxed(JacobianApproximation):
    """``J = I / relax``: every row moves by a part of its residual.

    Attributes:
        relax: the part, between 0 (nothing moves) and 1 (Picard's whole step).
    """

    relax: float = attrs.field(default=0.9, validator=number(0.0, 1.0))

    reads_residuals = True
    reference = "Krasnoselskii 1955 (two remarks on successive approximations)"

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor:
        """``X - relax R / (1 + damping)``."""
        assert rhs is not None
        rows = []
        for r, residual in enumerate(rhs):
            old = round.window.state_rows[r + 1]
            rows.append((old - residual * per_sample(self.relax / (1.0 + damping[r]), residual)).to(old.dtype))
        return torch.stack(rows)


@attrs.frozen
class RelaxedScratch(Relaxed):
    __doc__ = Relaxed.__doc__

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor:
        """``X - relax R / (1 + damping)``."""
        assert rhs is not None
        rows = []
        for r, residual in enumerate(rhs):
            old = round.window.state_rows[r + 1]
            move = residual.data.mul_(per_sample(self.relax / (1.0 + damping[r]), residual))  # saves a window of memory
            rows.append((old - move).to(old.dtype))
        return torch.stack(rows)


@attrs.frozen
class NodeSecant(JacobianApproximation):
    """``G = s I`` at each node: the slope of the network's output along the move between its last two evaluations.

    ``s = <df, dx> / <dx, dx>``, bounded by ``limit``; nodes that were evaluated once are held.

    Attributes:
        limit: largest absolute slope.
    """

    limit: float = attrs.field(default=50.0, validator=number(0.0))

    reference = "Barzilai and Borwein 1988 (two-point step sizes), per node"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing seen."""
        return {"front": np.zeros(problem.batch, dtype=np.int64), "seen": [], "x": [], "f": []}

    def local(self, round: Round, state: Any) -> Local | None:
        """``v -> s v``."""
        if not state["x"]:
            return None
        slopes = self._slopes(round, state)

        def response(row: int, v: torch.Tensor) -> torch.Tensor:
            return (v * per_sample(slopes[row], v)).to(v.dtype)

        return response

    def _slopes(self, round: Round, state: Any) -> Floats:
        window = round.window
        source = window.nodes - state["front"][None, :]
        inside = (source >= 0) & (source < len(state["x"]))
        index = np.clip(source, 0, len(state["x"]) - 1)
        old_x, old_f = pick(state["x"], index), pick(state["f"], index)
        seen = np.take_along_axis(np.stack(state["seen"]), index, axis=0)
        slopes = np.zeros(window.nodes.shape)
        for r in range(window.rows):
            sound = inside[r] & seen[r] & (round.age[r] == 0)
            slopes[r] = self._slope(round.anchors[r], old_x[r], round.form_output(r), old_f[r], sound)
        return slopes

    def _slope(self, x: torch.Tensor, old_x: torch.Tensor, f: torch.Tensor, old_f: torch.Tensor, sound: Any) -> Floats:
        dx, df = x.double() - old_x.double(), f.double() - old_f.double()
        square = along(dx, dx)
        moved = square > _LEAST_MOVE**2 * along(x, x)
        return np.clip(quotient(along(df, dx), square, sound & moved), -self.limit, self.limit)

    def observe(self, round: Round, state: Any) -> dict[str, Any]:
        """Remember where each node was evaluated, and what came back."""
        rows = range(round.window.rows)
        return {
            "front": round.window.front.copy(),
            "seen": [(round.age[r] >= 0) & round.window.valid[r] for r in rows],
            "x": [round.anchors[r] for r in rows],
            "f": [round.form_output(r) for r in rows],
        }


@attrs.frozen
class NodeSecantShared(NodeSecant):
    __doc__ = NodeSecant.__doc__

    _known = {}  # noqa: RUF012 - slope of each node, for rounds in which it has not moved far enough

    def _slopes(self, round: Round, state: Any) -> Floats:
        slopes = NodeSecant._slopes(self, round, state)
        nodes = round.window.nodes
        for place in zip(*np.nonzero(round.window.valid), strict=True):
            key = int(nodes[place]), int(place[1])
            if slopes[place]:
                self._known[key] = slopes[place]
            slopes[place] = self._known.get(key, 0.0)
        return slopes


@attrs.frozen
class NodeSecantSingle(NodeSecant):
    __doc__ = NodeSecant.__doc__

    def local(self, round: Round, state: Any) -> Local | None:
        """``v -> s v``."""
        if not state["x"]:
            return None
        slopes = torch.from_numpy(self._slopes(round, state)).float()

        def response(row: int, v: torch.Tensor) -> torch.Tensor:
            weight = slopes[row].to(v.device).reshape((-1,) + (1,) * (v.ndim - 1))
            return (v.float() * weight).to(v.dtype)

        return response


@attrs.frozen
class NodeSecantDouble(NodeSecant):
    __doc__ = NodeSecant.__doc__

    def _slope(self, x: torch.Tensor, old_x: torch.Tensor, f: torch.Tensor, old_f: torch.Tensor, sound: Any) -> Floats:
        dx, df = x.double() - old_x.double(), f.double() - old_f.double()
        square = 0.5 * along(dx, dx)
        moved = square > _LEAST_MOVE**2 * along(x, x)
        return np.clip(quotient(along(df, dx), square, sound & moved), -self.limit, self.limit)


@attrs.frozen
class Ray(JacobianApproximation):
    """``G = s I``, from one product per node along the state itself: ``s`` is a share of ``<x, J x> / <x, x>``.

    Attributes:
        limit: largest absolute slope of the network's output.
        share: of the slope beyond the held form that is believed, between 0 and 1; the Jacobian is no multiple of the
            identity.
    """

    limit: float = attrs.field(default=50.0, validator=number(0.0))
    share: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    needs = frozenset({"jvp"})
    reference = "Rayleigh's quotient of the network's Jacobian at the state"

    def probes(self, window: Window, state: Any) -> torch.Tensor:
        """The states."""
        return torch.stack([row.clone() for row in window.state_rows[:-1]])

    def local(self, round: Round, state: Any) -> Local | None:
        """``v -> s v``, in the composition's form."""
        if round.jvps is None or round.tangents is None:
            return None
        u, scale, _ = round.window.gain_rows
        tangents, products, evaluated, limit, share = (
            round.tangents,
            round.jvps,
            round.evaluated,
            self.limit,
            self.share,
        )

        def response(row: int, v: torch.Tensor) -> torch.Tensor:
            square = along(tangents[row], tangents[row])
            slope = np.clip(quotient(along(tangents[row], products[row]), square, square > 0), -limit, limit)
            slope = np.where(evaluated[row], share * (slope - u[row]) / scale[row], 0.0)
            return (v * per_sample(slope, v)).to(v.dtype)

        return response


@attrs.frozen
class RayUndeclared(Ray):
    __doc__ = Ray.__doc__

    needs = frozenset()


ORIGINALS = [
    Mutant("jacobian:relaxed", "jacobian", lambda: Relaxed, "", "Keeps the contract."),
    Mutant("jacobian:node-secant", "jacobian", lambda: NodeSecant, "", "Keeps the contract."),
    Mutant("jacobian:ray", "jacobian", lambda: Ray, "", "Keeps the contract."),
]

MUTANTS = [
    Mutant(
        "jacobian:scales the residual through .data",
        "jacobian",
        lambda: RelaxedScratch,
        "mutating",
        "What a part was handed is left as it was, also behind autograd's back.",
    ),
    Mutant(
        "jacobian:slopes kept in the class",
        "jacobian",
        lambda: NodeSecantShared,
        "stateful",
        "What changes is in the state: a second solve does not know the slopes of the first.",
    ),
    Mutant(
        "jacobian:response in single precision",
        "jacobian",
        lambda: NodeSecantSingle,
        "dtype",
        "float64 is not rounded on the way.",
    ),
    Mutant(
        "jacobian:twice the secant",
        "jacobian",
        lambda: NodeSecantDouble,
        "scale",
        "The response is not more than the network's own.",
    ),
    Mutant(
        "jacobian:asks for products without saying so",
        "jacobian",
        lambda: RayUndeclared,
        "undeclared",
        "A part that probes says that it needs jvp, so that an evaluator without it is refused before the first round.",
    ),
]
