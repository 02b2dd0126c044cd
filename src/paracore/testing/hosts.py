"""Where a part is tried: small compositions in which it has something to do, and the problems that they solve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
import torch

from paracore.composition import Composition
from paracore.engine import Engine
from paracore.errors import CapabilityError, ConfigurationError
from paracore.parts import AbsoluteChange, AllRows, EveryKth, Hold, Identity, Linear, LookAhead
from paracore.problem import Problem
from paracore.sampler import Sampler
from paracore.strategies import NoDamping, NoJacobian, NoPreconditioner
from paracore.testing.adversarial import ConstantDamping, ScalarJacobian, Substitution
from paracore.testing.drive import CheckFailure
from paracore.testing.problems import KINDS, Case, make_case
from paracore.testing.subject import Subject

__all__ = ["Trial", "base", "cases", "trials"]

HOSTS: dict[str, tuple[dict[str, Any], ...]] = {
    "residual": ({"jacobian": Substitution()}, {"jacobian": Identity(), "damping": ConstantDamping(0.3)}),
    "jacobian": ({}, {"residual": LookAhead(1), "damping": ConstantDamping(0.3)}),
    "preconditioner": ({"jacobian": Identity()}, {}),
    "damping": ({}, {"jacobian": Identity()}),
    "stopping": ({}, {"jacobian": ScalarJacobian(-0.3)}),
    "initializer": ({}, {"selection": EveryKth(2)}),
    "selection": ({}, {"initializer": Linear()}),
}
"""Parts beside which a part of each kind is tried; the rest are the plainest."""


@attrs.frozen(eq=False)
class Trial:
    """A sampler to be tried on a problem.

    Attributes:
        label: in words.
        host: in which of the hosts the part is tried.
        case: the problem with its network.
        make: a fresh sampler.
    """

    label: str
    host: int
    case: Case
    make: Callable[[], Sampler] = attrs.field(repr=False)


def base(**parts: Any) -> Composition:
    """The plainest composition: Picard's iteration, with other parts where given."""
    plain: dict[str, Any] = {
        "residual": LookAhead(),
        "jacobian": NoJacobian(),
        "preconditioner": NoPreconditioner(),
        "damping": NoDamping(),
        "stopping": AbsoluteChange(),
        "initializer": Hold(),
        "selection": AllRows(),
    }
    return Composition(**{**plain, **parts})


def trials(
    subject: Subject, case: Case, *, window: int = 4, tolerance: float = 0.0, hosts: int = 2, **settings: Any
) -> Iterator[Trial]:
    """The samplers in which a subject is tried on a case: a sampler itself, or a part in its hosts.

    Trials that the case lacks a declared capability for are left out.

    Raises:
        CheckFailure: if the case is refused for another reason.
    """
    builders: list[tuple[str, Callable[[], Sampler]]] = []
    if subject.is_strategy:
        for number, parts in enumerate(HOSTS[subject.kind][:hosts]):

            def build(parts: dict[str, Any] = parts) -> Sampler:
                own = {subject.kind: subject.part(case.problem)}
                return Engine(base(**{**parts, **own, **settings, "window": window, "tolerance": tolerance}))

            builders.append((f"{subject.label} in host {number}", build))
    else:
        builders.append((subject.label, lambda: subject.sampler(window=window, tolerance=tolerance)))
    for host, (label, make) in enumerate(builders):
        if _fits(subject, case.problem, make):
            yield Trial(f"{label}, {case.label}, window {window}, tolerance {tolerance:g}", host, case, make)


def _fits(subject: Subject, problem: Problem, build: Callable[[], Sampler]) -> bool:
    """Whether a sampler takes a problem.

    Raises:
        CheckFailure: if it lacks nothing that the sampler declares, and is refused, or fails, all the same.
    """
    try:
        build().start(problem)
    except CapabilityError as error:
        if subject.is_strategy and (problem.scheme.levels is not None or not subject.part(problem).needs):
            raise CheckFailure(
                f"refuses {problem.scheme.name!r}, which lacks nothing that it needs: {error}"
            ) from error
        return False
    except ConfigurationError as error:
        if subject.is_strategy and subject.kind != "stopping":  # a rule may find the window too narrow: its check
            raise CheckFailure(f"refuses {problem.scheme.name!r} without a need that it declares: {error}") from error
        subject.memo.setdefault("refusals", set()).add(f"{problem.scheme.name}: {error}")
        return False
    except Exception as error:
        raise CheckFailure(f"{problem.scheme.name}: start raised {type(error).__name__}: {error}") from error
    return True


def cases(
    *, steps: int = 8, batch: int = 2, dtype: torch.dtype = torch.float64, kinds: tuple[str, ...] = tuple(KINDS)
) -> Iterator[Case]:
    """A small nonlinear problem of every kind of scheme: one-step, stages, multistep, noise, with levels or not."""
    for kind in kinds:
        number = list(KINDS).index(kind)
        scheme = KINDS[kind](np.random.default_rng([number, steps]), steps)
        case = make_case(scheme, seed=number, batch=batch, dim=3, stiffness=1.0, dtype=dtype, arithmetic=True)
        yield attrs.evolve(case, label=f"{kind} ({case.label})")
