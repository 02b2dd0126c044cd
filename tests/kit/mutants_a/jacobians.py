"""Jacobian approximations: five correct ones."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore import JacobianApproximation, Problem, Round, Window
from paracore.parts.options import number
from paracore.schemes import RowWeights
from paracore.schemes.table import compute_dtype
from paracore.slide import pick
from paracore.strategies import Krylov
from paracore.window import Bools, Floats, Local, per_sample, to_numpy, where_rows

__all__ = ["OneProduct", "Probed", "Relaxed", "Slopes", "Swept", "mean_product", "ratio"]


@attrs.frozen
class Relaxed(JacobianApproximation):
    """Every row moves by a part of its own residual: ``X - gain R / (1 + damping)``.

    Attributes:
        gain: the part, between 0 and 1.
    """

    gain: float = attrs.field(default=0.9, validator=number(1e-3, 1.0))

    reads_residuals = True
    reference = "Shih et al. 2023 (ParaDIGMS), arXiv:2305.16317, Eq. 8, with relaxation"

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | None:
        """``(P, B, *event)`` next states."""
        assert rhs is not None
        old = round.window.state_rows
        shares = self.gain / (1.0 + damping)
        rows = [self._next(old[r + 1], row, shares[r]) for r, row in enumerate(rhs)]
        return torch.stack(rows)

    def _next(self, old: torch.Tensor, residual: torch.Tensor, share: Floats) -> torch.Tensor:
        return (old - residual * per_sample(share, residual)).to(old.dtype)


@attrs.frozen
class Swept(JacobianApproximation):
    """The scheme swept over the window with this round's outputs held, towards which each state is moved.

    ``Z = X + (step(Z) - X) / (1 + damping)``.
    """

    reference = "docs/mathematics.md, section 3"

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | None:
        """``(P, B, *event)`` next states."""
        states = [round.window.state_rows[0]]
        for r in range(round.window.rows):
            old, new = round.window.state_rows[r + 1], self._step(round, r, states)
            states.append((old + (new - old) * per_sample(1.0 / (1.0 + damping[r]), old)).to(old.dtype))
        return torch.stack(states[1:])

    def _step(self, round: Round, row: int, states: list[torch.Tensor]) -> torch.Tensor:
        window = round.window
        past = window.history(row, states, window.past_x), window.history(row, round.outputs, window.past_f)
        return window.step(row, *past)


@attrs.frozen
class Slopes(JacobianApproximation):
    """A number per row and sample: ``<dF, dX> / <dX, dX>`` over the node's last two evaluations.

    Attributes:
        most: bound of its size.
    """

    most: float = attrs.field(default=4.0, validator=number(0.0))

    reference = "Barzilai and Borwein 1988, doi:10.1093/imanum/8.1.141, per node"

    def start(self, problem: Problem, rows: int) -> dict[str, Any]:
        """Nothing evaluated yet."""
        zero = torch.zeros_like(problem.x0)
        known = np.zeros((rows, problem.batch), dtype=np.bool_)
        front = np.zeros(problem.batch, dtype=np.int64)
        return {"front": front, "known": known, "states": [zero] * rows, "outputs": [zero] * rows}

    def local(self, round: Round, state: Any) -> Local | None:
        """``v -> slope * v`` at rows that were evaluated twice."""
        known, states, outputs = self._aligned(round.window, state)
        usable: Bools = known & round.evaluated
        slopes = {
            r: self._slope(round, r, states, outputs, usable[r]) for r in range(1, len(usable)) if usable[r].any()
        }

        def respond(row: int, v: torch.Tensor) -> torch.Tensor:
            return (v * per_sample(slopes[row], v)).to(v.dtype) if row in slopes else torch.zeros_like(v)

        return respond

    def _slope(self, round: Round, row: int, states: Any, outputs: Any, usable: Bools) -> Floats:
        moved, changed = round.anchors[row] - states[row], round.form_output(row) - outputs[row]
        slope = ratio(mean_product(changed, moved), mean_product(moved, moved), usable)
        return np.clip(np.nan_to_num(slope), -self.most, self.most)

    def observe(self, round: Round, state: Any) -> Any:
        """Keep the newest state and output of each row."""
        known, states, outputs = self._aligned(round.window, state)
        fresh = round.evaluated
        for r in np.flatnonzero(fresh.any(axis=1)).tolist():
            states[r] = where_rows(fresh[r], round.anchors[r], states[r])
            outputs[r] = where_rows(fresh[r], round.form_output(r), outputs[r])
        return {"front": round.window.front.copy(), "known": known | fresh, "states": states, "outputs": outputs}

    def _aligned(self, window: Window, state: Any) -> tuple[Bools, list[torch.Tensor], list[torch.Tensor]]:
        """What is kept, at this window's rows; new lists."""
        source = np.clip(window.nodes - state["front"][None, :], 0, len(state["known"]) - 1)
        known = window.realign(state["known"], state["front"])
        return known, pick(state["states"], source), pick(state["outputs"], source)


