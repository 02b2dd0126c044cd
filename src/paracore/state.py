"""The engine's state: plain data between two requests."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import attrs
import numpy as np
import torch

from paracore.problem import NoiseTape, Problem
from paracore.result import RoundTrace
from paracore.status import Status
from paracore.strategies import Krylov
from paracore.window import Bools, Floats, Ints, Local, Round

__all__ = ["RUNNING", "EngineState", "Pending"]

RUNNING = int(Status.RUNNING)
"""A plain number: an enumeration's members are slow to reach."""


@attrs.frozen(eq=False, kw_only=True, slots=False)
class EngineState:
    """Everything that changes. Rows are relative to ``at``; arrays ``(P, B)`` or ``(B,)``."""

    problem: Problem
    tape: NoiseTape
    at: Ints
    """``(B,)`` node of window row 0: the front of running samples; finished ones are carried along."""
    front: Ints
    status: Ints
    rounds: Ints
    evaluations: Ints
    interpolated: Ints
    inexact: Bools
    residual: Floats
    final: torch.Tensor
    states: list[torch.Tensor]
    outputs: list[torch.Tensor]
    anchors: list[torch.Tensor]
    forecast: list[torch.Tensor] | None
    """P outputs that a Jacobian part expects at the rows' states; ``None``: the held ones."""
    age: Ints
    reach: Floats
    """``(P, B)`` root-mean-square distance of each row's state from its anchor; NaN: not known."""
    mask: Bools
    tangents: torch.Tensor | None
    past_x: list[torch.Tensor]
    past_f: list[torch.Tensor]
    parts: dict[str, Any]
    calls: int = 0
    largest: int = 0
    total_rounds: int = 0
    trajectory: torch.Tensor | None = None
    trace: tuple[RoundTrace, ...] | None = None
    newest: torch.Tensor | None = None
    """Data prediction at the newest accepted node, if previews were asked for."""
    preview: bool = False
    krylov: Pending | None = None

    def but(self, **changes: Any) -> EngineState:
        """A copy with some fields changed; ``attrs.evolve`` costs more than a small network's whole round may."""
        new = object.__new__(EngineState)
        new.__dict__.update(self.__dict__, **changes)
        if "status" in changes:
            new.__dict__.pop("running", None)
        return new

    @cached_property
    def running(self) -> Bools:
        """``(B,)`` samples not finished."""
        return np.asarray(self.status == RUNNING, dtype=np.bool_)


@attrs.define(eq=False)
class Pending:
    """A linear solve that asks for Jacobian-vector products; not part of a checkpoint."""

    round: Round
    local: Local | None
    accepted: Ints
    exact: Bools
    used: list[torch.Tensor]
    generator: Krylov
    tangents: torch.Tensor
    who: Bools
