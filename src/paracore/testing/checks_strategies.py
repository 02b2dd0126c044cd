"""Checks of what strategies answer, call by call, and of each kind's own contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paracore.composition import KINDS
from paracore.engine import Engine
from paracore.errors import StrategyError
from paracore.parts import WarmStart
from paracore.sequential import sequential
from paracore.testing.drive import CheckFailure
from paracore.testing.hosts import cases, trials
from paracore.testing.runs import SOME, run
from paracore.testing.subject import Subject, subject_of
from paracore.testing.watch import METHODS, Call, Evidence, evidence
from paracore.window import Round, Window

__all__ = [
    "check_never_mutates",
    "check_repeatable_calls",
    "check_returns_what_it_must",
    "check_runs_on_every_scheme",
    "check_stays_at_the_solution",
    "engine_of",
    "part_of",
    "seen_of",
    "shown",
    "window_of",
]


def seen_of(thing: Any) -> tuple[Subject, Evidence]:
    """The subject, and what was seen of it."""
    subject = subject_of(thing)
    return subject, evidence(subject)


# -- all kinds --------------------------------------------------------------------------------------------------------


def check_runs_on_every_scheme(thing: Any) -> None:
    """It raises nothing on any kind of scheme, unless it declares what it needs and the scheme lacks it."""
    subject, seen = seen_of(thing)
    for label, error in seen.raised:
        if not (isinstance(error, StrategyError) and "wrote into" in str(error)):
            raise CheckFailure(f"{label}: raised {type(error).__name__}: {error}") from error
    if not seen.calls and not getattr(part_of(subject), "null", False) and _overrides(subject):
        why = "; ".join(sorted(subject.memo.get("refusals", ()))[:3])
        raise CheckFailure(f"it runs on no kind of scheme{': ' + why if why else ''}")


def part_of(subject: Subject) -> Any:
    """A strategy for a problem of the plainest kind."""
    return subject.part(next(iter(cases(kinds=("flow",)))).problem)


def _overrides(subject: Subject) -> bool:
    own, plain = type(part_of(subject)), KINDS[subject.kind]
    return any(getattr(own, name) is not getattr(plain, name, None) for name in METHODS[subject.kind])


def check_never_mutates(thing: Any) -> None:
    """It writes into nothing that it is shown: states, outputs, arrays, and the state that it was handed."""
    _, seen = seen_of(thing)
    for label, error in seen.raised:
        if isinstance(error, StrategyError) and "wrote into" in str(error):
            raise CheckFailure(f"{label}: {error}") from error
    _first(seen, "mutates")


def check_repeatable_calls(thing: Any) -> None:
    """A method asked twice with the same arguments gives the same answer, and leaves the instance as it was."""
    _, seen = seen_of(thing)
    _first(seen, "stateful")
    _first(seen, "repeats")


def _first(seen: Evidence, contract: str) -> None:
    for broken, what in seen.broken:
        if broken == contract:
            raise CheckFailure(what)


def check_returns_what_it_must(thing: Any) -> None:
    """Answers are finite where what was shown is, of the state's dtype, and arrays have one row per window row."""
    _, seen = seen_of(thing)
    for call in seen.calls:
        like = shown(call)
        where = f"{call.method}, {call.trial.label}"
        for tensor in _tensors(call.answer) if call.method in _GIVES_STATES else ():
            if tensor.dtype != like.dtype:
                raise CheckFailure(f"{where}: returned {tensor.dtype} for {like.dtype} states")
            if not bool(torch.isfinite(tensor).all()):
                raise CheckFailure(f"{where}: returned numbers that are not finite for finite ones")
        if call.method == "look_ahead" and call.answer is not None:
            answer = np.asarray(call.answer)
            if answer.shape != call.args[0].nodes.shape or (answer < 0).any():
                raise CheckFailure(f"{where}: look-ahead {answer.shape}; (P, B) numbers of at least 0 are needed")
        if call.method == "estimate" and call.answer is not None:
            answer = np.asarray(call.answer)
            if answer.shape != (len(call.trial.case.problem.x0),) or not (answer >= 0).all():
                raise CheckFailure(f"{where}: estimates {answer}; (B,) numbers of at least 0 are needed")


_GIVES_STATES = ("solve", "apply", "enter", "fill", "probes")


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, list | tuple) else []


def shown(call: Call) -> torch.Tensor:
    """Something of the shape and dtype of a state."""
    return call.trial.case.problem.x0


def window_of(value: Any) -> Window:
    """The window of a round, or itself."""
    window = value.window if isinstance(value, Round) else value
    assert isinstance(window, Window)
    return window


def engine_of(subject: Subject, call: Call) -> Engine:
    """A fresh engine of the trial that a call was seen in."""
    engine = call.trial.make()
    assert isinstance(engine, Engine)
    return engine


def check_stays_at_the_solution(thing: Any) -> None:
    """Started at the sequential sampler's own trajectory, nothing moves: the solution is a fixed point."""
    subject = subject_of(thing)
    for case in cases(kinds=SOME):
        exact = sequential(case.problem, case.evaluator(), trajectory=True)
        noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0), dtype=exact.dtype)
        near = exact + 1e-12 * exact.abs().max() * noise  # so near that nothing moves, and nothing is exact
        start: dict[str, Any] = {} if subject.kind == "initializer" else {"initializer": WarmStart(near)}
        for trial in trials(subject, case, tolerance=1e-18, **start):
            found = run(trial)
            size = float(exact.abs().max())
            for number, asked in enumerate(found.asked):
                for b in range(case.problem.batch):
                    for node, state in asked.of(b).items():
                        off = float((state - exact[node, b]).abs().max())
                        if not off <= 1e-6 * size:
                            raise CheckFailure(
                                f"{trial.label}: started at the solution, round {number + 1} is off by {off:.2g} at "
                                f"node {node}"
                            )
