"""Watching a strategy at work: every call is made twice, and what it was shown is compared before and after."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import numpy as np
import torch

from paracore.composition import KINDS
from paracore.engine import Engine
from paracore.schemes import RowWeights
from paracore.strategies import Strategy
from paracore.testing import disturbance
from paracore.testing.drive import drive
from paracore.testing.hosts import Trial, cases, trials
from paracore.testing.subject import Subject
from paracore.window import Round, Window

__all__ = ["METHODS", "Call", "Evidence", "collect", "evidence", "watched"]

METHODS = {
    "residual": ("weights", "look_ahead", "adapt"),
    "jacobian": ("probes", "local", "solve", "observe"),
    "preconditioner": ("apply", "observe"),
    "damping": ("factors", "review"),
    "stopping": ("converged", "observe", "estimate"),
    "initializer": ("enter", "observe"),
    "selection": ("rows", "fill", "observe"),
}
"""What the engine calls in a round."""

_ROUND: tuple[str, ...] = (
    "outputs",
    "anchors",
    "chain",
    "evaluated",
    "age",
    "gap",
    "size",
    "damping",
    "anchor_change",
    "output_change",
    "output_growth",
)
_ROUND += ("spare", "tangents", "jvps")
_WINDOW = ("front", "rounds", "running", "state_rows", "past_x", "past_f", "gain")


@attrs.frozen(eq=False)
class Call:
    """One call of a strategy's method by the engine.

    Attributes:
        method: its name.
        args: what it was given.
        answer: what it gave.
        trial: where.
    """

    method: str
    args: tuple[Any, ...]
    answer: Any
    trial: Trial


@attrs.define(eq=False)
class Evidence:
    """What was seen of a strategy.

    Attributes:
        calls: all of them, in order.
        broken: ``(contract, what)`` that was broken: ``"mutates"``, ``"repeats"``.
        raised: ``(trial, error)`` of runs that ended with an exception.
        damped: ``(call, free, held)``: next states of a solve without damping, and with factors beyond all bounds.
    """

    calls: list[Call] = attrs.field(factory=list)
    broken: list[tuple[str, str]] = attrs.field(factory=list)
    raised: list[tuple[str, Exception]] = attrs.field(factory=list)
    damped: list[tuple[Call, Any, Any]] = attrs.field(factory=list)

    def of(self, *methods: str) -> list[Call]:
        """The calls of some methods."""
        return [call for call in self.calls if call.method in methods]


def evidence(subject: Subject) -> Evidence:
    """A strategy watched in its hosts, on every kind of scheme; collected once."""
    if "evidence" not in subject.memo:
        seen = subject.memo["evidence"] = Evidence()
        for number, case in enumerate(cases(steps=6)):
            for trial in trials(subject, case, window=3, tolerance=1e-2, hosts=2 if number % 3 == 0 else 1):
                collect(subject, trial, seen)
    found: Evidence = subject.memo["evidence"]
    return found


def collect(subject: Subject, trial: Trial, seen: Evidence) -> None:
    """Watch a strategy in one trial."""
    engine = trial.make()
    assert isinstance(engine, Engine)
    part = watched(getattr(engine.composition, subject.kind), subject.kind, trial, seen)
    sampler = Engine(attrs.evolve(engine.composition, **{subject.kind: part}))
    try:
        drive(sampler, trial.case.problem, trial.case.network, max_batch=None)
    except Exception as error:
        seen.raised.append((trial.label, error))


def watched(part: Strategy, kind: str, trial: Trial, seen: Evidence) -> Any:
    """The same part, whose calls are watched: of a class derived from its own, with the same fields."""
    own = type(part)
    base = KINDS[kind]
    methods = [name for name in METHODS[kind] if getattr(own, name) is not getattr(base, name, None)]
    body = {name: _method(own, name, trial, seen) for name in methods}
    made = type(own.__name__, (own,), {**body, "__qualname__": own.__qualname__, "__module__": own.__module__})
    spy: Any = object.__new__(made)
    names = [f.name for f in attrs.fields(own)] if attrs.has(own) else []
    for name in dict.fromkeys([*names, *getattr(part, "__dict__", {})]):
        object.__setattr__(spy, name, getattr(part, name))
    return spy


def _method(own: type, name: str, trial: Trial, seen: Evidence) -> Any:
    function = getattr(own, name)

    def method(self: Any, *args: Any, **named: Any) -> Any:
        before = picture(args)
        itself = picture(_inside(self))
        answer = function(self, *args, **named)
        if hasattr(answer, "send"):  # a generator of requests: run once
            seen.calls.append(Call(name, args, None, trial))
            return answer
        where = f"{name}, {trial.label}"
        if not same(before, picture(args)):
            seen.broken.append(("mutates", f"{where}: changed what it was shown"))
        if not same(itself, picture(_inside(self))):
            seen.broken.append(("stateful", f"{where}: changed itself"))
        again = function(self, *args, **named)
        if not same(picture(answer), picture(again)):
            seen.broken.append(("repeats", f"{where}: asked twice, it gave two answers"))
        call = Call(name, args, answer, trial)
        seen.calls.append(call)
        if name in disturbance.PLACES and not named and args[0].batch > 1:
            for by in (1, -1):
                other = function(self, disturbance.mates_elsewhere(args[0], by), *args[1:])
                if answer is not None and not np.array_equal(np.asarray(answer)[:, 0], np.asarray(other)[:, 0]):
                    seen.broken.append(("batch", f"{where}: sample 0 is treated otherwise if its mate is elsewhere"))
        if name in disturbance.READS and not named and getattr(self, "causal", True):
            for row in range(min(2, len(args[0].age) - 1)):
                other = disturbance.after(args, row)
                if not disturbance.agree(self, name, row, args, answer, function(self, *other)):
                    seen.broken.append(("causal", f"{where}: row {row} depends on later rows"))
        if name == "solve" and answer is not None and not named:
            round, weights, rhs, damping, state = args
            free, held = (function(self, round, weights, rhs, np.full(damping.shape, x), state) for x in (0.0, 1e12))
            seen.damped.append((call, free, held))
        return answer

    return method


def _inside(part: Any) -> dict[str, Any]:
    names = [f.name for f in attrs.fields(type(part))] if attrs.has(type(part)) else []
    return {**{name: getattr(part, name, None) for name in names}, **getattr(part, "__dict__", {})}


def picture(value: Any) -> Any:
    """A copy of all numbers in a value, so that a later change shows."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Round):
        shown = {name: picture(getattr(value, name)) for name in _ROUND}
        made = {n: picture(value.__dict__[n]) for n in ("residual", "one_step", "score") if n in value.__dict__}
        return {**shown, **made, "window": picture(value.window)}
    if isinstance(value, Window):
        return {name: picture(getattr(value, name)) for name in _WINDOW}
    if isinstance(value, RowWeights):
        return [value.x.copy(), value.f.copy(), value.c.copy()]
    if isinstance(value, dict):
        return {key: picture(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [picture(v) for v in value]
    if isinstance(value, set | frozenset):
        return copy.copy(value)
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def same(left: Any, right: Any) -> bool:
    """Whether two pictures agree, bit for bit; what is only in one (worked out meanwhile) does not count."""
    if isinstance(left, torch.Tensor):
        if not isinstance(right, torch.Tensor) or left.shape != right.shape or left.dtype != right.dtype:
            return False
        return torch.equal(torch.nan_to_num(left), torch.nan_to_num(right))
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and bool(np.array_equal(left, right, equal_nan=left.dtype.kind == "f"))
    if isinstance(left, dict) and isinstance(right, dict):
        return all(same(left[k], right[k]) for k in left.keys() & right.keys())
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return bool(left == right) or (left != left and right != right)
