"""Everything that the package registers, against paracore's conformance kit."""

from __future__ import annotations

from paracore.testing import parametrize_with_checks


@parametrize_with_checks(
    [
        "initializer:variable-order",
        "initializer:variable-order(highest=1, points=3)",
        "selection:collocation",
        "selection:collocation(stride=3, degree=5)",
        "sampler:smooth",
        "sampler:two-step-parareal",
        "sampler:two-step-parareal(order=1, window=3)",
    ]
)
def test_contracts(check):
    check()
