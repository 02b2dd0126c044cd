"""The pipeline's iteration over its timesteps."""

from __future__ import annotations

from typing import Protocol

import attrs
import torch

__all__ = ["Loop"]


class Visits(Protocol):
    """The session, as the loop sees it."""

    def entering(self, loop: Loop) -> None:
        """An iteration before the scheduler was stepped."""
        ...

    def next_node(self, loop: Loop) -> int:
        """The node of the next iteration; ``StopIteration`` at the end."""
        ...


@attrs.define(eq=False)
class Loop:
    """An ordinary iteration until the scheduler is stepped; from there on it visits what the session asks for.

    Attributes:
        session: says what comes next.
        times: the timesteps, one per node.
        node: the node being visited.
        stepped: the scheduler was stepped in this iteration.
        own: the session has taken over.
    """

    session: Visits
    times: list[torch.Tensor]
    node: int = -1
    stepped: bool = True
    own: bool = False

    def __iter__(self) -> Loop:
        return self

    def __next__(self) -> torch.Tensor:
        if self.own:
            self.node = self.session.next_node(self)
        else:
            self.node += 1
            if self.node >= len(self.times):
                raise StopIteration
            self.session.entering(self)
        return self.times[self.node]
