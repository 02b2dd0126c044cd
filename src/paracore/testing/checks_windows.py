"""Checks of initial guesses and selections."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.parts import Copy, Hold
from paracore.schemes import flow_euler
from paracore.sequential import sequential
from paracore.testing.checks_strategies import part_of, seen_of
from paracore.testing.drive import CheckFailure
from paracore.testing.hosts import cases, trials
from paracore.testing.problems import Case, exponential_scheme, make_case
from paracore.testing.subject import Subject, subject_of
from paracore.testing.watch import Evidence, collect

__all__ = [
    "check_fill_keeps_constants",
    "check_guesses_are_near",
    "check_guesses_follow_a_trend",
    "check_selects_within_the_width",
]


def check_guesses_are_near(thing: Any) -> None:
    """Guesses lie near the trajectory: no further off on average than twice what copies of the newest state are."""
    subject = subject_of(thing)
    for kind in ("flow", "ddim", "multistep", "table"):
        for case in cases(kinds=(kind,), steps=16):
            exact = sequential(case.problem, case.evaluator(), trajectory=True)
            mine = [_off(subject, trial, exact) for trial in trials(subject, case, window=4, tolerance=1e-2, hosts=1)]
            copies = subject_of(Copy)
            plain = _off(copies, next(trials(copies, case, window=4, tolerance=1e-2, hosts=1)), exact)
            for off in mine:
                if not off <= 2.0 * plain:
                    raise CheckFailure(
                        f"{kind}: guesses are off by {off:.2g}, copies of the newest state by {plain:.2g}"
                    )


def check_guesses_follow_a_trend(thing: Any) -> None:
    """Outputs that move steadily in time are followed, or held, or left aside: no guess is further off than these."""
    subject = subject_of(thing)
    slope = torch.tensor([2.0, -3.0, 1.0], dtype=torch.float64)
    for scheme in (exponential_scheme(16), flow_euler(16)):
        middle = float(scheme.time.mean())
        case = attrs.evolve(
            make_case(scheme, seed=4, batch=2, dim=3),
            network=lambda x, t, rows, middle=middle: (t - middle)[:, None].to(x) * slope.to(x),
            label=f"{scheme.name}, outputs linear in time",
        )
        exact = sequential(case.problem, case.evaluator(), trajectory=True)
        others = [_distances(subject_of(part), case, exact) for part in (Copy, Hold)]
        mine = _distances(subject, case, exact)
        places = [place for place in mine if all(place in other for other in others)]
        ratio = [mine[place] / max(1e-12, *(other[place] for other in others)) for place in places]
        if ratio and not np.mean(ratio) <= 1.0:
            raise CheckFailure(
                f"{subject.label}, {case.label}: guesses are off by {np.mean(ratio):.3g} times what the worse is of "
                "copying the newest state and holding the newest output"
            )


def _distances(subject: Subject, case: Case, exact: torch.Tensor) -> dict[tuple[int, int], float]:
    """``{(node, sample): distance}`` of the guesses of entering rows, at the same pace for all: the exact chain's."""
    found: dict[tuple[int, int], float] = {}
    for trial in trials(subject, case, window=4, tolerance=1e-300, hosts=1):
        seen = Evidence()
        collect(subject, trial, seen)
        for call in seen.of("enter")[1:]:  # the first one knows nothing yet
            window, rows = call.args[0], call.args[1]
            for r, b in np.argwhere(rows).tolist():
                node = int(window.front[b]) + r
                if node <= window.scheme.steps:
                    found[node, b] = float((call.answer[r][b] - exact[node, b]).norm())
    return found


def _off(subject: Subject, trial: Any, exact: torch.Tensor) -> float:
    """Mean distance of the guesses from the exact trajectory."""
    seen = Evidence()
    collect(subject, trial, seen)
    distances = []
    for call in seen.of("enter"):
        window, rows = call.args[0], call.args[1]
        for r in range(1, window.rows + 1):
            for b in range(window.batch):
                node = int(window.front[b]) + r
                if rows[r, b] and node <= window.scheme.steps:
                    distances.append(float((call.answer[r][b] - exact[node, b]).norm()))
    return float(np.mean(distances)) if distances else 0.0


def check_selects_within_the_width(thing: Any) -> None:
    """``rows`` is a ``(P, B)`` mask with the front and at most ``window.width`` rows of each sample."""
    subject, seen = seen_of(thing)
    for call in seen.of("rows"):
        window, mask = call.args[0], np.asarray(call.answer)
        where = f"rows, {call.trial.label}"
        if mask.shape != window.nodes.shape or mask.dtype != np.bool_:
            raise CheckFailure(f"{where}: {mask.shape} {mask.dtype}; {window.nodes.shape} bool is needed")
        if not mask[0][window.running].all():
            raise CheckFailure(f"{where}: leaves the front out")
        if ((mask & window.valid).sum(axis=0) > window.width).any():
            raise CheckFailure(
                f"{where}: selects {(mask & window.valid).sum(axis=0).max()} rows; {window.width} are allowed"
            )
    part: Any = part_of(subject)
    for width in (1, 4):
        for steps in (1, 50):
            span = part.span(width, steps)
            if not isinstance(span, int) or span < 1:
                raise CheckFailure(f"span({width}, {steps}) is {span!r}; an integer of at least 1 is needed")


def check_fill_keeps_constants(thing: Any) -> None:
    """Outputs that are the same at all nodes are filled in with the same: interpolation weights sum to one."""
    subject = subject_of(thing)
    case = make_case(exponential_scheme(12), seed=4, batch=2, dim=3)
    value = torch.tensor([1.0, -2.0, 0.25], dtype=torch.float64)
    case = attrs.evolve(case, network=lambda x, t, rows: value.expand(len(x), 3).clone(), label="a constant output")
    for trial in trials(subject, case, window=3, tolerance=1e-3):
        seen = Evidence()
        collect(subject, trial, seen)
        for call in seen.of("fill"):
            for r, row in enumerate(call.answer):
                for b in np.flatnonzero(call.args[1][r]):
                    off = float((row[b] - value).abs().max())
                    if not off <= 1e-9:
                        raise CheckFailure(f"fill, {trial.label}: row {r} is off by {off:.2g} from constant outputs")
