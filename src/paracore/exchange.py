"""Requests out, outputs in: which rows are asked for, and where the answers go."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paracore.composition import Composition
from paracore.errors import DenoiserError
from paracore.guard import calling, finite_rows, finite_samples, rows_from
from paracore.problem import Problem
from paracore.request import Outputs, Request
from paracore.slide import lay_over
from paracore.state import EngineState
from paracore.status import Status
from paracore.window import (
    Bools,
    Floats,
    Ints,
    Round,
    RowNorms,
    Window,
    mean_product,
    per_sample,
    rms,
    some_rows,
    to_numpy,
    where_rows,
)

__all__ = ["check_outputs", "check_products", "gather", "receive"]

NONFINITE_OUTPUT = int(Status.NONFINITE_OUTPUT)


def receive(
    composition: Composition, state: EngineState, outputs: Outputs, window: Window
) -> tuple[EngineState, Round]:
    """Scatter the outputs into rows; samples with a non-finite output at their front end here."""
    mask, values = state.mask, outputs.values
    evaluated = np.zeros_like(mask)
    evaluated[mask] = finite_samples(values)
    known = evaluated & (state.age >= 0)
    lost = window.running & mask[0] & ~evaluated[0]
    if lost.any():
        state = state.but(
            status=np.where(lost, NONFINITE_OUTPUT, state.status), final=where_rows(lost, state.states[0], state.final)
        )
        window.running = state.running
    new_outputs, anchors = list(state.outputs), list(state.anchors)
    rows, taken = len(mask), 0
    asked_jvps = outputs.jvps is not None and state.tangents is not None
    jvps = [torch.zeros_like(state.states[0])] * rows if asked_jvps else None
    output_change = np.full(mask.shape, np.nan)
    output_growth = np.full(mask.shape, np.nan)
    changes, along, changed = RowNorms(), list[torch.Tensor](), list[int]()
    u, _, moving = window.gain_rows
    counts, usable, again = mask.sum(axis=1).tolist(), some_rows(evaluated), some_rows(known)
    for r in range(rows):
        count = counts[r]
        block, taken = values[taken : taken + count], taken + count
        if not usable[r]:
            new_outputs[r], anchors[r] = compact(new_outputs[r]), compact(anchors[r])
            continue
        new = scatter(block, mask[r], evaluated[r], state.outputs[r])
        if jvps is not None and outputs.jvps is not None:
            products = torch.nan_to_num(outputs.jvps[taken - count : taken])
            jvps[r] = scatter(products, mask[r], evaluated[r], jvps[r])
        if composition.stopping.reads_changes and again[r]:
            move = new - (state.outputs[r] if state.forecast is None else state.forecast[r])
            if state.forecast is None and moving[r]:
                move = move - (state.states[r] - state.anchors[r]) * per_sample(u[r], move)
            changes.add(move)
            if composition.stopping.reads_growth:
                along.append(mean_product(state.states[r] - state.anchors[r], move))
            changed.append(r)
        new_outputs[r] = new
        anchors[r] = where_rows(evaluated[r], state.states[r], state.anchors[r])
    if changed:
        output_change[changed] = np.where(known[changed], changes.result(), np.nan)
    age = np.where(evaluated, 0, np.where(state.age >= 0, state.age + 1, -1))
    age = np.where(mask & ~evaluated, -1, age)
    anchor_change = np.where(known, state.reach, np.nan)
    if composition.stopping.reads_changes:
        unknown = known & np.isnan(anchor_change)
        for r in np.flatnonzero(unknown.any(axis=1)).tolist():
            moved = to_numpy([rms(state.states[r] - state.anchors[r])])[0]
            anchor_change[r] = np.where(unknown[r], moved, anchor_change[r])
    if changed and composition.stopping.reads_growth:
        output_growth[changed] = _growth(window, changed, to_numpy(along), anchor_change[changed])
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
        output_growth,
        spare=state.front + 1 - state.rounds,
        tangents=tangents,
        jvps=jvps,
    )
    fill(composition, state, round)
    return state.but(outputs=round.outputs, anchors=round.anchors, age=age), round


def _growth(window: Window, rows: list[int], products: Floats, moved: Floats) -> Floats:
    """``(R, B)`` what ``rows`` add to the ``output_growth`` of a round; NaN where no state has moved."""
    node = np.minimum(window.nodes[rows], window.scheme.steps - 1)
    square = moved**2
    there = np.isfinite(square) & (square > 0)
    quotient = np.divide(products, square, out=np.full(products.shape, np.nan), where=there)
    return np.asarray(quotient * np.sign(window.scheme.b[node, 0]))


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
    wanted = np.flatnonzero(need.any(axis=1)).tolist()
    finite = finite_rows([rows[r] for r in wanted])
    for i in np.flatnonzero(~finite.all(axis=1)).tolist():
        r = wanted[i]
        before = where_rows(need[r - 1], rows[r - 1], round.outputs[r - 1])
        rows[r] = where_rows(finite[i], rows[r], before)
    for held, new in ((round.outputs, rows), (round.anchors, round.window.state_rows)):
        laid = lay_over(need[wanted], [new[r] for r in wanted], [held[r] for r in wanted])
        for r, row in zip(wanted, laid, strict=True):
            held[r] = row


def gather(
    problem: Problem, nodes: Ints, mask: Bools, rows: list[torch.Tensor], tangents: torch.Tensor | None
) -> Request:
    """The rows that a mask selects, row by row, as one request."""
    states, directions = [], []
    asked, partly = some_rows(mask), some_rows(~mask)
    for r in range(len(mask)):
        if not partly[r]:
            states.append(rows[r])
            if tangents is not None:
                directions.append(tangents[r])
        elif asked[r]:
            index = torch.from_numpy(np.flatnonzero(mask[r])).to(rows[r].device)
            states.append(rows[r].index_select(0, index))
            if tangents is not None:
                directions.append(tangents[r].index_select(0, index))
    picked = nodes[mask]
    return Request(
        nodes=torch.from_numpy(picked),
        samples=torch.from_numpy(np.nonzero(mask)[1]),
        states=states[0] if len(states) == 1 else torch.cat(states),
        times=torch.from_numpy(problem.scheme.time[picked]),
        tangents=torch.cat(directions) if directions else None,
    )


def scatter(block: torch.Tensor, asked: Bools, good: Bools, old: torch.Tensor) -> torch.Tensor:
    """Rows of ``block`` (one per asked sample) laid over ``old`` where good."""
    if good.all():
        return block
    kept, place = (torch.from_numpy(np.flatnonzero(mask)).to(block.device) for mask in (good[asked], good))
    return old.index_copy(0, place, block if len(kept) == len(block) else block.index_select(0, kept))


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
