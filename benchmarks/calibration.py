"""Is the error target kept? ``python benchmarks/calibration.py [--seeds 16] [--out calibration.json]``.

Solves digits, mixtures, Gaussians and stiff linear problems under the default stopping rule at several targets and
windows, and holds the error asked for against the error obtained: relative root-mean-square error of each sample
against the sequential sampler's. The two-mode mixture, whose samples sit at a bifurcation, is reported apart.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import paracore
from paracore import schemes

TARGETS = (0.05, 0.01, 0.002)
WINDOWS = (2, 4, 8, 16, 50)


def problems(names: list[str]) -> dict[str, tuple[paracore.Model, Any, float, int]]:
    """``name -> (model, scheme, guidance, samples per digits seed)``."""
    make = paracore.registry.make
    flow, shifted, vp = schemes.flow_euler(50), schemes.flow_euler(50, shift=3.0), schemes.ddim(50)
    table = {
        "digits g=4": ("digits", flow, 4.0, 1),
        "digits g=1": ("digits", flow, 1.0, 1),
        "digits shift=3": ("digits", shifted, 4.0, 1),
        "mixture flow": ("mixture", flow, 1.0, 4),
        "mixture flow g=4": ("mixture", flow, 4.0, 4),
        "mixture ddim": ("mixture", vp, 1.0, 4),
        "mixture dpm++2m": ("mixture", schemes.dpm_solver_pp_2m(50), 1.0, 4),
        "mixture edm heun": ("mixture", schemes.edm_heun(25), 1.0, 4),
        "mixture ddpm": ("mixture", schemes.ddpm(50), 1.0, 4),
        "gaussian flow": ("gaussian", flow, 1.0, 4),
        "gaussian ddim": ("gaussian", vp, 1.0, 4),
        "gaussian edm": ("gaussian", schemes.edm_euler(50), 1.0, 4),
        "linear": ("linear", flow, 1.0, 4),
        "ideal flow": ("ideal", flow, 1.0, 4),
        "two-mode flow": ("two-mode", flow, 1.0, 4),
    }
    chosen = {k: v for k, v in table.items() if not names or any(n in k for n in names)}
    return {k: (make("model", m), s, g, n) for k, (m, s, g, n) in chosen.items()}


def run(
    name: str, model: paracore.Model, scheme: Any, guidance: float, count: int, preset: str, windows: list[int]
) -> list[dict[str, Any]]:
    """All targets on one problem."""
    seeds = range(5000, 5000 + count)
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    start = scheme.levels.sigma[0] if scheme.levels is not None and scheme.levels.sigma[0] > 2 else 1.0
    x0 = torch.stack([torch.randn(model.shape, generator=g) for g in generators]) * start
    whole = "two-mode" in name  # with a label a sample would belong to one mode
    labels = torch.arange(count) % model.classes if model.classes and not whole else None
    evaluator = paracore.evaluators.batched(model.denoiser(scheme, labels, guidance), max_batch=64)
    problem = paracore.Problem(scheme, x0, generators if scheme.stochastic else None)
    exact = paracore.sequential(problem, evaluator)
    rows = []
    for window in windows:
        for target in TARGETS:
            began = time.perf_counter()
            sampler = paracore.sampler(preset, window=window, tolerance=target)
            result = paracore.solve(sampler, problem, evaluator, raise_on_failure=False)
            error = ((result.sample - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).double().numpy()
            rows.append(
                {
                    "problem": name,
                    "window": window,
                    "target": target,
                    "samples": count,
                    "mean": float(error.mean()),
                    "p95": float(np.quantile(error, 0.95)),
                    "max": float(error.max()),
                    "above_3x": int((error > 3 * target).sum()),
                    "estimate": float(np.mean(result.error_estimate)) if result.error_estimate is not None else None,
                    "speedup": float(scheme.steps / result.rounds.mean()),
                    "evaluations": float(result.evaluations.mean() / scheme.steps),
                    "failed": int(sum(s.failed for s in result.status)),
                    "seconds": time.perf_counter() - began,
                }
            )
            r = rows[-1]
            flag = " " if r["mean"] <= target else "!"
            print(
                f"{name:18s} p={window:3d} target {100 * target:5.2f} %  mean {100 * r['mean']:7.3f} %{flag} "
                f"p95 {100 * r['p95']:7.3f} % max {100 * r['max']:7.2f} %  >3x {r['above_3x']:2d}/{count}  "
                f"speed-up {r['speedup']:5.2f}  evals/N {r['evaluations']:.2f}",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only problems whose name contains one of these")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--preset", default="picard")
    parser.add_argument("--window", default=",".join(map(str, WINDOWS)), help="windows, separated by commas")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    windows = [int(w) for w in arguments.window.split(",")]
    rows: list[dict[str, Any]] = []
    for name, (model, scheme, guidance, more) in problems(arguments.names).items():
        rows += run(name, model, scheme, guidance, arguments.seeds * more, arguments.preset, windows)
    usual = [r for r in rows if "two-mode" not in r["problem"]]
    missed = [r for r in usual if r["mean"] > r["target"]]
    above, total = sum(r["above_3x"] for r in usual), sum(r["samples"] for r in usual)
    print(f"\n{len(usual) - len(missed)} of {len(usual)} means within the target; ", end="")
    print(f"{above} of {total} runs ({100 * above / max(total, 1):.2f} %) above three times the target")
    for r in missed:
        print(f"  missed: {r['problem']} p={r['window']} target {r['target']}: mean {r['mean']:.4f}")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
