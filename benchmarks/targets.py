"""The default sampler on many seeds: ``python benchmarks/targets.py [--seeds 16] [--jobs 2]``.

Digits at the main setting (guidance 4, N = 50, 1 %; sixteen times the seeds), and by other error targets, numbers of
steps and guidance scales. Seeds are solved as one batch, since decisions are per sample: rounds and errors are those of
single samples. Written to ``benchmarks/results/targets.json``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits_seeds import digits_seeds

import paracore
from paracore.cli.output import versions
from paracore.harness import Bench

RESULTS = Path(__file__).parent / "results" / "targets.json"
FIRST_SEED = 230000
BATCH = 16
MAIN = 0.01
Case = tuple[int, float, int, float]
"""Window, guidance, N, target."""


def cases() -> list[Case]:
    """All that is measured."""
    found: list[Case] = [(w, 4.0, 50, MAIN) for w in (2, 4, 8, 16)]
    found += [(w, 4.0, 50, t) for t in (0.05, 0.002) for w in (2, 4, 8, 16)]
    found += [(w, 4.0, 100, 0.01) for w in (4, 8, 16)]
    return found + [(w, g, 50, 0.01) for g in (1.0, 7.0) for w in (2, 4, 8, 16)]


def measure(job: tuple[Case, int]) -> dict[str, Any]:
    """One case over all seeds."""
    (window, guidance, steps, target), seeds = job
    if (guidance, steps, target) == (4.0, 50, MAIN):
        seeds *= 16
    torch.set_num_threads(1)
    rounds: list[int] = []
    errors: list[float] = []
    evaluations: list[int] = []
    for begin in range(0, seeds, BATCH):
        numbers = range(FIRST_SEED + begin, FIRST_SEED + min(begin + BATCH, seeds))
        bench = Bench(*digits_seeds(numbers, guidance, steps))
        row = bench.measure("default", paracore.sampler(window=window, tolerance=target))
        rounds += row.rounds
        errors += [float("nan") if e is None else e for e in row.errors]
        evaluations += row.evaluations
    return {
        "window": window,
        "guidance": guidance,
        "steps": steps,
        "target": target,
        "seeds": seeds,
        "speedup": steps / float(np.mean(rounds)),
        "evaluations": float(np.mean(evaluations)) / steps,
        "mean": float(np.mean(errors)),
        "p95": float(np.quantile(errors, 0.95)),
        "max": float(np.max(errors)),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(measure, [(case, asked.seeds) for case in cases()]):
            rows.append(row)
            print(json.dumps(row), flush=True)
    RESULTS.write_text(json.dumps({"versions": versions(), "first_seed": FIRST_SEED, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
