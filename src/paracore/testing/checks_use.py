"""Checks of precision, of edges, and of being of some use."""

from __future__ import annotations

from typing import Any

import torch

from paracore.testing.drive import CheckFailure
from paracore.testing.hosts import cases, trials
from paracore.testing.runs import (
    easy_cases,
    run,
)
from paracore.testing.subject import subject_of

__all__ = [
    "check_converges_on_linear",
    "check_dtype_kept",
    "check_runs_at_the_edges",
]


def check_dtype_kept(thing: Any) -> None:
    """States keep their dtype, in float32, float64 and half precision, and float64 is not rounded in between."""
    subject = subject_of(thing)
    for number, dtype in enumerate((torch.float32, torch.float64, torch.bfloat16, torch.float16)):
        for case in cases(kinds=("flow", "ddpm"), dtype=dtype, steps=6):
            for trial in trials(subject, case, tolerance=1e-2, hosts=1 + number % 2):
                found = run(trial)
                if found.result.sample.dtype != dtype:
                    raise CheckFailure(f"{trial.label}: the sample is {found.result.sample.dtype}, not {dtype}")
                if dtype == torch.float64:
                    _not_rounded([asked.states for asked in found.asked[1:]], trial.label)


def _not_rounded(requests: list[torch.Tensor], label: str) -> None:
    """Float64 numbers that all fit in float32 were rounded on the way; a few may, after a large cancellation."""
    rows, rounded = 0, 0
    for states in requests:
        for row in states.flatten(1):
            moved = row[torch.isfinite(row) & (row.abs() > 1e-6 * states.abs().max())]  # differences keep few bits
            rows += bool(len(moved))
            rounded += bool(len(moved)) and torch.equal(moved.float().double(), moved)
    if rounded > 0.2 * rows:
        raise CheckFailure(f"{label}: {rounded} of {rows} float64 states were rounded to float32 on the way")


def check_runs_at_the_edges(thing: Any) -> None:
    """Windows of one row, windows longer than the scheme, and schemes of one or two steps work."""
    subject = subject_of(thing)
    for steps, window in ((1, 1), (1, 4), (2, 4), (4, 1), (5, 20)):
        for number, case in enumerate(cases(kinds=("flow", "multistep", "table-noise"), steps=steps)):
            for trial in trials(subject, case, window=window, tolerance=1e-2, hosts=1 + number % 2):
                if not run(trial).result.ok:
                    raise CheckFailure(f"{trial.label}: no sample for each")
    (case,) = cases(kinds=("flow",), steps=4)
    if any(trials(subject, case, window=4, hosts=1)) and not any(trials(subject, case, window=1, hosts=1)):
        why = "; ".join(sorted(subject.memo.get("refusals", ()))[:2])
        raise CheckFailure(f"{subject.label}: a window of 1, which is sequential sampling, is refused: {why}")


def check_converges_on_linear(thing: Any) -> None:
    """On an easy linear system it keeps a small tolerance in fewer rounds than steps, at little more than Picard's."""
    subject = subject_of(thing)
    steps = 24
    for trial in (t for case in easy_cases(steps) for t in trials(subject, case, window=12, tolerance=1e-4, hosts=1)):
        found = run(trial)
        exact = trial.case.reference()
        error = float((found.result.sample - exact).norm() / exact.norm())
        if subject.is_strategy and len(found.asked) > MOST_ROUNDS * steps:
            raise CheckFailure(f"{trial.label}: {len(found.asked)} rounds for {steps} steps of an easy linear system")
        if not error <= MOST_ERROR:
            raise CheckFailure(f"{trial.label}: the sample is off by {error:.2g} (relative)")


MOST_ROUNDS, MOST_ERROR = 0.9, 2e-2
