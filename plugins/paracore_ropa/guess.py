"""Initial guesses of noise, as the paper makes them."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.parts.options import integer
from paracore.strategies import Initializer
from paracore.window import Bools, Round, Window

__all__ = ["NoiseGuess"]


@attrs.frozen
class NoiseGuess(Initializer):
    """Entering states are standard normal noise, whatever the noise level there (ROPA, Algorithm 1, line 1).

    One draw per node, the same for all samples, so that a sample does not depend on its batch mates. A poor guess: the
    state of a late node is data, and the window has to unlearn the noise first.

    Attributes:
        seed: of the draws.
    """

    seed: int = attrs.field(default=0, validator=integer(0))

    reference = "ROPA, Algorithm 1, line 1, and Section 4.1 (settings)"

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        """A draw for each node that enters."""
        out = list(window.state_rows)
        like = out[0]
        for r in range(1, window.rows + 1):
            if rows[r].any():
                nodes = np.minimum(window.front + r, window.scheme.steps)
                draws = {n: self._draw(n, like) for n in sorted(set(nodes.tolist()))}
                out[r] = torch.stack([draws[n] for n in nodes.tolist()]).to(like)
        return out

    def _draw(self, node: int, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + node)
        return torch.randn(like.shape[1:], generator=generator, dtype=torch.float64)
