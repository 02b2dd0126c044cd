"""Checks of residuals, Jacobian approximations, preconditioners and damping policies."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.parts import AbsoluteChange, WarmStart
from paracore.request import Request
from paracore.schemes import RowWeights
from paracore.sequential import sequential
from paracore.testing.checks_strategies import engine_of, part_of, seen_of, shown, window_of
from paracore.testing.drive import CheckFailure
from paracore.testing.hosts import cases, trials
from paracore.testing.problems import Case, LinearNetwork, exponential_scheme, make_case
from paracore.testing.subject import Subject, subject_of
from paracore.testing.watch import Call, Evidence, collect, evidence

__all__ = [
    "check_damping_enters",
    "check_factors_are_not_negative",
    "check_local_is_linear",
    "check_residual_is_zero_at_the_solution",
    "check_response_within_the_truth",
    "check_zero_residual_gives_zero_update",
]


def check_residual_is_zero_at_the_solution(thing: Any) -> None:
    """The residuals of the sequential trajectory are zero, and a row's weights read no later row."""
    subject = subject_of(thing)
    for case in cases(steps=6):
        exact = sequential(case.problem, case.evaluator(), trajectory=True)
        for trial in trials(subject, case, tolerance=1e-9, initializer=WarmStart(exact), hosts=1):
            seen = Evidence()
            collect(subject, trial, seen)
            for call in seen.of("weights"):
                _weights(call, float(exact.abs().max()))
    for call in evidence(subject).of("weights"):
        _weights(call, None)


def _weights(call: Call, size: float | None) -> None:
    window, given = window_of(call.args[0]), call.answer
    where = f"weights, {call.trial.label}"
    rows, depth = window.rows, window.scheme.memory
    if not isinstance(given, RowWeights):
        raise CheckFailure(f"{where}: returned {type(given).__name__}; RowWeights are needed")
    shapes = ((rows, depth + rows, window.batch),) * 2 + ((rows, rows, window.batch),)
    for name, table, shape in zip("xfc", (given.x, given.f, given.c), shapes, strict=True):
        if table.shape != shape or not np.isfinite(table).all():
            raise CheckFailure(f"{where}: {name} has shape {table.shape} ({shape} is needed), or is not finite")
        for r in range(rows):
            if table[r, (depth if name != "c" else 0) + r + 1 :].any():
                raise CheckFailure(f"{where}: row {r} of {name} reads later rows")
    if size is not None:
        steps = window.scheme.steps
        states = sequential(call.trial.case.problem, call.trial.case.evaluator(), trajectory=True)
        outputs = _outputs(call.trial.case, states)
        tape = call.trial.case.problem.tape()
        noise = [tape.row(n) for n in range(steps)] if window.scheme.stochastic else [None] * steps
        for b in range(window.batch):
            for r in range(rows):
                node = int(window.front[b]) + r
                if node >= steps or not window.running[b]:
                    continue
                total = states[node + 1, b].clone()
                for m in range(depth + rows):
                    at = int(window.front[b]) + m - depth
                    if 0 <= at < steps:
                        total -= float(given.x[r, m, b]) * states[at, b] + float(given.f[r, m, b]) * outputs[at][b]
                for m in range(rows):
                    at = int(window.front[b]) + m
                    drawn = noise[at] if at < steps else None
                    if drawn is not None:
                        total -= float(given.c[r, m, b]) * drawn[b]
                off = float(total.abs().max())
                if not off <= 1e-8 * max(size, 1.0):
                    raise CheckFailure(f"{where}: at the solution row {r} (node {node}) has a residual of {off:.2g}")


def _outputs(case: Case, states: torch.Tensor) -> list[torch.Tensor]:
    """The network's outputs along a trajectory."""
    scheme, batch, evaluator = case.problem.scheme, case.problem.batch, case.evaluator()
    found = []
    for node in range(scheme.steps):
        times = torch.full((batch,), float(scheme.time[node]), dtype=torch.float64)
        nodes = torch.full((batch,), node, dtype=torch.int64)
        found.append(evaluator.evaluate(Request(nodes, torch.arange(batch), states[node], times)).values)
    return found


def check_zero_residual_gives_zero_update(thing: Any) -> None:
    """A zero residual gives a zero update: nothing is added that the residual does not ask for."""
    subject, seen = seen_of(thing)
    for call in seen.of("apply"):
        round, rhs, damping, state = call.args
        part: Any = getattr(engine_of(subject, call).composition, subject.kind)
        moved = part.apply(round, torch.zeros_like(rhs), damping, state)
        off = max(float(row.abs().max()) for row in moved)
        if off > 0:
            raise CheckFailure(f"apply, {call.trial.label}: a zero residual became {off:.2g}")


def check_damping_enters(thing: Any) -> None:
    """A solve of its own owns how the damping enters: factors beyond all bounds leave the states where they are."""
    _, seen = seen_of(thing)
    for call, free, held in seen.damped:
        window = window_of(call.args[0])
        if free is None or held is None:
            continue
        inside = torch.tensor(window.valid)
        known = torch.stack(window.state_rows[1:])
        far, near = (float((torch.stack(list(new)) - known)[inside].abs().max()) for new in (free, held))
        if far > 1e-9 and not near <= 0.5 * far:
            raise CheckFailure(
                f"solve, {call.trial.label}: moves by {near:.2g} at a damping of 1e12, by {far:.2g} without"
            )


