"""What the listing in ROPA's appendix does on a linear score: ``python benchmarks/ropa_listing.py [--out FILE]``.

A transcription for comparison, not a method of this library: the presets are in ``plugins/paracore_ropa``. The network
returns the score ``-x`` of a standard normal, the printed integrator follows ``dx/dt = -score`` from 1 to 0, so the
sequential answer is ``(1 - 1/T)^T`` times the noise. Every variant starts from the same noise.

* ``as printed``: row ``n`` of the residuals belongs to ``x_{n-1}``, the update moves ``x_n``, and so the fixed noise.
* ``index mended``: the residual moves the state that it belongs to; the noise stays.
* ``mended, no damping``: the same with all factors 0: a Jacobi iteration, exact after T rounds.

The correction is left on as the listing has it (``gamma = 0.85``, signed alignment, its own network calls); with the
linear score it can act on every row. ``calls`` counts network calls of one row each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import attrs
import torch

W_MAX, GAMMA, TOLERANCE = 8, 0.85, 1e-3
FIRST_FACTOR, LOWEST, HIGHEST = 1e-2, 1e-4, 1e2


@attrs.define
class Listing:
    """The loop of the listing.

    Attributes:
        rate: the score is ``-rate * x``.
        mended: move the state that a residual belongs to.
        damped: adapt factors as printed; else they stay 0.
        corrected: call the curvature correction.
    """

    rate: float = 1.0
    mended: bool = False
    damped: bool = True
    corrected: bool = True
    calls: int = 0

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """One network call."""
        self.calls += 1
        return -self.rate * x

    def step(self, x: torch.Tensor, now: float, before: float) -> torch.Tensor:
        """``x + (before - now) * (-score)``: the printed integrator."""
        return x + (before - now) * -self.score(x)

    def correct(self, x: torch.Tensor, residual: torch.Tensor, factor: float) -> torch.Tensor:
        """The printed preconditioner, its alignment signed and averaged over the batch; ``g = 1``."""
        s = self.score(x)
        along = (residual * s).sum(-1)
        size = residual.norm(dim=-1) * s.norm(dim=-1) + 1e-8
        if (along / size).mean() < GAMMA:
            return residual
        square = (s**2).sum(-1, keepdim=True)
        factor = min(max(factor, LOWEST), HIGHEST)
        first = 1.0 / (factor * (square + 1e-8))
        second = 1.0 / (factor * (square * (factor + square) + 1e-8))
        return first * residual - second * (residual * s).sum(-1, keepdim=True) * s

    def run(self, noise: torch.Tensor, guess: torch.Tensor, times: list[float], rounds: int) -> dict[str, Any]:
        """Iterate from ``guess (T + 1, B, d)``, whose last row is replaced by the noise.

        Returns:
            What happened: rounds, network calls, status, the iterate ``x_0``.
        """
        count = len(times) - 1
        x = guess.clone()
        x[-1] = noise
        factor = [FIRST_FACTOR if self.damped else 0.0] * (count + 1)
        width = [1] * (count + 1)
        previous: list[float] | None = None
        start = None
        for k in range(rounds):
            residual = [x[0] * 0.0]
            residual += [x[n - 1] - self.step(x[n], times[n], times[n - 1]) for n in range(1, count + 1)]
            norms = [float(r.norm(dim=-1).mean()) for r in residual]
            mean = sum(norms) / len(norms)
            start = mean if start is None else start
            active = [n for n in range(1, count + 1) if norms[n] > TOLERANCE]
            if mean < TOLERANCE or not active:
                return {"status": "converged", "rounds": k, "x": x}
            if not mean < 1e6 * max(start, 1.0):
                return {"status": "diverged", "rounds": k, "x": x}
            among = sum(norms[n] for n in active) / len(active)
            for n in active:  # kept for completeness: the printed widths are used nowhere
                width[n] = min(width[n] + 1, W_MAX) if norms[n] > 1.5 * among else width[n]
                width[n] = max(width[n] - 1, 1) if norms[n] < 0.7 * among else width[n]
            if previous is not None and self.damped:
                for n in range(1, count + 1):
                    if previous[n] <= 0:
                        continue
                    gain = (previous[n] - norms[n]) / previous[n]
                    if gain < 0.1:
                        factor[n] = min(2.0 * factor[n], HIGHEST)
                    elif gain > 0.5:
                        factor[n] = max(0.5 * factor[n], LOWEST)
            for n in active:
                moved = self.correct(x[n], residual[n], factor[n]) if self.corrected else residual[n]
                x[n - 1 if self.mended else n] -= moved / (1.0 + factor[n])
            previous = norms
        return {"status": "stalled", "rounds": rounds, "x": x}

    def sequential(self, noise: torch.Tensor, times: list[float]) -> torch.Tensor:
        """The same integrator, one step after another."""
        x = noise
        for n in range(len(times) - 1, 0, -1):
            x = self.step(x, times[n], times[n - 1])
        return x


VARIANTS: dict[str, dict[str, bool]] = {
    "as printed": {"corrected": True},
    "as printed, no correction": {"corrected": False},
    "index mended": {"mended": True},
    "index mended, no correction": {"mended": True, "corrected": False},
    "mended, no damping, no correction": {"mended": True, "damped": False, "corrected": False},
}


def measure(count: int, rounds: int, dim: int, seed: int) -> list[dict[str, Any]]:
    """All variants at one number of steps."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(4, dim, generator=generator, dtype=torch.float64)
    guess = torch.randn(count + 1, 4, dim, generator=generator, dtype=torch.float64)
    times = [n / count for n in range(count + 1)]
    exact = Listing().sequential(noise, times)
    rows = []
    for name, options in VARIANTS.items():
        listing = Listing(**options)
        found = listing.run(noise, guess, times, rounds)
        error = float((found["x"][0] - exact).norm() / exact.norm())
        moved = float((found["x"][-1] - noise).norm() / noise.norm())
        rows.append(
            {
                "steps": count,
                "variant": name,
                "status": found["status"],
                "rounds": found["rounds"],
                "calls": listing.calls,
                "error": error if error == error and error < 1e300 else None,
                "noise_moved_by": moved if moved == moved and moved < 1e300 else None,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=400, help="most rounds (the listing's own limit is 20)")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="write JSON here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for t in (10, 20, 50) for row in measure(t, arguments.rounds, arguments.dim, arguments.seed)]
    print(f"{'T':>3}  {'variant':34}  {'status':10} {'rounds':>6} {'calls':>7} {'error':>9}  noise moved by")
    for r in rows:
        error = "overflow" if r["error"] is None else f"{r['error']:.2e}"
        moved = "overflow" if r["noise_moved_by"] is None else f"{r['noise_moved_by']:.2e}"
        line = (
            f"{r['steps']:3d}  {r['variant']:34}  {r['status']:10} {r['rounds']:6d} {r['calls']:7d} {error:>9}  {moved}"
        )
        print(line)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
