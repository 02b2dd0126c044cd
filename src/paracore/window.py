"""What strategies see: the window of a round, per sample, and the round itself. Read-only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from paracore.problem import NoiseTape
from paracore.schemes.table import Scheme, compute_dtype
from paracore.schemes.weights import RowWeights, look_ahead_weights

__all__ = [
    "Bools",
    "Floats",
    "Ints",
    "Local",
    "Round",
    "RowNorms",
    "Window",
    "is_small",
    "mean_product",
    "per_sample",
    "rms",
    "small_solve",
    "to_numpy",
    "where_rows",
]

Floats = npt.NDArray[np.float64]
"""Numbers per row and sample, ``(P, B)``, or per sample, ``(B,)``."""

Ints = npt.NDArray[np.int64]
"""Integers per row and sample, ``(P, B)``, or per sample, ``(B,)``."""

Bools = npt.NDArray[np.bool_]
"""Masks over rows and samples, ``(P, B)``, or samples, ``(B,)``."""

Local = Callable[[int, torch.Tensor], torch.Tensor]
"""``local(row, v) -> G v``: an output's response to a move ``v (B, *event)`` of its state."""


SMALL_EVENT = 2**14
"""Events up to this many numbers are measured together: there a call costs more than the numbers."""


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square of each sample: ``(B, *event) -> (B,)``, on the device, at least float32."""
    flat = x.reshape(x.shape[0], -1)
    norm: torch.Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=compute_dtype(x.dtype))
    return norm.div_(flat.shape[1] ** 0.5)


class RowNorms:
    """Root mean squares of several rows: of small events together, of large ones one by one, keeping no row alive."""

    def __init__(self) -> None:
        self._rows: list[torch.Tensor] = []

    def add(self, row: torch.Tensor) -> None:
        """Take in a row ``(B, *event)``."""
        self._rows.append(row if is_small(row) else rms(row))

    def result(self) -> Floats:
        """``(rows, B)`` float64."""
        stacked = torch.stack(self._rows)
        if stacked.ndim > 2:
            flat = stacked.flatten(2)
            norms = torch.linalg.vector_norm(flat, dim=2, dtype=compute_dtype(flat.dtype))
            return np.asarray(norms.to("cpu", torch.float64).numpy() / flat.shape[2] ** 0.5)
        return np.asarray(stacked.to("cpu", torch.float64).numpy())


def mean_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``(B,)`` inner products over the event, divided by its length, on the device."""
    wide = compute_dtype(a.dtype)
    return (a.to(wide) * b.to(wide)).flatten(1).mean(dim=1)


def is_small(row: torch.Tensor) -> bool:
    """Whether events ``(B, *event)`` are at most :data:`SMALL_EVENT` numbers each."""
    return row.numel() <= SMALL_EVENT * row.shape[0]


def to_numpy(rows: Sequence[torch.Tensor]) -> Floats:
    """A few ``(B,)`` device vectors as one ``(rows, B)`` float64 array: one transfer."""
    return torch.stack(list(rows)).to(device="cpu", dtype=torch.float64).numpy()


def per_sample(values: npt.NDArray[Any], like: torch.Tensor) -> torch.Tensor | float:
    """``(B,)`` numbers shaped to multiply ``(B, *event)``; a float where all are equal.

    Half precision always gets a float32 tensor, so that a product's rounding does not depend on the batch.
    """
    wide = compute_dtype(like.dtype)
    if wide == like.dtype and len(values) and np.count_nonzero(values == values[0]) == len(values):
        return float(values[0])
    shaped = torch.tensor(values, device=like.device, dtype=wide)  # a copy: what strategies see is read-only
    return shaped.reshape((-1,) + (1,) * (like.ndim - 1))


