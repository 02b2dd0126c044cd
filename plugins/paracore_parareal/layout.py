"""How N steps are cut into blocks, and each block into the jumps of its coarse solver."""

from __future__ import annotations

import itertools
import math

import attrs

from paracore.errors import ConfigurationError
from paracore.schemes import Scheme

__all__ = ["Layout", "layout"]


@attrs.frozen
class Layout:
    """The blocks of a scheme; block ``i`` goes from boundary ``i`` to boundary ``i + 1``.

    Attributes:
        coarse: ``coarse[i]`` the nodes at which block ``i``'s coarse solver starts, evaluates and ends.
        exact: ``exact[i]`` the first iterate whose state at boundary ``i`` is the sequential sampler's.
    """

    coarse: tuple[tuple[int, ...], ...]
    exact: tuple[int, ...]

    @property
    def blocks(self) -> int:
        """p."""
        return len(self.coarse)

    def begin(self, block: int) -> int:
        """First node of a block."""
        return self.coarse[block][0]

    def end(self, block: int) -> int:
        """First node after a block."""
        return self.coarse[block][-1]

    def trivial(self, block: int) -> bool:
        """Whether the coarse solver evaluates at every node of the block: it *is* the fine one."""
        return len(self.coarse[block]) - 1 == self.end(block) - self.begin(block)


def layout(owner: str, scheme: Scheme, blocks: int | None, coarse: int) -> Layout:
    """Blocks of (nearly) equal length, ``sqrt(N)`` of them unless told otherwise.

    Raises:
        ConfigurationError: for more blocks than steps, or more coarse evaluations than a block has steps.
    """
    steps = scheme.steps
    count = max(1, round(math.sqrt(steps))) if blocks is None else blocks
    if count > steps:
        raise ConfigurationError(f"{owner}: blocks is {count}, but scheme {scheme.name!r} has only {steps} steps")
    shortest = steps // count
    if coarse > shortest:
        raise ConfigurationError(
            f"{owner}: coarse is {coarse} evaluations a block, but the shortest of {count} blocks of scheme "
            f"{scheme.name!r} has {shortest} steps; use coarse of at most {shortest}, or fewer blocks"
        )
    bounds = [i * steps // count for i in range(count + 1)]
    cuts = [tuple(a + j * (b - a) // coarse for j in range(coarse + 1)) for a, b in itertools.pairwise(bounds)]
    exact = [0]
    for cut in cuts:  # a fine sweep from the exact state is exact; a coarse one only where it is the same sweep
        exact.append(exact[-1] + (coarse < cut[-1] - cut[0]))
    return Layout(tuple(cuts), tuple(exact))
