"""The chain: the scheme's own step swept over the window, no network. It is what acceptance rests on."""

from __future__ import annotations

import numpy as np
import torch

from paracore.errors import StrategyError
from paracore.guard import finite_rows
from paracore.window import Bools, Local, Round, RowNorms, per_sample, rms, some_rows, where_rows

__all__ = ["Swept", "exact_rows", "sweep_chain", "sweep_damped"]


class Swept:
    """What :func:`sweep_chain` leaves beside the round's chain.

    Attributes:
        used: P outputs with the Jacobian part's correction: what each step was made with.
        sound: ``(P, B)`` rows whose state is finite and whose earlier rows are too.
    """

    def __init__(self, used: list[torch.Tensor], sound: Bools) -> None:
        self.used = used
        self.sound = sound


def sweep_chain(round: Round, local: Local | None) -> Swept:
    """Set ``round.chain``, ``round.gap`` and ``round.size``: ``y_{r+1} = step(y_r, F_r + local(r, y_r - anchor_r))``.

    A sample whose chain leaves the finite numbers is swept again without ``local``; where that does not help, the
    rows from there on keep their previous states and are not sound.
    """
    swept = _sweep(round, local)
    if local is not None and not swept.sound.all():
        again = np.asarray(~swept.sound.all(axis=0))
        chain, gap, size = round.chain, round.gap, round.size
        plain = _sweep(round, None)
        round.chain = [where_rows(again, new, old) for new, old in zip(round.chain, chain, strict=True)]
        swept.used = [where_rows(again, new, old) for new, old in zip(plain.used, swept.used, strict=True)]
        round.gap, round.size = np.where(again, round.gap, gap), np.where(again, round.size, size)
        swept.sound = np.where(again, plain.sound, swept.sound)
    if not swept.sound.all():
        window = round.window
        for r in range(window.rows):
            if not swept.sound[r].all():
                round.chain[r + 1] = where_rows(swept.sound[r], round.chain[r + 1], window.state_rows[r + 1])
        unsound = np.concatenate([np.zeros((1, window.batch), dtype=np.bool_), ~swept.sound[:-1]])
        round.gap = np.where(unsound, np.inf, round.gap)
    # Norms of wild numbers overflow: such a row is far from its anchor, and small against nothing.
    round.gap = np.where(np.isfinite(round.gap), round.gap, np.inf)
    round.size = np.where(np.isfinite(round.size), round.size, 0.0)
    return swept


def _sweep(round: Round, local: Local | None) -> Swept:
    window = round.window
    chain = [window.state_rows[0]]
    used: list[torch.Tensor] = []
    gaps, sizes = RowNorms(), RowNorms()
    for r in range(window.rows):
        output = round.outputs[r]
        if r > 0:
            move = chain[r] - round.anchors[r]
            gaps.add(move)
            output = _corrected(round, r, output, move, local)
        used.append(output)
        chain.append(window.step(r, window.history(r, chain, window.past_x), window.history(r, used, window.past_f)))
        sizes.add(chain[-1])
    round.chain = chain
    still = np.zeros((1, window.batch))  # the front is its own anchor
    round.gap = np.concatenate([still, gaps.result()]) if window.rows > 1 else still
    round.size = sizes.result()
    finite = np.isfinite(round.size)
    if not finite.all():  # a square may overflow where the numbers do not
        finite = finite_rows(chain[1:])
    return Swept(used, np.logical_and.accumulate(finite | ~window.valid, axis=0))


def _corrected(round: Round, row: int, output: torch.Tensor, move: torch.Tensor, local: Local | None) -> torch.Tensor:
    """The output at the chain's state: held in the composition's form, plus the Jacobian part's response."""
    window = round.window
    u, v, moving = window.gain_rows
    if moving[row]:
        output = (output + move * per_sample(u[row], move)).to(output.dtype)
    if local is not None:
        response = local(row, move)
        if not isinstance(response, torch.Tensor) or response.shape != move.shape or response.device != move.device:
            what = tuple(response.shape) if isinstance(response, torch.Tensor) else type(response).__name__
            raise StrategyError(f"local gave {what} at row {row}; a tensor {tuple(move.shape)} is needed")
        if not (v[row] == 1).all():
            response = response * per_sample(v[row], move)
        still = (rms(move) == 0).reshape((-1,) + (1,) * (move.ndim - 1))  # no move, no response: the bits stay
        output = torch.where(still, output, output + response).to(output.dtype)
    return output


def sweep_damped(round: Round, local: Local | None, rhs: torch.Tensor | None) -> torch.Tensor:
    """Next states where a damping or a preconditioner acts on a bidiagonal Jacobian.

    Forward substitution of ``(J + diag(factors)) dX = R~`` with the one-step residual ``R``:
    ``z_{r+1} = X_{r+1} + (step(z_r, F_r + local(r, z_r - anchor_r)) + R_r - R~_r - X_{r+1}) / (1 + factor_r)``.

    Args:
        round: the round, with ``damping`` set.
        local: the Jacobian part's response.
        rhs: ``(P, B, *event)`` preconditioned one-step residuals, or ``None`` if nothing preconditions.

    Returns:
        ``(P, B, *event)``.
    """
    window = round.window
    states, used = [window.state_rows[0]], []
    for r in range(window.rows):
        output = round.outputs[r]
        used.append(_corrected(round, r, output, states[r] - round.anchors[r], local) if r else output)
        stepped = window.step(r, window.history(r, states, window.past_x), window.history(r, used, window.past_f))
        if rhs is not None:
            stepped = stepped + (round.one_step[r] - rhs[r])
        old = window.state_rows[r + 1]
        states.append((old + (stepped - old) / per_sample(1.0 + round.damping[r], old)).to(old.dtype))
    return torch.stack(states[1:])


def exact_rows(round: Round) -> Bools:
    """``(P, B)`` rows whose output was evaluated this round at the chain's very state, and all rows before them."""
    zero = round.evaluated & (round.gap == 0.0)
    some = some_rows(zero)
    for r in range(1, round.window.rows):
        if not some[r]:
            break
        if round.chain[r] is not round.anchors[r]:  # a norm may underflow where the states differ
            same = (round.chain[r] == round.anchors[r]).flatten(1).all(dim=1).cpu().numpy()
            zero[r] &= same
    zero[0] = True
    return np.logical_and.accumulate(zero, axis=0)