@attrs.frozen
class Probed(JacobianApproximation):
    """A number per row and sample from one product: ``<z, J z> / <z, z>`` along the step to the row's state.

    The product rides along in the round's request.
    """

    needs = frozenset({"jvp"})
    reference = "Rayleigh quotient; Gonzalez et al. 2024 (quasi-DEER), arXiv:2407.19115, Section 4.1"

    def probes(self, window: Window, state: Any) -> torch.Tensor | None:
        """``(P, B, *event)``: how far each row's state lies from the one before it; the first row's own state."""
        rows = window.state_rows
        return torch.stack([rows[0], *(rows[r] - rows[r - 1] for r in range(1, window.rows))])

    def local(self, round: Round, state: Any) -> Local | None:
        """``v -> slope * v``, less what the held form implies; nothing where no product was made."""
        if round.jvps is None or round.tangents is None:
            return None
        jvps, tangents = round.jvps, round.tangents
        u, scale, _ = round.window.gain_rows

        def respond(row: int, v: torch.Tensor) -> torch.Tensor:
            z = tangents[row]
            slope = ratio(mean_product(z, jvps[row]), mean_product(z, z), round.evaluated[row])
            factor = (np.clip(slope, -100.0, 100.0) - u[row]) / scale[row]
            return (v * per_sample(np.nan_to_num(factor), v)).to(v.dtype)

        return respond


@attrs.frozen
class OneProduct(JacobianApproximation):
    """The chain, corrected by one product with its own move, for samples that have a round to spare.

    The product costs a round of those samples. A damping divides the moves by ``1 + damping``.
    """

    needs = frozenset({"jvp"})
    reference = "Newton's method with one product; docs/plugins.md, the Jacobian contract"

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | Krylov | None:
        """A generator of at most one request."""
        return self._asking(round, damping)

    def _who(self, round: Round) -> Bools:
        """``(B,)`` for whom the product is asked."""
        return np.asarray((round.spare > 0) & round.window.running)

    def _asking(self, round: Round, damping: Floats) -> Krylov:
        window, chain = round.window, round.chain
        who = self._who(round)
        answer = None
        if who.any():
            answer = yield torch.stack([chain[r] - round.anchors[r] for r in range(window.rows)]), who
        states, used = [chain[0]], list[torch.Tensor]()
        for r in range(window.rows):
            new, old = chain[r + 1], window.state_rows[r + 1]
            if answer is not None:
                used.append((round.outputs[r] + answer[r]).to(old.dtype))
                past = window.history(r, states, window.past_x), window.history(r, used, window.past_f)
                new = where_rows(who, window.step(r, *past), new)
            if damping.any():
                new = (old + (new - old) * per_sample(1.0 / (1.0 + damping[r]), old)).to(old.dtype)
            states.append(new)
        return torch.stack(states[1:])


def mean_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``(B,)`` inner products over the event, divided by its length."""
    wide = compute_dtype(a.dtype)
    return (a.to(wide) * b.to(wide)).flatten(1).mean(dim=1)


def ratio(top: torch.Tensor, bottom: torch.Tensor, usable: Bools) -> Floats:
    """``(B,)`` quotients; NaN where there is none."""
    over, under = to_numpy([top, bottom])
    fine = usable & np.isfinite(over) & np.isfinite(under) & (under > 0)
    return np.divide(over, under, out=np.full_like(over, np.nan), where=fine)
