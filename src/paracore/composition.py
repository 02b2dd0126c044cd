"""The composition: a method as a filled-in record of strategies."""

from __future__ import annotations

from typing import Any

import attrs

from paracore.errors import CapabilityError, ConfigurationError
from paracore.problem import Problem
from paracore.strategies import (
    DampingPolicy,
    Initializer,
    JacobianApproximation,
    NoDamping,
    NoJacobian,
    NoPreconditioner,
    Preconditioner,
    ResidualConstruction,
    Selection,
    StoppingRule,
    Strategy,
)

__all__ = ["KINDS", "Composition"]

KINDS: dict[str, type[Strategy]] = {
    "residual": ResidualConstruction,
    "jacobian": JacobianApproximation,
    "preconditioner": Preconditioner,
    "damping": DampingPolicy,
    "stopping": StoppingRule,
    "initializer": Initializer,
    "selection": Selection,
}
"""The seven kinds of strategies, by the name of their place in a composition."""


def _positive(_: object, attribute: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{attribute.name} is {value!r}; an integer of at least 1 is needed")


def _not_negative(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    whole = attribute.name == "warmup"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= 0:
        kind = "an integer" if whole else "a number"
        raise ConfigurationError(f"{attribute.name} is {value!r}; {kind} of at least 0 is needed")


@attrs.frozen(kw_only=True)
class Composition:
    """Seven strategies, and how much may be evaluated in a round.

    Attributes:
        residual, jacobian, preconditioner, damping, stopping, initializer, selection: the parts.
        window: evaluations per round and sample, at least 1 (1 is sequential sampling).
        tolerance: in the unit of the stopping rule (for the default rule: accepted relative root-mean-square error of
            the sample against the sequential sampler's). 0: the sequential answer itself.
        output_form: the quantity that is held while a state moves: ``"network"`` (what the network returns),
            ``"drift"``, one of :data:`paracore.schemes.FORMS`, or ``"auto"`` (the scheme's ``calm_form``).
        warmup: rounds at the start that evaluate the front alone: sequential steps before the window opens.
        name: for messages and tables.

    Raises:
        ConfigurationError: for a window below 1, a negative tolerance, or a part of the wrong kind.
    """

    residual: ResidualConstruction
    stopping: StoppingRule
    initializer: Initializer
    selection: Selection
    jacobian: JacobianApproximation = attrs.field(factory=NoJacobian)
    preconditioner: Preconditioner = attrs.field(factory=NoPreconditioner)
    damping: DampingPolicy = attrs.field(factory=NoDamping)
    window: int = attrs.field(default=8, validator=_positive)
    tolerance: float = attrs.field(default=0.01, validator=_not_negative)
    output_form: str = "network"
    warmup: int = attrs.field(default=0, validator=_not_negative)
    name: str = "composition"

    def __attrs_post_init__(self) -> None:
        for kind, base in KINDS.items():
            part = getattr(self, kind)
            if not isinstance(part, base):
                raise ConfigurationError(
                    f"{kind} is {part!r}; a {base.__name__} is needed (paracore list shows the registered ones)"
                )

    @property
    def parts(self) -> dict[str, Strategy]:
        """The seven parts by kind."""
        return {kind: getattr(self, kind) for kind in KINDS}

    def check(self, problem: Problem) -> None:
        """Refuse a scheme that lacks what a part needs.

        Raises:
            CapabilityError: naming the part and the scheme.
        """
        scheme = problem.scheme
        for kind, part in self.parts.items():
            has_score = scheme.levels is not None and scheme.prediction is not None
            for need, there in (("levels", scheme.levels is not None), ("score", has_score)):
                if need in part.needs and not there:
                    raise CapabilityError(
                        f"{kind} {part!r} needs noise levels{' and a known prediction' if need == 'score' else ''}; "
                        f"scheme {scheme.name!r} has none: use a scheme from paracore.schemes, or another {kind}"
                    )
        scheme.form_gain(self.output_form)
        self.stopping.check(problem, self.window, self.tolerance)
