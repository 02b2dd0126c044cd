"""The scheme: a sampler's arithmetic as a table of scalars. It never contains the network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore.errors import SchemeError, suggest
from paracore.schemes.levels import FORMS, Levels

__all__ = ["History", "Scheme", "compute_dtype"]

Array = npt.NDArray[np.float64]

_CLEAN = 0.1
"""Largest share of the noise that a clean step leaves."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype a step is computed in: float32 for half precision, else the state's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@attrs.frozen(eq=False)
class History:
    """The newest states and outputs, newest first.

    Attributes:
        states: ``x_n, x_{n-1}, ...``, each ``(B, *event)``.
        outputs: ``f_n, f_{n-1}, ...``, each ``(B, *event)``; missing ones (before node 0) are not listed.
    """

    states: tuple[torch.Tensor, ...]
    outputs: tuple[torch.Tensor, ...]


@attrs.frozen(eq=False, repr=False, slots=False)
class Scheme:
    """``x_{n+1} = sum_i a[n,i] x_{n-i} + sum_j b[n,j] f_{n-j} + sum_k c[n,k] z_{n,k}`` for ``n = 0 .. N-1``.

    Node 0 is the noise, node N the sample. ``f_n`` is the network's (guided) output at node ``n``.

    Attributes:
        a: ``(N, q)`` float64 weights of the newest states.
        b: ``(N, r)`` float64 weights of the newest outputs.
        time: ``(N,)`` float64, what the network is told at each node.
        c: ``(N, k)`` float64 weights of the pre-drawn noise; ``k = 0`` for a deterministic scheme.
        draws: ``(N,)`` int64, standard normal draws taken from the generator at each node (at most ``k``).
        levels: noise levels, where known.
        prediction: the form of the network's output (one of :data:`~paracore.schemes.FORMS`), or ``None`` if unknown.
        name: what the scheme is called in messages and results.
    """

    a: Array
    b: Array
    time: Array
    c: Array
    draws: npt.NDArray[np.int64]
    levels: Levels | None
    prediction: str | None
    name: str

    @classmethod
    def create(
        cls,
        a: npt.ArrayLike,
        b: npt.ArrayLike,
        time: npt.ArrayLike,
        *,
        c: npt.ArrayLike | None = None,
        draws: npt.ArrayLike | None = None,
        levels: Levels | None = None,
        prediction: str | None = None,
        name: str = "table",
    ) -> Scheme:
        """Build and check a scheme; one-dimensional ``a``, ``b``, ``c`` mean one column.

        Raises:
            SchemeError: for wrong shapes, non-finite numbers, or weights on states before node 0.
        """
        columns = [_columns(label, v, name) for label, v in (("a", a), ("b", b))]
        steps = len(columns[0])
        noise = _columns("c", c, name) if c is not None else np.zeros((steps, 0))
        counts = (
            np.asarray(draws, dtype=np.int64)
            if draws is not None
            else ((noise != 0) * np.arange(1, noise.shape[1] + 1)).max(axis=1, initial=0).astype(np.int64)
        )
        scheme = cls(
            a=columns[0],
            b=columns[1],
            time=np.asarray(time, dtype=np.float64),
            c=noise,
            draws=counts,
            levels=levels,
            prediction=prediction,
            name=name,
        )
        scheme._check()
        return scheme

    def _check(self) -> None:
        n = len(self.a)
        if n < 1:
            raise SchemeError(f"scheme {self.name!r} has {n} steps; at least 1 is needed")
        for label, value in (("b", self.b), ("time", self.time), ("c", self.c), ("draws", self.draws)):
            if value.ndim == 0 or len(value) != n:
                raise SchemeError(f"scheme {self.name!r}: {label} has shape {value.shape}; a has {n} rows")
        if self.time.ndim != 1 or self.draws.ndim != 1:
            raise SchemeError(f"scheme {self.name!r}: time and draws need one number per node")
        for label, table in (("a", self.a), ("b", self.b), ("c", self.c), ("time", self.time)):
            if not np.all(np.isfinite(table)):
                row = int(np.argwhere(~np.isfinite(table))[0][0])
                raise SchemeError(f"scheme {self.name!r}: {label} is not finite at node {row}")
        if self.a.shape[1] < 1 or self.b.shape[1] < 1:
            raise SchemeError(f"scheme {self.name!r}: a and b need at least one column")
        for label, table in (("a", self.a), ("b", self.b)):
            for lag in range(1, table.shape[1]):
                if np.any(table[:lag, lag] != 0):
                    raise SchemeError(f"scheme {self.name!r}: {label}[:, {lag}] reaches back before node 0")
        if np.any(self.draws > self.c.shape[1]) or np.any(self.draws < 0):
            raise SchemeError(f"scheme {self.name!r}: more draws than noise weights at some node")
        unused = np.arange(self.c.shape[1]) >= self.draws[:, None]
        if np.any(unused & (self.c != 0)):
            node = int(np.argwhere(unused & (self.c != 0))[0][0])
            raise SchemeError(f"scheme {self.name!r}: c has a weight without a draw at node {node}; raise draws there")
        if self.levels is not None:
            for label, value, length in (
                ("alpha", self.levels.alpha, n + 1),
                ("sigma", self.levels.sigma, n + 1),
                ("g", self.levels.g, n),
                ("span", self.levels.span, n),
            ):
                if value.shape != (length,):
                    raise SchemeError(
                        f"scheme {self.name!r}: levels.{label} has shape {value.shape}; ({length},) is needed"
                    )
        if self.prediction is not None and self.prediction not in FORMS:
            raise SchemeError(
                f"scheme {self.name!r}: unknown prediction {self.prediction!r}; {suggest(self.prediction, FORMS)}"
            )

    def __repr__(self) -> str:
        return f"<Scheme {self.name!r}: {self.steps} steps, memory {self.memory}>"

    @property
    def steps(self) -> int:
        """N: how many evaluations the sequential sampler makes."""
        return len(self.a)

    @cached_property
    def memory(self) -> int:
        """H: how many past nodes, beside the newest, a step reads."""
        return int(max(self.a.shape[1], self.b.shape[1])) - 1

    @cached_property
    def stochastic(self) -> bool:
        """Whether the scheme draws noise."""
        return bool(np.any(self.draws > 0))

    @cached_property
    def _columns(self) -> tuple[list[_Column], ...]:
        """The columns that are not all zero, of ``a`` and of ``b``."""
        return tuple(
            [_Column(lag, column) for lag, column in enumerate(table.T) if column.any()] for table in (self.a, self.b)
        )

    @cached_property
    def _gains(self) -> dict[str, tuple[Array, Array]]:
        return {}

    def prepare(self, dtype: torch.dtype) -> None:
        """Make the table's scalars for states of a dtype: :meth:`step` is faster with them, its bits are the same."""
        for columns in self._columns:
            for column in columns:
                column.prepare(compute_dtype(dtype))

    def step(
        self,
        node: int | npt.NDArray[np.int64],
        states: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One step, elementwise, each product and sum rounded once, so that its bits do not depend on the batch.

        Args:
            node: ``n``, or one node per sample ``(B,)``.
            states: ``x_n, x_{n-1}, ...``, each ``(B, *event)``; missing ones count as zero.
            outputs: ``f_n, f_{n-1}, ...`` likewise.
            noise: ``sum_k c z`` at the node, already weighted, or ``None``.

        Returns:
            ``x_{n+1}``, in the dtype of ``x_n``; computed in float32 for half precision. Always a new tensor.
        """
        newest = states[0]
        dtype = compute_dtype(newest.dtype)
        total: torch.Tensor | None = None
        fresh = False
        for columns, values in zip(self._columns, (states, outputs), strict=True):
            for column in columns:
                lag, plain = column.lag, column.plain
                if lag >= len(values):
                    break
                value = values[lag]
                if value.dtype != dtype:
                    value = value.to(dtype)
                term = value if plain else value * column.weight(node, value)
                if total is None:
                    total, fresh = term, not plain or value is not values[lag]
                elif fresh:
                    total = total.add_(term)
                elif not plain:  # addition commutes bit for bit, so reuse the fresh product
                    total, fresh = term.add_(total), True
                else:
                    total, fresh = total + term, True
        if total is None:
            total, fresh = torch.zeros_like(newest, dtype=dtype), True
        if noise is not None:
            total, fresh = (total.add_(noise.to(dtype)) if fresh else total + noise.to(dtype)), True
        if not fresh:
            total = total.clone()
        return total if dtype == newest.dtype else total.to(newest.dtype)

    def held(self, history: History, start: int, stop: int, noise: Sequence[torch.Tensor | None] = ()) -> History:
        """The long jump: from node ``start`` to node ``stop`` with the newest output held, in one combination.

        Args:
            history: states and outputs at ``start`` (the newest output is held), newest first.
            start: node of ``history.states[0]``.
            stop: node to reach, ``start < stop <= N``.
            noise: weighted noise of nodes ``start .. stop-1``, or empty.

        Returns:
            The history at ``stop``, as far back as the scheme's memory asks; its outputs are the held one.

        Raises:
            SchemeError: if ``stop`` is not after ``start`` or lies beyond N.
        """
        if not start < stop <= self.steps:
            raise SchemeError(f"held jump from node {start} to {stop}: need {start} < stop <= {self.steps}")
        depth = max(self.memory, 0) + 1
        known = len(history.states)
        width, extra = known + len(history.outputs), stop - start
        rows: dict[int, Array] = {}
        for i in range(known):
            unit = np.zeros(width + extra)
            unit[i] = 1.0
            rows[start - i] = unit
        for m in range(start, stop):
            row = np.zeros(width + extra)
            for i in range(self.a.shape[1]):
                if self.a[m, i] != 0 and m - i in rows:
                    row += self.a[m, i] * rows[m - i]
            for j in range(self.b.shape[1]):
                if self.b[m, j] != 0:
                    lag = max(0, start - (m - j))
                    if lag < len(history.outputs):
                        row[known + lag] += self.b[m, j]
            row[width + m - start] = 1.0
            rows[m + 1] = row
        newest = history.states[0]
        dtype = compute_dtype(newest.dtype)
        sources = [*history.states, *history.outputs]
        states = []
        for node in range(stop, max(stop - depth, start - known), -1):
            row = rows[node]
            total = torch.zeros_like(newest, dtype=dtype)
            for weight, value in zip(row[:width], sources, strict=True):
                if weight != 0:
                    total.add_(value.to(dtype), alpha=float(weight))
            for weight, value_or_none in zip(row[width:], noise, strict=False):
                if weight != 0 and value_or_none is not None:
                    total.add_(value_or_none.to(dtype), alpha=float(weight))
            states.append(total.to(newest.dtype))
        return History(tuple(states), (history.outputs[0],) * min(depth, stop))

    def output_reach(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """How far an error in one output moves the trajectory through the table alone.

        Returns:
            ``(weight, node)``, each ``(N,)``: a unit error in ``f_n`` moves state ``node[n]`` by ``weight[n]`` once
            every step that reads ``f_n`` has been made (``node = min(n + 1 + memory, N)``), all other outputs held.
        """
        n = self.steps
        reach, where = np.zeros(n), np.zeros(n, dtype=np.int64)
        for k in range(n):
            where[k] = min(k + 1 + self.memory, n)
            error: dict[int, float] = {}
            for m in range(k, int(where[k])):
                moved = sum(self.a[m, i] * error.get(m - i, 0.0) for i in range(self.a.shape[1]))
                if m - k < self.b.shape[1]:
                    moved += self.b[m, m - k]
                error[m + 1] = float(moved)
            reach[k] = abs(error[int(where[k])])
        return reach, where

    def error_reach(self) -> Array:
        """``(N,)`` how far an error in one output moves the trajectory, if later outputs may follow it.

        In a table with memory :meth:`output_reach` depends on what is held until the memory has passed. Held data
        predictions draw the state towards them in the stages and steps between, and with it most of the error; a
        network's follow the state along the data, where errors stay. The larger of two answers stands: the network's
        own output held, and the velocity held.
        """
        reach, _ = self.output_reach()
        if self.memory == 0 or self.levels is None or self.prediction is None:
            return reach
        try:
            straight, _ = self.in_form("velocity").output_reach()
            factor = np.abs(self.form_gain("velocity")[1])
        except SchemeError:
            return reach
        return np.maximum(reach, np.divide(straight, factor, out=np.zeros_like(reach), where=factor > 0))

    def form_gain(self, form: str) -> tuple[Array, Array]:
        """``(u, v)``, each ``(N,)``: the network's own output is ``u * x + v * f'`` with ``f'`` in another form.

        ``form`` is ``"network"`` (its own), ``"drift"`` (``x_{n+1} = x_n + b f'``: ParaDIGMS), one of
        :data:`~paracore.schemes.FORMS`, or ``"auto"`` (:attr:`calm_form`).

        Raises:
            SchemeError: if the scheme has no such form.
        """
        n = self.steps
        if form == "auto":
            form = self.calm_form
        if form in ("network", self.prediction):
            return np.zeros(n), np.ones(n)
        if form == "drift":
            if self.memory > 0:
                raise SchemeError(f"form 'drift' needs one past state; scheme {self.name!r} reads {self.memory + 1}")
            a, b = self.a[:, 0], self.b[:, 0]
            if np.any(lost := (b == 0) & (a != 1)):
                raise SchemeError(f"form 'drift' divides by b = 0 at node {int(np.argmax(lost))}; use 'network'")
            return np.divide(1.0 - a, b, out=np.zeros(n), where=b != 0), np.ones(n)
        if self.levels is None or self.prediction is None:
            raise SchemeError(
                f"form {form!r} needs noise levels and a known prediction; scheme {self.name!r} has none: use 'network'"
            )
        self.levels.conversion(self.prediction, form, slice(0, n))
        return self.levels.conversion(form, self.prediction, slice(0, n))

    @cached_property
    def clean(self) -> npt.NDArray[np.bool_]:
        """``(N,)`` nodes whose step takes nine tenths of the noise away, or all of it: the state after it is the data
        prediction, nearly.
        """
        if self.levels is None:
            return np.zeros(self.steps, dtype=np.bool_)
        before, after = self.levels.sigma[:-1], self.levels.sigma[1:]  # those of a pipeline end near 0, not at it
        return np.asarray((after <= _CLEAN * before) & (before > _CLEAN**6 * before.max()))

    @cached_property
    def calm_form(self) -> str:
        """The form to hold where nothing better is known, to interpolate in between nodes and to carry beyond them:
        ``"data"``, ``"velocity"``, ``"drift"`` or ``"network"``.

        Fresh noise moves a state far and the data that it predicts little, so that a stochastic scheme holds the data;
        a deterministic one holds the velocity (figures in the docs), or the drift without noise levels. A form that
        divides by zero somewhere is passed over.
        """
        for form in ("data" if self.stochastic else "velocity", "drift"):
            try:
                self.form_gain(form)
            except SchemeError:
                continue
            return form
        return "network"

    def gain(self, form: str) -> tuple[Array, Array]:
        """:meth:`form_gain`, worked out once: read-only arrays."""
        if form not in self._gains:
            u, v = self.form_gain(form)
            u.flags.writeable = v.flags.writeable = False
            self._gains[form] = u, v
        return self._gains[form]

    def output_from_data(self, nodes: torch.Tensor, x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """A data prediction as this scheme's own output: what a model with an exact denoiser returns.

        Args:
            nodes: ``(M,)`` int64 node of each row.
            x: ``(M, *event)`` states.
            data: ``(M, *event)`` predictions of the data at those states.

        Raises:
            SchemeError: if levels or prediction are unknown.
        """
        if self.levels is None or self.prediction is None:
            raise SchemeError(f"scheme {self.name!r} has no noise levels or no known prediction")
        u, v = self.levels.conversion("data", self.prediction, slice(0, self.steps))
        if self.prediction == "data":
            return data
        shape = (-1,) + (1,) * (x.ndim - 1)  # tensors throughout: this runs inside torch.func transforms
        first, second = (torch.from_numpy(w)[nodes.cpu()].to(x).reshape(shape) for w in (u, v))
        return x * first + data * second

    def in_form(self, form: str) -> Scheme:
        """The same sampler written for a network that returns ``form``: same solution, other table.

        Raises:
            SchemeError: if the form is unknown or divides by zero somewhere.
        """
        u, v = self.form_gain(form)
        width = max(self.a.shape[1], self.b.shape[1])
        a = np.zeros((self.steps, width))
        a[:, : self.a.shape[1]] = self.a
        b = np.zeros_like(self.b)
        for lag in range(self.b.shape[1]):
            rows = np.arange(lag, self.steps)
            a[rows, lag] += self.b[rows, lag] * u[rows - lag]
            b[rows, lag] = self.b[rows, lag] * v[rows - lag]
        while a.shape[1] > 1 and not a[:, -1].any():
            a = a[:, :-1]
        form = self.calm_form if form == "auto" else form
        prediction = self.prediction if form == "network" else form if form != "drift" else None
        return attrs.evolve(self, a=a, b=b, prediction=prediction, name=f"{self.name} ({form} form)")


def _columns(label: str, value: npt.ArrayLike, name: str) -> Array:
    table = np.asarray(value, dtype=np.float64)
    if table.ndim not in (1, 2):
        raise SchemeError(f"scheme {name!r}: {label} has shape {table.shape}; (N,) or (N, columns) is needed")
    return table[:, None] if table.ndim == 1 else table


class _Column:
    """The weights of one lag.

    Attributes:
        lag: how many nodes back.
        weights: ``(N,)``.
        plain: all weights are 1.
    """

    def __init__(self, lag: int, weights: Array) -> None:
        self.lag = lag
        self.weights = weights
        self.plain = bool((weights == 1.0).all())
        self._scalars: dict[torch.dtype, tuple[torch.Tensor, ...]] = {}

    def prepare(self, dtype: torch.dtype) -> None:
        """Keep the weights as tensors without dimensions, too: products with them cost half of those with floats."""
        if dtype not in self._scalars and not self.plain:
            with torch.inference_mode(False):  # usable under autograd, wherever they were made
                self._scalars[dtype] = torch.tensor(self.weights, dtype=dtype, device="cpu").unbind()

    def weight(self, node: int | npt.NDArray[np.int64], value: torch.Tensor) -> float | torch.Tensor:
        """What to multiply ``value`` with at a node, or at one node per sample."""
        if isinstance(node, np.ndarray):
            weights = self.weights[node]
            if np.count_nonzero(weights == weights[0]) < len(weights):
                shaped = torch.from_numpy(weights).to(device=value.device, dtype=value.dtype)
                return shaped.reshape((-1,) + (1,) * (value.ndim - 1))
            node = int(node[0])
        scalars = self._scalars.get(value.dtype)
        return float(self.weights[node]) if scalars is None else scalars[node]
