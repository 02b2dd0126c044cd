"""Shared by the scheme tests: a smooth nonlinear network, and a sampler in plain loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from paracore.problem import Problem
from paracore.schemes import Scheme

Network = Callable[[torch.Tensor, float], torch.Tensor]
Sweep = Callable[..., list[torch.Tensor]]


@pytest.fixture(scope="session")
def network() -> Network:
    """Two tanh layers that mix all entries of a sample, and an embedding of the time."""
    generator = torch.Generator().manual_seed(7)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    first, second, phase = draw(6, 16) / 2, draw(16, 6) / 4, draw(16)

    def evaluate(x: torch.Tensor, time: float) -> torch.Tensor:
        frequency = torch.arange(1, 17, dtype=torch.float64) / 16
        hidden = torch.tanh(x.double() @ first + torch.sin(frequency * (time % 37.0) + phase))
        return (torch.tanh(hidden @ second) + 0.3 * torch.tanh(x.double())).to(x.dtype)

    return evaluate


@pytest.fixture(scope="session")
def sweep() -> Sweep:
    """``x_0 .. x_N`` in plain loops; ``f(x, node)`` is the network, ``outputs`` collects what it returned."""

    def run(
        scheme: Scheme,
        f: Callable[[torch.Tensor, int], torch.Tensor],
        x0: torch.Tensor,
        *,
        generator: torch.Generator | None = None,
        outputs: list[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        tape = Problem(scheme, x0, generator).tape()
        states, seen = [x0], [] if outputs is None else outputs
        for node in range(scheme.steps):
            seen.append(f(states[-1], node))
            states.append(scheme.step(node, states[::-1], seen[::-1], tape.row(node)))
        return states

    return run