def check_local_is_linear(thing: Any) -> None:
    """``local`` is a linear map of each row: zero for zero, additive, of the state's dtype, each sample by itself."""
    _, seen = seen_of(thing)
    generator = torch.Generator().manual_seed(0)
    for call in seen.of("local"):
        if call.answer is None:
            continue
        like = shown(call)
        where = f"local, {call.trial.label}"
        v = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
        w = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
        for row in range(window_of(call.args[0]).rows):
            response = call.answer
            one, two, both = response(row, v), response(row, w), response(row, v + 2 * w)
            if one.shape != like.shape or one.dtype != like.dtype:
                raise CheckFailure(
                    f"{where}: gives {tuple(one.shape)} {one.dtype} for {tuple(like.shape)} {like.dtype}"
                )
            if float(torch.as_tensor(response(row, torch.zeros_like(v))).abs().max()) > 0:
                raise CheckFailure(f"{where}: answers to a move of zero")
            size = float(one.abs().max() + two.abs().max()) + 1e-30
            if not float((both - one - 2 * two).abs().max()) <= 1e-9 * size:
                raise CheckFailure(f"{where}: row {row} is not linear in the move")
            mate = v.clone()
            mate[1:] = w[1:]
            if not torch.equal(response(row, mate)[:1], one[:1]):
                raise CheckFailure(f"{where}: row {row} mixes samples")


def check_response_within_the_truth(thing: Any) -> None:
    """On ``f = m x`` the response of ``local`` lies between nothing and the truth: of the right sign and scale."""
    subject = subject_of(thing)
    for m in (-0.8, 0.6):
        case = make_case(exponential_scheme(10), seed=3, batch=2, dim=3)
        network = LinearNetwork(torch.eye(3, dtype=torch.float64) * m)
        case = attrs.evolve(case, network=network, label=f"f = {m} x")
        for trial in trials(subject, case, window=4, tolerance=1e-9, hosts=1):
            seen = Evidence()
            collect(subject, trial, seen)
            v = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.7, -1.1]], dtype=torch.float64)
            for call in seen.of("local"):
                if call.answer is None:
                    continue
                for row in range(window_of(call.args[0]).rows):
                    along = (call.answer(row, v) * v).sum(dim=1) / (m * (v * v).sum(dim=1))
                    size = call.answer(row, v).norm(dim=1) / (abs(m) * v.norm(dim=1))
                    if not bool(((along >= -0.02) & (size <= 1.02)).all()):
                        raise CheckFailure(
                            f"local, {trial.label}: row {row} answers with {float(along.min()):.3g} times the "
                            f"network's true response, and at most {float(size.max()):.3g} times its size"
                        )


def check_null_does_nothing(thing: Any) -> None:
    """``null`` says that the part does nothing, and the engine leaves it out: it must do nothing."""
    subject = subject_of(thing)
    if not part_of(subject).null:
        return
    donor = Subject("stopping", "any rule", AbsoluteChange, lambda problem=None: AbsoluteChange())
    for call in evidence(donor).of("converged")[:12]:
        round = call.args[0]
        part: Any = subject.part(call.trial.case.problem)
        state = part.start(call.trial.case.problem, round.window.rows)
        rhs = torch.ones((round.window.rows, *call.trial.case.problem.x0.shape), dtype=torch.float64)
        none = np.zeros(round.age.shape)
        if subject.kind == "damping" and np.asarray(part.factors(round, state)).any():
            raise CheckFailure(f"{subject.label} is null, and gives factors that are not zero")
        if subject.kind == "preconditioner" and not torch.equal(part.apply(round, rhs, none, state), rhs):
            raise CheckFailure(f"{subject.label} is null, and changes the residual")
        if subject.kind == "jacobian":
            gives = (
                part.local(round, state),
                part.solve(round, None, rhs, none, state),
                part.probes(round.window, state),
            )
            if any(given is not None for given in gives):
                raise CheckFailure(f"{subject.label} is null, and answers with a response, states or probes")


def check_factors_are_not_negative(thing: Any) -> None:
    """Damping factors are ``(P, B)`` finite numbers of at least 0; what is sent back is bounded by ``retries``."""
    _, seen = seen_of(thing)
    for call in seen.of("factors"):
        factors = np.asarray(call.answer, dtype=np.float64)
        where = f"factors, {call.trial.label}"
        if factors.shape != call.args[0].age.shape:
            raise CheckFailure(f"{where}: shape {factors.shape}; {call.args[0].age.shape} is needed")
        shown = factors[call.args[0].window.valid]
        if not (np.isfinite(shown).all() and (shown >= 0).all()):
            raise CheckFailure(
                f"{where}: {shown.min():.3g} to {shown.max():.3g}; finite numbers of at least 0 are needed"
            )
