"""What the harness returns: one record per sampler, and the table and dict of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Comparison", "Row"]

_GOOD = frozenset({"converged", "exact", "budget-completed"})


@attrs.frozen(eq=False, kw_only=True)
class Row:
    """One sampler. Tuples have one entry per sample, ``wall_time`` one per repeat.

    Attributes:
        sampler: its label.
        window: evaluations per round and sample, where the sampler has one.
        steps: N.
        rounds: rounds that each sample took part in.
        dependent_rounds: network calls in a row per solve, on average over the solves that ended: what the speed-up
            is measured with. ``None`` if none ended.
        evaluations: (guided) network evaluations of each sample.
        network_calls: raw network rows over all samples; a guided evaluation makes two.
        jvps: Jacobian-vector products over all samples.
        largest_request: most rows in one request.
        wall_time: seconds for all samples, nothing subtracted.
        errors: relative root-mean-square error against the sequential sample; ``None`` for one that failed.
        status: how each sample ended.
        failure: why the sampler could not be run to its end, if it could not.
        baseline_evaluations: evaluations in a row of the second-order sequential rival.
        baseline_errors: its errors.
        settings: the sampler in full.
        samples: ``(B, *event)``.
    """

    sampler: str
    window: int | None
    steps: int
    rounds: tuple[int, ...] = ()
    dependent_rounds: float | None = None
    evaluations: tuple[int, ...] = ()
    network_calls: int = 0
    jvps: int = 0
    largest_request: int = 0
    wall_time: tuple[float, ...] = ()
    errors: tuple[float | None, ...] = ()
    status: tuple[str, ...] = ()
    failure: str | None = None
    baseline_evaluations: int | None = None
    baseline_errors: tuple[float | None, ...] = ()
    settings: str = ""
    samples: torch.Tensor | None = attrs.field(default=None, repr=False)

    @property
    def failed(self) -> int:
        """How many samples did not reach the last node."""
        return sum(s not in _GOOD for s in self.status)

    @property
    def speedup(self) -> float | None:
        """N over the dependent rounds."""
        return self.steps / self.dependent_rounds if self.dependent_rounds else None

    @property
    def work(self) -> float | None:
        """Evaluations per sample, as a multiple of N."""
        return float(np.mean(self.evaluations)) / self.steps if self.evaluations else None

    @property
    def seconds(self) -> float | None:
        """Median wall time over the repeats."""
        return float(np.median(self.wall_time)) if self.wall_time else None

    def as_dict(self) -> dict[str, Any]:
        """Everything but the samples, ready for JSON."""
        return {
            "sampler": self.sampler,
            "window": self.window,
            "settings": self.settings,
            "rounds_mean": float(np.mean(self.rounds)) if self.rounds else None,
            "rounds_max": max(self.rounds, default=None),
            "rounds": list(self.rounds),
            "dependent_rounds": self.dependent_rounds,
            "speedup": self.speedup,
            "evaluations": list(self.evaluations),
            "evaluations_over_steps": self.work,
            "network_calls": self.network_calls,
            "jvps": self.jvps,
            "largest_request": self.largest_request,
            "wall_time_s": self.seconds,
            "wall_times_s": list(self.wall_time),
            **{f"error_{k}": v for k, v in _summary(self.errors).items()},
            "errors": list(self.errors),
            "same_rounds_sequential": None
            if self.baseline_evaluations is None
            else {
                "evaluations": self.baseline_evaluations,
                **{f"error_{k}": v for k, v in _summary(self.baseline_errors).items()},
                "errors": list(self.baseline_errors),
            },
            "status": list(self.status),
            "failed": self.failed,
            "failure": self.failure,
        }


@attrs.frozen(eq=False, kw_only=True)
class Comparison:
    """The rows of a comparison, the sequential sampler's first.

    Attributes:
        rows: one per sampler.
        steps: N.
        scheme: its name.
        samples: how many, over all problems.
        one_at_a_time: whether each sample was solved alone.
        repeats: timings per row.
    """

    rows: tuple[Row, ...]
    steps: int
    scheme: str
    samples: int
    one_at_a_time: bool
    repeats: int

    @property
    def ok(self) -> bool:
        """Whether every sample of every sampler reached the last node."""
        return not any(row.failed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the samples, ready for JSON."""
        return {
            "scheme": self.scheme,
            "steps": self.steps,
            "samples": self.samples,
            "one_at_a_time": self.one_at_a_time,
            "repeats": self.repeats,
            "rows": [row.as_dict() for row in self.rows],
        }

    def table(self) -> Table:
        """The rows for a terminal (rich)."""
        from rich.table import Table

        how = "one at a time" if self.one_at_a_time else "in one batch"
        table = Table(
            title=f"{self.scheme}, {self.steps} steps, {self.samples} samples {how}",
            caption="error, p95, max: relative root-mean-square distance to the sequential sample; rounds: network "
            "calls in a row; wall: all samples, nothing subtracted; same rounds sequential: mean error of as many "
            "sequential evaluations, extrapolated in between (2nd order)",
            caption_justify="left",
        )
        table.add_column("sampler", no_wrap=True)
        for head in (
            "window",
            "rounds",
            "speed-up",
            "evals/N",
            "wall s",
            "error",
            "p95",
            "max",
            "same rounds\nsequential",
        ):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("status")
        for row in self.rows:
            table.add_row(*_cells(row))
        return table


def _cells(row: Row) -> list[str]:
    error, rival = _summary(row.errors), _summary(row.baseline_errors)
    rounds = "-"
    if row.rounds:
        mean, most = float(np.mean(row.rounds)), max(row.rounds)
        rounds = f"{most}" if mean == most else f"{mean:.1f} (max {most})"
    counts = {s: row.status.count(s) for s in dict.fromkeys(row.status)}
    status = ", ".join(s if n == len(row.status) else f"{n} {s}" for s, n in counts.items())
    return [
        row.sampler,
        "-" if row.window is None else str(row.window),
        rounds,
        "-" if row.speedup is None else f"{row.speedup:.2f}",
        "-" if row.work is None else f"{row.work:.2f}",
        "-" if row.seconds is None else f"{row.seconds:.2f}",
        *(_short(error[k]) for k in ("mean", "p95", "max")),
        _short(rival["mean"]),
        status,
    ]


def _short(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.2g}"


def _summary(errors: tuple[float | None, ...]) -> dict[str, float | None]:
    """Mean, 95th percentile and maximum of what is there."""
    there = [e for e in errors if e is not None]
    if not there:
        return {"mean": None, "p95": None, "max": None}
    return {"mean": float(np.mean(there)), "p95": float(np.quantile(there, 0.95)), "max": max(there)}
