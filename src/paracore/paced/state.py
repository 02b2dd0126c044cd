"""What changes from round to round, and its form as plain data."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.checkpoint import from_plain, problem_digest, to_plain
from paracore.errors import CheckpointError
from paracore.paced.tracks import Track, packed, unpacked
from paracore.problem import NoiseTape, Problem
from paracore.result import RoundTrace
from paracore.status import Status
from paracore.window import Bools, Floats, Ints

__all__ = ["PacedState", "from_data", "to_data"]


@attrs.frozen(eq=False, kw_only=True)
class PacedState:
    """Everything that changes."""

    problem: Problem
    tape: NoiseTape
    tracks: tuple[Track, ...]
    """In order of priority; the first is the exact chain."""
    memory: dict[str, Any]
    """What the method keeps beside its tracks."""
    front: Ints
    status: Ints
    rounds: Ints
    evaluations: Ints
    hits: Ints
    """``(B,)`` complete samples so far."""
    residual: Floats
    last: torch.Tensor
    """``(B, *event)`` newest complete sample, where ``seen``."""
    seen: Bools
    final: torch.Tensor
    calls: int = 0
    largest: int = 0
    total_rounds: int = 0
    trajectory: torch.Tensor | None = None
    trace: tuple[RoundTrace, ...] | None = None
    newest: torch.Tensor | None = None
    preview: bool = False

    @property
    def running(self) -> Bools:
        """``(B,)`` samples not finished."""
        return np.asarray(self.status == Status.RUNNING, dtype=np.bool_)


def to_data(owner: str, state: PacedState) -> dict[str, Any]:
    """The state as numbers, tensors, lists and dicts."""
    apart = ("problem", "tape", "trace")
    fields = {
        name: to_plain(packed(getattr(state, name))) for name in attrs.fields_dict(PacedState) if name not in apart
    }
    fields["trace"] = None if state.trace is None else [to_plain(attrs.asdict(t)) for t in state.trace]
    fields["tape"] = to_plain(state.tape.plain())
    fields["composition"] = owner
    fields["problem"] = problem_digest(state.problem)
    return fields


def from_data(owner: str, problem: Problem, data: dict[str, Any]) -> PacedState:
    """The state that :meth:`plain` described.

    Raises:
        CheckpointError: if the data belongs to another sampler or problem, or is damaged.
    """
    if data.get("composition") != owner:
        raise CheckpointError(f"the checkpoint was made by {data.get('composition')}; this sampler is {owner}")
    if data.get("problem") != problem_digest(problem):
        raise CheckpointError(
            f"the checkpoint belongs to another problem than {problem.scheme!r} with x0 {tuple(problem.x0.shape)} "
            f"{problem.x0.dtype}: scheme, x0, generator or lockstep differ; pass the same ones"
        )
    apart = ("composition", "problem", "tape", "trace")
    try:
        fields = {k: unpacked(from_plain(v)) for k, v in data.items() if k not in apart}
        trace = data["trace"]
        fields["trace"] = None if trace is None else tuple(RoundTrace(**from_plain(t)) for t in trace)
        tape = problem.tape()
        tape.restore(from_plain(data["tape"]))
        if fields["final"].shape != problem.x0.shape:
            raise CheckpointError(f"the checkpoint's samples are {tuple(fields['final'].shape)}")
        return PacedState(problem=problem, tape=tape, **fields)
    except CheckpointError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint is damaged: {type(error).__name__}: {error}") from error
