"""Checks of stopping rules, and of decisions in general."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import attrs
import numpy as np
import torch

from paracore.parts import WarmStart
from paracore.sequential import sequential
from paracore.status import Status
from paracore.testing.checks_strategies import engine_of, seen_of
from paracore.testing.drive import CheckFailure
from paracore.testing.hosts import cases, trials
from paracore.testing.problems import Case, exponential_scheme, make_case
from paracore.testing.runs import easy_case, run
from paracore.testing.subject import subject_of
from paracore.window import Round, Window

__all__ = [
    "check_accepts_what_is_exact",
    "check_refuses_what_is_far",
    "check_size_independent",
    "check_tolerance_is_kept",
    "check_tolerance_is_monotone",
]


def check_accepts_what_is_exact(thing: Any) -> None:
    """A rule that measures convergence accepts what no longer moves: exact guesses go through a window at a time."""
    subject = subject_of(thing)
    if subject.part(easy_case(24).problem).outcome is not Status.CONVERGED:  # type: ignore[attr-defined]
        return
    for case in cases(kinds=("flow", "ddim", "ddpm", "table"), steps=24):
        exact = sequential(case.problem, case.evaluator(), trajectory=True)
        for trial in trials(subject, case, window=6, tolerance=1e-2, hosts=1, initializer=WarmStart(exact)):
            rounds = len(run(trial).asked)
            if rounds > 12:
                raise CheckFailure(f"{trial.label}: {rounds} rounds for 24 exact guesses in windows of 6")


def check_refuses_what_is_far(thing: Any) -> None:
    """A small tolerance is not met by rows that still move: the error goes with the tolerance."""
    subject = subject_of(thing)
    if subject.part(easy_case(24).problem).outcome is not Status.CONVERGED:  # type: ignore[attr-defined]
        return
    for kind in ("flow", "ddim", "table"):
        for case in cases(kinds=(kind,), steps=16):
            for trial in trials(subject, case, window=8, tolerance=1e-7, hosts=1):
                error = _error(case, run(trial).result.sample)
                if not error <= 1e-3:
                    raise CheckFailure(f"{trial.label}: off by {error:.2g} (relative) at a tolerance of 1e-7")


def _error(case: Case, sample: torch.Tensor) -> float:
    exact = case.reference()
    return float(((sample - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max())


def check_tolerance_is_kept(thing: Any) -> None:
    """The error stays within ten times a tolerance that is stated in units of the state."""
    subject = subject_of(thing)
    for case in cases(kinds=("flow", "table"), steps=16):
        rule = subject.part(case.problem)
        if rule.outcome is not Status.CONVERGED:  # type: ignore[attr-defined]
            return
        for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8):
            for trial in trials(subject, case, window=8, tolerance=tolerance, hosts=1):
                error = _error(case, run(trial).result.sample)
                if not error <= MOST_OFF * tolerance:
                    raise CheckFailure(f"{trial.label}: off by {error:.2g} (relative)")


MOST_OFF = 10.0


def check_tolerance_is_monotone(thing: Any) -> None:
    """What a tolerance accepts, a larger one accepts; a rule that accepts the same at all of them ignores it."""
    subject, seen = seen_of(thing)
    differs, most = False, False
    for call in seen.of("converged"):
        rule: Any = getattr(engine_of(subject, call).composition, subject.kind)
        masks = []
        for tolerance in (1e-12, 1e-6, 1e-3, 1e-2, 1e-1, 1e6):
            masks.append(np.asarray(rule.converged(_at(call.args[0], tolerance), call.args[1])))
        for small, large in pairwise(masks):
            if (small & ~large)[1:].any():
                raise CheckFailure(
                    f"converged, {call.trial.label}: a larger tolerance refuses what a smaller one accepted"
                )
        differs |= bool((masks[0] != masks[-1])[1:].any())
        most = True
    if most and not differs and subject.part(easy_case(8).problem).outcome is Status.CONVERGED:  # type: ignore[attr-defined]
        raise CheckFailure("converged gives the same rows for tolerances from 1e-12 to 1e6")


def _at(round: Round, tolerance: float) -> Round:
    """The same round at another tolerance."""
    new = object.__new__(Round)
    new.__dict__.update(round.__dict__)
    window = object.__new__(Window)
    window.__dict__.update(round.window.__dict__)
    window.tolerance = tolerance
    new.window, new.memo = window, {}
    return new


def check_size_independent(thing: Any) -> None:
    """Decisions do not depend on how many numbers a sample has: four copies of it side by side decide the same."""
    subject = subject_of(thing)
    for scheme_kind in ("flow", "table"):
        for case in cases(kinds=(scheme_kind,), steps=12):
            problem = case.problem
            network: Any = case.network
            big = attrs.evolve(
                case,
                problem=attrs.evolve(problem, x0=problem.x0.repeat(1, 4)),
                network=lambda x, t, rows, network=network: network(x[:, :3], t, rows).repeat(1, 4),
            )
            for one, four in zip(
                trials(subject, case, window=6, tolerance=1e-3),
                trials(subject, big, window=6, tolerance=1e-3),
                strict=True,
            ):
                a, b = run(one), run(four)
                mine = [(x.nodes, x.samples) for x in a.asked]
                if mine != [(x.nodes, x.samples) for x in b.asked]:
                    raise CheckFailure(
                        f"{one.label}: {len(b.asked)} rounds for samples four times as long, not {len(mine)}"
                    )


def check_unit_of_the_state(thing: Any) -> None:
    """A rule whose unit is relative decides the same whatever unit the state is in."""
    subject = subject_of(thing)
    case = make_case(exponential_scheme(12), seed=2, batch=2, dim=3)
    unit = subject.part(case.problem).unit.lower()  # type: ignore[attr-defined]
    if not re.search("relative|state.s size", unit) or ", and" in unit:  # two quantities: one may be absolute
        return
    network: Any = case.network
    scaled = attrs.evolve(
        case,
        problem=attrs.evolve(case.problem, x0=case.problem.x0 * 1024),
        network=lambda x, t, rows: network(x / 1024, t, rows) * 1024,
    )
    for tolerance in (1e-1, 1e-2, 1e-3):
        for one, other in zip(
            trials(subject, case, window=6, tolerance=tolerance),
            trials(subject, scaled, window=6, tolerance=tolerance),
            strict=True,
        ):
            a, b = run(one), run(other)
            if [(x.nodes, x.samples) for x in a.asked] != [(x.nodes, x.samples) for x in b.asked]:
                raise CheckFailure(
                    f"{one.label}: its unit is {unit!r}, and it decides otherwise where states are 1024 times as large"
                )
