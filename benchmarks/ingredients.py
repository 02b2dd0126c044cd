"""What each ingredient does: ``python benchmarks/ingredients.py [--jobs 2]``.

Three questions, written to ``benchmarks/results/ingredients.json`` and from there into docs/samplers/ropa.md:

* ``added``: the seed paper's ingredients, each added to ``picard`` by itself (digits, window 8);
* ``left_out``: the default sampler with one ingredient of its own left out (digits, windows 2, 4, 8);
* ``forms``: the default sampler by the quantity that is held while states move (mixtures, other schedules).
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from grid import TASKS, prepare

import paracore
from paracore.cli.output import versions
from paracore.errors import ParacoreError

RESULTS = Path(__file__).parent / "results" / "ingredients.json"
SEEDS = 8
DIGITS = "digits g=4, flow-euler 50"
MIXTURES = [f"{model}, {s}" for model in ("mnist-mixture g=4", "two-mode") for s in ("ddim 100", "ddpm 100")]
MIXTURES += [f"{model}, dpm-solver-pp-2m 25" for model in ("mnist-mixture g=4", "two-mode")]
PLAIN = 'stopping="error-target"'
Options = dict[str, Any]

ADDED: list[tuple[str, Options]] = [
    ("nothing (`picard`)", {}),
    ("adaptive look-ahead, `start=1`, banded Jacobian", {"residual": "adaptive-look-ahead", "jacobian": "banded"}),
    ("adaptive look-ahead, `start=4`, J = I", {"residual": "adaptive-look-ahead(start=4)"}),
    ("damping `gain-ratio`", {"damping": "gain-ratio"}),
    ("damping `l-curve`", {"damping": "l-curve"}),
    ("damping `step-ratio`", {"damping": "step-ratio"}),
    ("correction `lml(scaling=unit)`", {"preconditioner": "lml(scaling=unit)"}),
    ("correction `lml(scaling=norm-preserving)`", {"preconditioner": "lml(scaling=norm-preserving)"}),
    ("correction `lml(scaling=paper)`", {"preconditioner": "lml(scaling=paper)"}),
    ("secants of each node, `secant(memory=2)`", {"jacobian": "secant(memory=2)"}),
    ("adaptive sparsity, `residual-sparsity(widest=0)`", {"selection": "residual-sparsity(widest=0)"}),
]
LEFT_OUT: list[tuple[str, Options]] = [
    ("nothing (`ropa`)", {}),
    ("sparsity (`widest=1`)", {"widest": 1}),
    ('secants (`correction="none"`)', {"correction": "none"}),
    (f"its own shares (`{PLAIN}`)", {"stopping": "error-target"}),
    ("all three (`picard`)", {"sampler": "picard"}),
]
FORMS = ("network", "drift", "data", "velocity", "auto")
Job = tuple[str, str, str, int, Options]
"""Table, name, problem, window, options."""


def jobs() -> list[Job]:
    """All that is measured."""
    found: list[Job] = [("added", name, DIGITS, 8, {"sampler": "picard", **o}) for name, o in ADDED]
    found += [("left_out", name, DIGITS, w, {"sampler": "ropa", **o}) for name, o in LEFT_OUT for w in (2, 4, 8)]
    found += [("forms", f, p, w, {"sampler": "ropa", "form": f}) for p in MIXTURES for w in (2, 8) for f in FORMS]
    return found


@functools.cache
def task(problem: str) -> Any:
    """The grid's task of that name, its samples as one batch."""
    return attrs.evolve(next(t for t in TASKS if t.name == problem), seeds=SEEDS, alone=False)


def measure(job: Job) -> dict[str, Any]:
    """One row."""
    table, name, problem, window, options = job
    torch.set_num_threads(1)
    given = dict(options)
    record: dict[str, Any] = {"table": table, "name": name, "problem": problem, "window": window, "refused": None}
    try:
        sampler = paracore.sampler(given.pop("sampler"), window=window, **given)
        row = prepare(task(problem), SEEDS).bench.measure(name, sampler)
    except ParacoreError as error:
        return {**record, "refused": " ".join(str(error).split())}
    if row.failure is not None:
        return {**record, "refused": row.failure}
    errors = [float("nan") if e is None else e for e in row.errors]
    return {
        **record,
        "seeds": SEEDS,
        "speedup": task(problem).steps / float(np.mean(row.rounds)),
        "evaluations": float(np.mean(row.evaluations)) / task(problem).steps,
        "mean": float(np.mean(errors)),
        "p95": float(np.quantile(errors, 0.95)),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(measure, jobs()):
            rows.append(row)
            print(json.dumps(row), flush=True)
    RESULTS.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