def where_rows(mask: Bools, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Samples of ``new`` where ``mask (B,)``, of ``old`` elsewhere; no copy where the mask is all one way."""
    if len(mask) == 1:
        return new if mask[0] else old
    taken = np.count_nonzero(mask)
    if taken == len(mask):
        return new
    if not taken:
        return old
    shaped = torch.from_numpy(mask.copy()).to(new.device)
    return torch.where(shaped.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


def some_rows(mask: Bools) -> list[bool]:
    """Rows of ``(P, B)`` with any true sample, read at once: one row after another costs as much as the sums."""
    some: Any = mask.any(axis=1)
    rows: list[bool] = some.tolist()
    return rows


def small_solve(matrices: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve small systems per sample; a singular or non-finite one gives zeros instead of failing its neighbours.

    Args:
        matrices: ``(..., m, m)``.
        right: ``(..., m, k)``.
    """
    a, b = matrices.double(), right.double()
    bad = ~(torch.isfinite(a).all(dim=(-1, -2)) & torch.isfinite(b).all(dim=(-1, -2)))
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    a = torch.where(bad[..., None, None], eye, a)
    b = torch.where(bad[..., None, None], torch.zeros_like(b), b)
    solution, info = torch.linalg.solve_ex(a, b)
    fine = (info == 0)[..., None, None] & torch.isfinite(solution)
    return torch.where(fine, solution, torch.zeros_like(solution)).to(right.dtype)


class Window:
    """The rows that the engine works on, per sample.

    Row ``r`` stands for the output at node ``front + r`` and the unknown state at node ``front + r + 1``.

    Attributes:
        scheme: the table.
        tape: the noise tape (deterministic schemes: always ``None`` rows).
        front: ``(B,)`` int64, node of each sample's newest accepted state.
        rounds: ``(B,)`` int64, rounds that each sample has taken part in.
        running: ``(B,)`` bool, samples that are not finished.
        rows: P, how many rows there are now: as many as the sample that is furthest behind needs. What is decided by it
            depends on batch mates: use ``width`` or ``valid`` instead.
        width: evaluations per round and sample that the composition allows.
        state_rows: P + 1 tensors ``(B, *event)``; row 0 is the front.
        past_x, past_f: H tensors each, newest first: states and outputs at nodes ``front - 1, front - 2, ...``.
        gain: ``(u, v)``, each ``(N,)``: network output = ``u * state + v * output in the composition's form``.
        tolerance: the composition's tolerance, in the unit of its stopping rule.
    """

    def __init__(
        self,
        scheme: Scheme,
        tape: NoiseTape,
        front: Ints,
        rounds: Ints,
        running: Bools,
        width: int,
        state_rows: Sequence[torch.Tensor],
        past_x: Sequence[torch.Tensor],
        past_f: Sequence[torch.Tensor],
        gain: tuple[Floats, Floats],
        tolerance: float,
    ) -> None:
        self.scheme = scheme
        self.tape = tape
        self.front = front
        self.rounds = rounds
        self.running = running
        self.width = width
        self.state_rows = list(state_rows)
        self.past_x = list(past_x)
        self.past_f = list(past_f)
        self.gain = gain
        self.tolerance = tolerance

    @property
    def rows(self) -> int:
        """P: how many rows there are now (fewer near the end)."""
        return len(self.state_rows) - 1

    @property
    def batch(self) -> int:
        """B: how many samples the problem has."""
        return len(self.front)

    @cached_property
    def nodes(self) -> Ints:
        """``(P, B)`` node of each row; may reach beyond N - 1 (see :attr:`valid`)."""
        return self.front[None, :] + np.arange(self.rows)[:, None]

    @cached_property
    def valid(self) -> Bools:
        """``(P, B)`` rows that stand for a node of the scheme, of a running sample."""
        return (self.nodes < self.scheme.steps) & self.running[None, :]

    @cached_property
    def gain_rows(self) -> tuple[Floats, Floats, Bools]:
        """``(u, v)`` at each row, ``(P, B)``, and which rows ``(P,)`` have any ``u``."""
        node = np.minimum(self.nodes, self.scheme.steps - 1)
        u = self.gain[0][node]
        return u, self.gain[1][node], np.asarray(u.any(axis=1), dtype=np.bool_)

    @cached_property
    def own_form(self) -> list[bool]:
        """Rows at which the network's output is the output in the composition's form, for all samples."""
        _, v, moving = self.gain_rows
        own: list[bool] = (~moving & (v == 1).all(axis=1)).tolist()
        return own

    def network_output(self, row: int, output: torch.Tensor) -> torch.Tensor:
        """The network's output at this row's state from one in the composition's form."""
        if self.own_form[row]:
            return output
        u, v, _ = self.gain_rows
        return _network_form(u[row], v[row], self.state_rows[row], output)

    def moved(self, state_rows: Sequence[torch.Tensor]) -> Window:
        """The same rows with other states."""
        new = object.__new__(Window)
        new.__dict__.update(self.__dict__)
        new.__dict__.pop("states", None)
        new.state_rows, new.past_x, new.past_f = list(state_rows), list(self.past_x), list(self.past_f)
        return new

    @cached_property
    def states(self) -> torch.Tensor:
        """``(P + 1, B, *event)``, stacked on first use."""
        return torch.stack(self.state_rows)

    def realign(self, value: npt.NDArray[Any], old_front: Ints, fill: float = 0.0) -> npt.NDArray[Any]:
        """Move per-row memory ``(P_old, B)`` from a window at ``old_front`` to this one's rows.

        Args:
            value: ``(P_old, B)`` numbers that belong to nodes ``old_front + r``.
            old_front: ``(B,)`` front that they belong to.
            fill: value of rows that are new.
        """
        source = self.nodes - old_front[None, :]
        inside = (source >= 0) & (source < len(value))
        picked = value[np.minimum(np.maximum(source, 0), len(value) - 1), np.arange(self.batch)]
        return np.where(inside, picked, np.asarray(fill, dtype=value.dtype))

    def step(self, row: int, states: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The scheme's own step at a row: the state of row ``row + 1``; samples without that node keep theirs."""
        nodes, steps = self.nodes[row], self.scheme.steps
        noise = self.tape.gather(nodes) if self.scheme.stochastic else None
        if len(nodes) == 1:
            node = int(nodes[0])
            return self.scheme.step(node, states, outputs, noise) if node < steps else states[0]
        new = self.scheme.step(np.minimum(nodes, steps - 1), states, outputs, noise)
        return where_rows(nodes < steps, new, states[0])

    def history(self, row: int, rows: Sequence[torch.Tensor], past: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """``[row, row - 1, ...]`` newest first, as far back as the scheme reads, going on into ``past``."""
        depth = self.scheme.memory + 1
        if depth == 1:
            return [rows[row]]
        own = [rows[i] for i in range(row, max(row - depth, -1), -1)]
        return own + list(past[: depth - len(own)])

    def sweep_row(self, row: int, predicted: torch.Tensor, outputs: list[torch.Tensor]) -> None:
        """Set the state of row ``row + 1`` from a predicted output at ``row``, through the scheme's own step.

        Args:
            row: where the step starts; states up to here must be set.
            predicted: ``(B, *event)`` output in the composition's form.
            outputs: network outputs of the rows before ``row`` that a multistep table reads; the output is appended.
        """
        newest = self.network_output(row, predicted)
        known = [newest, *reversed(outputs), *self.past_f][: self.scheme.memory + 1]
        self.state_rows[row + 1] = self.step(row, self.history(row, self.state_rows, self.past_x), known)
        outputs.append(newest)
        self.__dict__.pop("states", None)


class Round:
    """One finished round. Arrays are ``(P, B)``; a row's tensors are ``(B, *event)``. Everything is read-only.

    Attributes:
        window: the window that was evaluated.
        outputs: P network outputs (filled where a row was skipped or not finite).
        anchors: P states at which those outputs hold.
        evaluated: which rows this round evaluated, with finite outputs.
        age: rounds since each row was evaluated; -1 where its output was filled in.
        chain: P + 1 states: the scheme's own step swept over the window from the front.
        gap: root-mean-square distance of the chain from the anchor of each row.
        size: root mean square of the chain's state at row ``r + 1``.
        anchor_change: root-mean-square move of the anchor since the row's last evaluation (NaN: none).
        output_change: what the output (in the composition's form, in network units) changed by (NaN: none).
        output_growth: that change along the anchor's move, per unit of it: ``<df, dx> / <dx, dx>``, with the sign with
            which the scheme's step adds outputs. Above 0 the step widens the difference of two states that lie as these
            did, below it draws them together (NaN: none, or a stopping rule without ``reads_growth``).
        damping: factors in use.
        tangents, jvps: P rows each, or ``None``.
        spare: ``(B,)`` rounds that each sample has saved so far and may spend.
        memo: a part may keep here what it worked out from this round and needs once more in it. Use a key of your own
            (the part itself, say); nothing else reads it, and it ends with the round.
    """

    def __init__(
        self,
        window: Window,
        outputs: Sequence[torch.Tensor],
        anchors: Sequence[torch.Tensor],
        evaluated: Bools,
        age: Ints,
        weights: Callable[[], RowWeights],
        anchor_change: Floats,
        output_change: Floats,
        output_growth: Floats,
        spare: Ints,
        tangents: Sequence[torch.Tensor] | None = None,
        jvps: Sequence[torch.Tensor] | None = None,
    ) -> None:
        self.window = window
        self.outputs = list(outputs)
        self.anchors = list(anchors)
        self.evaluated = evaluated
        self.age = age
        self.anchor_change = anchor_change
        self.output_change = output_change
        self.output_growth = output_growth
        self.spare = spare
        self.tangents = tangents
        self.jvps = jvps
        self.chain: list[torch.Tensor] = []
        self.gap: Floats = np.zeros(age.shape)
        self.size: Floats = np.zeros(age.shape)
        self.damping: Floats = np.zeros(age.shape)
        self.memo: dict[Any, Any] = {}
        self._weights = weights
        self._adapted: tuple[Any] | None = None

    @property
    def tolerance(self) -> float:
        """The composition's tolerance."""
        return self.window.tolerance

    @cached_property
    def weights(self) -> RowWeights:
        """Look-ahead weights that :attr:`residual` was built with."""
        return self._weights()

    @cached_property
    def residual(self) -> torch.Tensor:
        """``(P, B, *event)`` look-ahead residuals (math page, section 2)."""
        return self.combine(self.weights)

    @cached_property
    def one_step(self) -> torch.Tensor:
        """``(P, B, *event)`` one-step residuals ``x_{n+1} - step(x_n)``, whatever the look-ahead."""
        window = self.window
        rows = [
            window.state_rows[r + 1]
            - window.step(
                r,
                window.history(r, window.state_rows, window.past_x),
                window.history(r, self.outputs, window.past_f),
            )
            for r in range(window.rows)
        ]
        return torch.stack(rows)

    @cached_property
    def one_step_rms(self) -> Floats:
        """``(P, B)`` root mean square of :attr:`one_step`; 0 on rows beyond N."""
        norms = to_numpy([rms(row) for row in self.one_step])
        return np.where(self.window.valid, norms, 0.0)

    @cached_property
    def change(self) -> Floats:
        """``(P, B)`` root-mean-square change of state row ``r + 1`` from this round's iterate to the chain."""
        window = self.window
        last = to_numpy([rms(self.chain[-1] - window.state_rows[-1])])
        inner = [
            None if self.anchors[r] is window.state_rows[r] else rms(self.chain[r] - window.state_rows[r])
            for r in range(1, window.rows)
        ]
        out = np.concatenate([self.gap[1:], last])
        for r, value in enumerate(inner):
            if value is not None:
                out[r] = to_numpy([value])[0]
        return np.where(window.valid, out, 0.0)

    @cached_property
    def score(self) -> torch.Tensor:
        """``(P, B, *event)`` score at each row's anchor, from the output (no network call). Needs noise levels."""
        scheme, window = self.window.scheme, self.window
        assert scheme.levels is not None
        assert scheme.prediction is not None
        u, v = scheme.levels.conversion(scheme.prediction, "score", slice(0, scheme.steps))
        rows = []
        for r in range(window.rows):
            node = np.minimum(window.nodes[r], scheme.steps - 1)
            rows.append(_network_form(u[node], v[node], self.anchors[r], self.outputs[r]))
        return torch.stack(rows)

    def form_output(self, row: int) -> torch.Tensor:
        """A row's output in the composition's form."""
        if self.window.own_form[row]:
            return self.outputs[row]
        u, v = (table[row] for table in self.window.gain_rows[:2])
        return _network_form(-u / v, 1.0 / v, self.anchors[row], self.outputs[row])

    def combine(self, weights: RowWeights) -> torch.Tensor:
        """``(P, B, *event)`` residuals ``X_next - W_x X - W_f F - W_c c`` for given weights."""
        window = self.window
        depth = window.scheme.memory
        states = list(reversed(window.past_x[:depth])) + window.state_rows[: window.rows]
        outputs = list(reversed(window.past_f[:depth])) + self.outputs
        next_rows = torch.stack(window.state_rows[1:])
        dtype = compute_dtype(next_rows.dtype)
        total = next_rows.to(dtype).clone()
        for table, rows in ((weights.x, states), (weights.f, outputs)):
            total -= _mix(table, torch.stack(rows).to(dtype))
        if window.scheme.stochastic:
            drawn = [window.tape.gather(window.nodes[r]) for r in range(window.rows)]
            noise = torch.stack([torch.zeros_like(total[0]) if row is None else row for row in drawn])
            total -= _mix(weights.c, noise.to(dtype))
        inside = torch.tensor(window.valid, device=total.device).reshape(*window.valid.shape, *([1] * (total.ndim - 2)))
        return torch.where(inside, total, torch.zeros_like(total)).to(next_rows.dtype)

    def look_ahead(self, width: Ints) -> RowWeights:
        """Weights for a look-ahead ``(P, B)``."""
        return look_ahead_weights(self.window.scheme, self.window.nodes, width)


def _mix(table: Floats, rows: torch.Tensor) -> torch.Tensor:
    """``out[r,b] = sum_m table[r,m,b] rows[m,b]``."""
    weights = torch.tensor(table, device=rows.device, dtype=rows.dtype).permute(2, 0, 1)
    flat = rows.flatten(2).transpose(0, 1)
    return torch.bmm(weights, flat).transpose(0, 1).reshape(table.shape[0], *rows.shape[1:])


def _network_form(u: Floats, v: Floats, state: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """``u * state + v * output`` with one number per sample; the output itself where nothing changes."""
    if not u.any() and (v == 1).all():
        return output
    dtype = output.dtype
    wide = compute_dtype(dtype)
    return (state.to(wide) * per_sample(u, state) + output.to(wide) * per_sample(v, output)).to(dtype)
