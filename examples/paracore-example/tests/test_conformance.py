"""Everything that the package registers, against paracore's conformance kit."""

from __future__ import annotations

from paracore.testing import parametrize_with_checks


@parametrize_with_checks(
    [
        "initializer:variable-order",
        "initializer:variable-order(points=3)",
        "selection:collocation",
        "selection:collocation(degree=5)",
        "sampler:smooth",
        "sampler:two-step-parareal",
        "sampler:two-step-parareal(order=1, window=3)",
    ]
)
def test_contracts(check):
    check()
