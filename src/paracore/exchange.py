"""Requests out, outputs in: which rows are asked for, and where the answers go."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paracore.composition import Composition
from paracore.errors import DenoiserError
from paracore.guard import calling, finite_rows, rows_from
from paracore.problem import Problem
from paracore.request import Outputs, Request
from paracore.state import EngineState
from paracore.status import Status
from paracore.window import Bools, Ints, Round, RowNorms, Window, per_sample, rms, to_numpy, where_rows

__all__ = ["check_outputs", "check_products", "gather", "receive"]


def receive(
    composition: Composition, state: EngineState, outputs: Outputs, window: Window
) -> tuple[EngineState, Round]:
    """Scatter the outputs into rows; samples with a non-finite output at their front end here."""
    mask, values = state.mask, outputs.values
    peaks = torch.linalg.vector_norm(values.reshape(len(values), -1), ord=float("inf"), dim=1)
    finite = np.zeros_like(mask)
    finite[mask] = torch.isfinite(peaks).cpu().numpy()
    status = np.where(state.running & mask[0] & ~finite[0], int(Status.NONFINITE_OUTPUT), state.status)
    window.running = status == Status.RUNNING
    new_outputs, anchors = list(state.outputs), list(state.anchors)
    rows, taken = len(mask), 0
    asked_jvps = outputs.jvps is not None and state.tangents is not None
    jvps = [torch.zeros_like(state.states[0])] * rows if asked_jvps else None
    output_change = np.full(mask.shape, np.nan)
    changes, changed = RowNorms(), list[int]()
    u, _, moving = window.gain_rows
    for r in range(rows):
        count = int(mask[r].sum())
        block, taken = values[taken : taken + count], taken + count
        good = mask[r] & finite[r]
        if not good.any():
            new_outputs[r], anchors[r] = compact(new_outputs[r]), compact(anchors[r])
            continue
        new = scatter(block, mask[r], good, state.outputs[r])
        if jvps is not None and outputs.jvps is not None:
            products = torch.nan_to_num(outputs.jvps[taken - count : taken])
            jvps[r] = scatter(products, mask[r], good, jvps[r])
        if composition.stopping.reads_changes and (good & (state.age[r] >= 0)).any():
            move = new - state.outputs[r]
            if moving[r]:
                move = move - (state.states[r] - state.anchors[r]) * per_sample(u[r], move)
            changes.add(move)
            changed.append(r)
        new_outputs[r] = new
        anchors[r] = where_rows(good, state.states[r], state.anchors[r])
    if changed:
        known = mask & finite & (state.age >= 0)
        output_change[changed] = np.where(known[changed], changes.result(), np.nan)
    evaluated = mask & finite
    age = np.where(evaluated, 0, np.where(state.age >= 0, state.age + 1, -1))
    age = np.where(mask & ~finite, -1, age)
    anchor_change = np.where(evaluated & (state.age >= 0), state.reach, np.nan)
    if composition.stopping.reads_changes:
        unknown = evaluated & (state.age >= 0) & np.isnan(anchor_change)
        for r in np.flatnonzero(unknown.any(axis=1)).tolist():
            moved = to_numpy([rms(state.states[r] - state.anchors[r])])[0]
            anchor_change[r] = np.where(unknown[r], moved, anchor_change[r])
    tangents = None if state.tangents is None else list(state.tangents)
    residual, parts = composition.residual, dict(state.parts)
    round = Round(
        window,
        new_outputs,
        anchors,
        evaluated,
        age,
        lambda: residual.weights(window, parts["residual"]),
        anchor_change,
        output_change,
        spare=state.front + 1 - state.rounds,
        tangents=tangents,
        jvps=jvps,
    )
    fill(composition, state, round)
    final = where_rows((status != state.status), state.states[0], state.final)
    return state.but(status=status, final=final, outputs=round.outputs, anchors=round.anchors, age=age), round


def fill(composition: Composition, state: EngineState, round: Round) -> None:
    """Give every row that has no output one, before any product is formed."""
    need = round.window.valid & (round.age < 0)
    need[0] = False
    if not need.any():
        return
    part = composition.selection
    with calling("selection", part, round):
        filled = part.fill(round, need.copy(), state.parts["selection"])
    rows = rows_from("selection", part, filled, round.window.rows, round.outputs[0])
    finite = finite_rows(rows)
    for r in range(1, round.window.rows):
        if need[r].any():
            new = where_rows(finite[r], rows[r], round.outputs[r - 1])
            round.outputs[r] = where_rows(need[r], new, round.outputs[r])
            round.anchors[r] = where_rows(need[r], round.window.state_rows[r], round.anchors[r])


def gather(
    problem: Problem, nodes: Ints, mask: Bools, rows: list[torch.Tensor], tangents: torch.Tensor | None
) -> Request:
    """The rows that a mask selects, row by row, as one request."""
    states, directions = [], []
    for r in range(len(mask)):
        if mask[r].all():
            states.append(rows[r])
            if tangents is not None:
                directions.append(tangents[r])
        elif mask[r].any():
            index = torch.from_numpy(np.flatnonzero(mask[r])).to(rows[r].device)
            states.append(rows[r][index])
            if tangents is not None:
                directions.append(tangents[r][index])
    picked = nodes[mask]
    return Request(
        nodes=torch.from_numpy(picked),
        samples=torch.from_numpy(np.broadcast_to(np.arange(mask.shape[1]), mask.shape)[mask]),
        states=states[0] if len(states) == 1 else torch.cat(states),
        times=torch.from_numpy(problem.scheme.time[picked]),
        tangents=torch.cat(directions) if directions else None,
    )


def scatter(block: torch.Tensor, asked: Bools, good: Bools, old: torch.Tensor) -> torch.Tensor:
    """Rows of ``block`` (one per asked sample) laid over ``old`` where good."""
    if good.all():
        return block
    new = old.clone()
    inside = torch.from_numpy(good[asked]).to(block.device)
    new[torch.from_numpy(np.flatnonzero(good)).to(block.device)] = block[inside]
    return new


def check_outputs(values: Any, rows: int, like: torch.Tensor) -> None:
    expected = (rows, *like.shape[1:])
    if not isinstance(values, torch.Tensor):
        raise DenoiserError(f"the network returned {type(values).__name__}; a tensor {expected} is needed")
    if tuple(values.shape) != expected:
        raise DenoiserError(f"the network returned shape {tuple(values.shape)}; {expected} is needed (rows, *event)")
    if values.dtype != like.dtype:
        raise DenoiserError(
            f"the network returned {values.dtype}, the states are {like.dtype}: convert its output, or x0"
        )
    if values.device != like.device:
        raise DenoiserError(f"the network returned a tensor on {values.device}, the states are on {like.device}")


def check_products(jvps: Any, rows: int, like: torch.Tensor) -> torch.Tensor:
    if jvps is None:
        raise DenoiserError("the evaluator returned no Jacobian-vector products though tangents were given")
    check_outputs(jvps, rows, like)
    assert isinstance(jvps, torch.Tensor)
    return jvps


def compact(row: torch.Tensor) -> torch.Tensor:
    """A row that is carried on must not keep the whole request alive that it is a view of."""
    own = row.numel() * row.element_size()
    return row.clone() if row.untyped_storage().nbytes() > own else row
