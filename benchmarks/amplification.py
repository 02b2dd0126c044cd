"""What an accepted output's gap makes of the sample: ``python benchmarks/amplification.py [--guidance 4]``.

Digits, 50 flow-matching steps. From an exact front, rows are accepted whose outputs were evaluated a ``gap`` away from
the states they are used at; from the last of them on everything is exact again. Printed is the error of the sample over
the sum of ``reach * gap / |x|``: what the error target (docs/mathematics.md) calls ``L exp(...)``, and beside it, for
the first two rounds of a solve, what the default rule takes it for.

* ``first round``: states guessed before any output was known (the front scaled to each node's noise level).
* ``second round``: from node 1, states of the chain through the first round's outputs.
* ``from node n``: the states that holding the output before ``n`` gives, and one iteration later.
"""

from __future__ import annotations

import argparse
from typing import Any

import attrs
import numpy as np
import torch
from digits_seeds import digits_seeds

import paracore
from paracore.parts import ErrorTarget

STEPS, FIRST_SEED, ROWS = 50, 21000, 6
FRONTS = (1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41)


class Digits:
    """The network at single nodes, and its exact trajectory."""

    def __init__(self, guidance: float, seeds: int) -> None:
        problem, self.evaluator = digits_seeds(range(FIRST_SEED, FIRST_SEED + seeds), guidance, STEPS)
        self.scheme, self.start, self.rows = problem.scheme, problem.x0, torch.arange(seeds)
        self.reach = self.scheme.output_reach()[0]
        self.exact, self.outputs = [self.start], list[torch.Tensor]()
        for node in range(STEPS):
            self.outputs.append(self.network(node, self.exact[-1]))
            self.exact.append(self.step(node, self.exact[-1], self.outputs[-1]))

    def network(self, node: int, x: torch.Tensor) -> torch.Tensor:
        """``(B, *event)``."""
        nodes = torch.full_like(self.rows, node)
        request = paracore.Request(nodes, self.rows, x, torch.from_numpy(self.scheme.time)[nodes])
        return self.evaluator.evaluate(request).values

    def step(self, node: int, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """One step of the table."""
        return self.scheme.a[node, 0] * x + self.scheme.b[node, 0] * output

    def chain(self, front: int, x: torch.Tensor, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """States from the front on."""
        states = [x]
        for i, output in enumerate(outputs):
            states.append(self.step(front + i, states[-1], output))
        return states

    def evaluated(self, front: int, states: list[torch.Tensor]) -> list[torch.Tensor]:
        """Outputs at given states."""
        return [self.network(front + i, x) for i, x in enumerate(states)]

    def ratio(self, front: int, used: list[torch.Tensor], anchors: list[torch.Tensor], rows: int) -> float:
        """Mean error over mean linear estimate, if ``rows`` rows from the front on are accepted."""
        x = used[rows]
        for node in range(front + rows, STEPS):
            x = self.step(node, x, self.network(node, x))
        gaps = sum(self.reach[front + i] * _size(used[i] - anchors[i]) for i in range(1, rows))
        return float(_size(x - self.exact[-1]).mean() / np.mean(gaps))


def _size(x: torch.Tensor) -> np.ndarray[Any, Any]:
    return x.flatten(1).norm(dim=1).numpy()


def assumed(digits: Digits) -> list[float]:
    """What the default rule takes it for in the first two rounds, at the first row with a gap."""
    seen: list[float] = []

    @attrs.frozen(eq=False)
    class Reading(ErrorTarget):
        def converged(self, round: Any, state: Any) -> Any:
            moves, _ = self._look(round, state)
            gap = digits.reach[round.window.nodes[1]] * round.gap[1] / round.size[1]
            seen.append(float(np.mean(moves[1]) / np.mean(gap)))
            return np.zeros(round.gap.shape, dtype=np.bool_)

    sampler = paracore.compose(window=8, stopping=Reading())
    problem = paracore.Problem(digits.scheme, digits.start)
    state = sampler.start(problem)
    for _ in range(2):
        state = sampler.advance(state, digits.evaluator.evaluate(sampler.request(state)))
    return seen


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = Digits(arguments.guidance, arguments.seeds)
    sigma = digits.scheme.levels.sigma
    first, second = assumed(digits)
    guesses = [digits.start * float(sigma[n] / sigma[0]) for n in range(ROWS + 1)]
    chain = digits.chain(0, digits.start, digits.evaluated(0, guesses))
    ratios = " / ".join(f"{digits.ratio(0, chain, guesses, rows):.1f}" for rows in (2, 3, 4))
    print(f"first round, 2 / 3 / 4 rows: {ratios}; the rule takes {first:.0f}")
    later = digits.chain(1, digits.exact[1], digits.evaluated(1, chain[1:]))
    found = [digits.ratio(1, later, chain[1:], rows) for rows in (3, 4, 5)]
    print(
        f"second round, 3 / 4 / 5 rows: {found[0]:.1f} / {found[1]:.1f} / {found[2]:.1f}; the rule takes {second:.0f}"
    )
    for front in FRONTS:
        held = digits.chain(front, digits.exact[front], [digits.outputs[front - 1]] * ROWS)
        once = digits.chain(front, digits.exact[front], digits.evaluated(front, held))
        twice = digits.chain(front, digits.exact[front], digits.evaluated(front, once))
        pair = digits.ratio(front, once, held, ROWS), digits.ratio(front, twice, once, ROWS)
        print(f"from node {front}, {ROWS} rows: {pair[0]:.1f}, one iteration later {pair[1]:.1f}", flush=True)


if __name__ == "__main__":
    main()
