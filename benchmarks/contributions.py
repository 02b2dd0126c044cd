"""What each part of a solve adds to its error: ``python benchmarks/contributions.py [--window 8] [--before]``.

Digits, 50 flow-matching steps, error target 1 %, the default sampler. Its accepted trajectory is continued sequentially
from several of its nodes; two of these samples differ by what the accepted rows between those nodes added. Beside that,
what the error target charged for them. ``--before`` takes the default sampler without what followed from this table:
no ``tilt``, and no ``clean`` charge; ``--factor`` scales its shares.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import attrs
import numpy as np
import torch
from digits_seeds import digits_seeds

import paracore
from paracore.parts import ErrorTarget
from paracore.sequential import sequential

STEPS, BATCH = 50, 32
CUTS = (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 48, 50)


@attrs.frozen(eq=False)
class Reading(ErrorTarget):
    """The rule, noting what it charges for accepted rows in ``charged``, ``(N, B)``."""

    charged: Any = None

    def observe(self, round: Any, accepted: Any, state: Any) -> Any:
        """As the rule does."""
        moves, _ = self._look(round, state)
        for b, count in enumerate(accepted):
            rows = np.arange(count)
            self.charged[round.window.nodes[rows, b], b] = moves[rows, b]
        return super().observe(round, accepted, state)


def continued(problem: paracore.Problem, evaluator: paracore.Evaluator, x: torch.Tensor, front: int) -> torch.Tensor:
    """The sample that the sequential sampler makes of states at a node."""
    scheme, samples = problem.scheme, torch.arange(problem.batch)
    for node in range(front, STEPS):
        nodes = torch.full_like(samples, node)
        request = paracore.Request(nodes, samples, x, torch.from_numpy(scheme.time)[nodes])
        x = scheme.step(node, [x], [evaluator.evaluate(request).values], None)
    return x


def measure(first: int, count: int, guidance: float, window: int, rule: ErrorTarget) -> dict[str, Any]:
    """Shares of one batch, relative to its samples: added and charged ``(cuts, B)``, errors and rounds ``(B,)``."""
    problem, evaluator = digits_seeds(range(first, first + count), guidance, STEPS)
    charged = np.zeros((STEPS, count))
    reading = Reading(**attrs.asdict(rule), charged=charged)
    sampler = paracore.sampler(window=window, stopping=reading)
    result = paracore.solve(sampler, problem, evaluator, trajectory=True)
    assert result.trajectory is not None
    ends = [continued(problem, evaluator, result.trajectory[node], node) for node in CUTS]
    exact = sequential(problem, evaluator)
    size = exact.flatten(1).norm(dim=1)
    return {
        "added": np.stack([((b - a).flatten(1).norm(dim=1) / size).numpy() for a, b in itertools.pairwise(ends)]),
        "charged": np.stack([charged[a:b].sum(axis=0) for a, b in itertools.pairwise(CUTS)]),
        "error": ((result.sample - exact).flatten(1).norm(dim=1) / size).numpy(),
        "rounds": np.asarray(result.rounds),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--first", type=int, default=31000, help="first seed")
    parser.add_argument("--before", action="store_true", help="without what followed from this table")
    parser.add_argument("--trust", type=float, help="the rule's, instead of its own")
    parser.add_argument("--factor", type=float, default=1.0, help="scales the rule's shares")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rule = paracore.sampler(window=asked.window).composition.stopping
    if asked.before:
        rule = attrs.evolve(rule, tilt=0.0, clean=0.0)
    if asked.trust is not None:
        rule = attrs.evolve(rule, trust=asked.trust)
    rule = attrs.evolve(rule, row=rule.row * asked.factor, total=rule.total * asked.factor)
    parts = [
        measure(asked.first + at, min(BATCH, asked.seeds - at), asked.guidance, asked.window, rule)
        for at in range(0, asked.seeds, BATCH)
    ]
    found = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    error = found["error"]
    print(
        f"{STEPS / found['rounds'].mean():.2f}x, error mean {error.mean():.2%}, 95th percentile "
        f"{np.quantile(error, 0.95):.2%}, largest {error.max():.2%}"
    )
    for at, (added, charged) in enumerate(zip(found["added"], found["charged"], strict=True)):
        ratio = charged.mean() / max(added.mean(), 1e-12)
        print(
            f"nodes {CUTS[at]:2d} to {CUTS[at + 1]:2d}: added {added.mean():.3%} (95th percentile "
            f"{np.quantile(added, 0.95):.3%}), charged {charged.mean():.3%}, {ratio:.1f} times as much"
        )


if __name__ == "__main__":
    main()
