"""An initial guess whose order follows from how well each order predicted before."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

import paracore
from paracore.parts import Hold
from paracore.parts.options import integer, number
from paracore.slide import pick
from paracore.window import Bools, Floats, Ints, Round, Window, rms, to_numpy, where_rows
from paracore_example.past import Line, empty, recorded
from paracore_example.polynomials import fitted

__all__ = ["VariableOrder"]


@attrs.frozen
class VariableOrder(paracore.Initializer):
    """Outputs extrapolated in time by the order that predicted the last rounds best, and swept through the scheme.

    Order 0 holds the newest output; order k fits a polynomial of degree k in the scheme's time to the newest
    ``points`` outputs by least squares. Every round the farthest row that was guessed and is now evaluated shows what
    each order would have predicted: a sample goes on with the order of least error, a running mean over its rounds. So
    a smooth network is extrapolated far, a rough one held, and both are found out without an evaluation.

    Outputs are taken in the composition's form. Keeps ``points`` outputs behind the front: about a window of memory.

    Attributes:
        highest: the highest order.
        points: newest outputs that the polynomials are fitted to.
        forget: share of the old mean that each round takes away.
    """

    highest: int = attrs.field(default=3, validator=integer(0))
    points: int = attrs.field(default=8, validator=integer(1))
    forget: float = attrs.field(default=0.5, validator=number(0.0, 1.0))

    reference = "Shampine and Gordon 1975, Computer Solution of Ordinary Differential Equations (order selection); ours"

    def start(self, problem: paracore.Problem, rows: int) -> dict[str, Any]:
        """Nothing seen."""
        return {"past": empty(problem), "error": np.full((self.highest + 1, problem.batch), np.nan)}

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """Sweep with the extrapolated outputs; before there are any, as ``hold`` does."""
        if last is None:
            return Hold().enter(window, rows, None, None)
        past = state["past"]
        line = Line(past["first"], past["outputs"], past["known"])
        old, work = last.window, window.moved(window.state_rows)
        shift, first = window.front - old.front, int(np.argmax(rows.any(axis=1))) - 1
        memory = window.scheme.memory
        before = np.arange(window.rows)[:, None] + shift[None, :]  # below 0 for samples that have ended
        known, seen = before < old.rows, pick(last.outputs, np.clip(before, 0, old.rows - 1))
        outputs = seen[:first] if memory else []
        weights = self._weights(window, line, window.nodes[first:], self._orders(state))
        for row in range(first, window.rows):
            work.sweep_row(row, line.combined(weights[row - first]), outputs)
            mine = where_rows(rows[row + 1], work.state_rows[row + 1], window.state_rows[row + 1])
            work.state_rows[row + 1] = mine
            if memory:  # samples whose rows enter later still know their output here
                outputs[-1] = where_rows(known[row], seen[row], outputs[-1])
        return work.state_rows

    def observe(self, round: Round, state: Any) -> dict[str, Any]:
        """Score the orders, and record the outputs."""
        window, past = round.window, state["past"]
        outputs = [round.form_output(r) for r in range(window.rows)]
        error = state["error"]
        if past["outputs"]:
            error = self._scored(round, Line(past["first"], past["outputs"], past["known"]), outputs, error)
        return {"past": recorded(past, window, outputs, round.age >= 0, self.points), "error": error}

    def _orders(self, state: Any) -> Ints:
        """``(B,)`` the order of least error; 0 until there is one."""
        return np.asarray(np.argmin(np.where(np.isnan(state["error"]), np.inf, state["error"]), axis=0))

    def _scored(self, round: Round, line: Line, outputs: list[torch.Tensor], error: Floats) -> Floats:
        """The running mean squares ``(orders, B)`` of what each order missed at the farthest row that was new."""
        window = round.window
        new: Bools = round.evaluated & window.valid & (window.nodes >= line.first + len(line.outputs))
        who: Bools = np.asarray(new.any(axis=0))
        if not who.any():
            return error
        row = np.where(who, window.rows - 1 - np.argmax(new[::-1], axis=0), 0)
        nodes = np.take_along_axis(window.nodes, row[None, :], axis=0)
        found = pick(outputs, row[None, :])[0]
        missed = [
            rms(line.combined(self._weights(window, line, nodes, np.full(len(row), order))[0]) - found)
            for order in range(len(error))
        ]
        fresh = to_numpy(missed) ** 2
        mean = np.where(np.isnan(error), fresh, (1.0 - self.forget) * error + self.forget * fresh)
        return np.where(who[None, :] & np.isfinite(fresh), mean, error)

    def _weights(self, window: Window, line: Line, nodes: Ints, orders: Ints) -> Floats:
        """``(K, L, B)`` weights of a line's outputs for the nodes ``(K, B)``, each sample by its order."""
        time, end = window.scheme.time, window.scheme.steps - 1
        out = np.zeros((len(nodes), len(line.outputs), window.batch))
        made: dict[tuple[bytes, bytes, int], Floats] = {}  # samples in step share theirs
        for b in range(window.batch):
            there = np.flatnonzero(line.known[:, b])[-self.points :]
            if not len(there):
                continue
            times = time[np.minimum(line.first[b] + there, end)]
            targets = time[np.minimum(nodes[:, b], end)]
            key = times.tobytes(), targets.tobytes(), int(orders[b])
            if key not in made:
                made[key] = fitted(times, targets, key[2])
            out[:, there, b] = made[key]
        return out
