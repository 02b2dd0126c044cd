"""The next iterate: the chain, or what damping, preconditioner or the Jacobian part's own solve make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paracore.chain import sweep_damped
from paracore.composition import Composition
from paracore.errors import StrategyError
from paracore.guard import calling, finite_rows, mask_from, named, numbers_from, rows_from
from paracore.state import EngineState
from paracore.strategies import JacobianApproximation, Krylov, ResidualConstruction
from paracore.window import Bools, Local, Round, where_rows

__all__ = ["adapted", "ask", "next_iterate", "review"]

MAX_REFUSALS = 1000
"""How often a linear solve may ask for rounds that it cannot have before that counts as a broken contract."""


def next_iterate(
    composition: Composition, state: EngineState, round: Round, local: Local | None
) -> list[torch.Tensor] | tuple[torch.Tensor, Bools, Krylov]:
    """The next iterate: the chain, or what damping, preconditioner or the Jacobian part's own solve make of it."""
    jacobian, preconditioner, damping = composition.jacobian, composition.preconditioner, composition.damping
    own = type(jacobian).solve is not JacobianApproximation.solve
    if not own and preconditioner.null and damping.null:
        return round.chain
    shape = round.age.shape
    following: list[torch.Tensor] | None = None
    again = round.window.running
    for _ in range(damping.retries + 1):
        if not damping.null:
            with calling("damping", damping, round):
                given = damping.factors(round, state.parts["damping"])
            factors = numbers_from("damping", damping, given, shape)
            round.damping = np.where(again[None, :], factors, round.damping)
        trial: Any = None
        if own:
            rhs = weights = None
            if jacobian.reads_residuals:
                rhs = right_hand_side(composition, state, round, look_ahead_residual(composition, round))
                following_state = adapted(composition, state, round)
                with calling("residual", composition.residual, round):
                    weights = composition.residual.weights(round.window, following_state)
            with calling("jacobian", jacobian, round, None if rhs is None else [rhs]):
                trial = jacobian.solve(round, weights, rhs, round.damping, state.parts["jacobian"])
        if trial is None:
            rhs = None if preconditioner.null else right_hand_side(composition, state, round, round.one_step)
            with calling("jacobian", jacobian, round):
                trial = sweep_damped(round, local, rhs)
        if hasattr(trial, "send"):
            asked = ask(composition, round, trial, None)
            if not isinstance(asked, tuple):
                review(composition, state, round, asked)
            return asked
        rows = contain(composition, round, trial)
        if following is not None:  # only the samples that were sent back move
            rows = [where_rows(again, new, old) for new, old in zip(rows, following, strict=True)]
        following = rows
        again = review(composition, state, round, following) & round.window.running
        if not again.any():
            break
    assert following is not None
    return following


def review(composition: Composition, state: EngineState, round: Round, following: list[torch.Tensor]) -> Bools:
    """Let the damping policy judge the next iterate; ``(B,)`` samples that it sends back."""
    part = composition.damping
    if part.null:
        return np.zeros(round.window.batch, dtype=np.bool_)
    with calling("damping", part, round, following):
        judged = part.review(round, torch.stack(following[1:]), state.parts["damping"])
    if not isinstance(judged, tuple) or len(judged) != 2:
        raise StrategyError(
            f"{named('damping', part)} returned {type(judged).__name__} from review; (retry, state) needed"
        )
    retry, state.parts["damping"] = judged
    if retry is None:
        return np.zeros(round.window.batch, dtype=np.bool_)
    return np.asarray(mask_from("damping", part, retry, round.age.shape).any(axis=0), dtype=np.bool_)


def look_ahead_residual(composition: Composition, round: Round) -> torch.Tensor:
    with calling("residual", composition.residual, round):
        return round.residual


def adapted(composition: Composition, state: EngineState, round: Round) -> Any:
    """The residual part's next state, made once per round."""
    if type(composition.residual).adapt is ResidualConstruction.adapt:
        return state.parts["residual"]  # learns nothing
    if round._adapted is None:
        part = composition.residual
        with calling("residual", part, round):
            round._adapted = (part.adapt(round, state.parts["residual"]),)
    return round._adapted[0]


def right_hand_side(composition: Composition, state: EngineState, round: Round, residual: torch.Tensor) -> torch.Tensor:
    part = composition.preconditioner
    if part.null:
        return residual
    with calling("preconditioner", part, round, [residual]):
        rhs = part.apply(round, residual, round.damping, state.parts["preconditioner"])
    rows = rows_from("preconditioner", part, rhs, round.window.rows, residual[0])
    finite = finite_rows(rows)
    return torch.stack([where_rows(finite[r], row, residual[r]) for r, row in enumerate(rows)])


def contain(composition: Composition, round: Round, trial: Any) -> list[torch.Tensor]:
    """Trial states as rows, the chain's where they are not finite."""
    rows = rows_from("jacobian", composition.jacobian, trial, round.window.rows, round.chain[0])
    finite = finite_rows(rows)
    return [round.chain[0]] + [where_rows(finite[r], row, round.chain[r + 1]) for r, row in enumerate(rows)]


def ask(
    composition: Composition, round: Round, generator: Krylov, answer: torch.Tensor | None
) -> list[torch.Tensor] | tuple[torch.Tensor, Bools, Krylov]:
    """Run the generator until it asks something that may be asked, or ends."""
    part, window = composition.jacobian, round.window
    shape, starting = (window.rows, *round.chain[0].shape), answer is None
    for _ in range(MAX_REFUSALS):
        try:
            with calling("jacobian", part, round):
                asked = next(generator) if starting else generator.send(answer)
        except StopIteration as end:
            return contain(composition, round, end.value)
        if not isinstance(asked, tuple) or len(asked) != 2:
            raise StrategyError(
                f"{named('jacobian', part)} asked with {type(asked).__name__}; (tangents, who) is needed"
            )
        tangents = torch.stack(rows_from("jacobian", part, asked[0], shape[0], round.chain[0]))
        who = mask_from("jacobian", part, asked[1], (window.batch,)) & window.running & (round.spare > 0)
        if who.any():
            return torch.nan_to_num(tangents), who, generator
        starting, answer = False, None
    generator.close()
    raise StrategyError(f"{named('jacobian', part)} asked {MAX_REFUSALS} times though no rounds are left to spend")
