"""Products by finite differences, for networks without forward-mode derivatives."""

from __future__ import annotations

from typing import Any

import attrs
import torch

import paracore
from paracore.errors import ConfigurationError, DenoiserError

__all__ = ["FiniteDifferences", "differenced", "finite_differences"]


@attrs.frozen
class FiniteDifferences:
    """Answers tangents by ``(f(x + h v) - f(x)) / h``: both evaluations are rows of one request to the inner evaluator.

    A round stays one round, of twice the rows. The step is relative: ``h |v| = step |x|`` per row (root mean squares),
    so that products are exact to about ``step`` and rounding noise is amplified by ``1 / step``.

    Attributes:
        inner: the evaluator that is asked.
        step: relative size of the move; ``None``: the square root of the dtype's precision.
    """

    inner: paracore.Evaluator
    step: float | None = None

    def __attrs_post_init__(self) -> None:
        if not callable(getattr(self.inner, "evaluate", None)):
            raise ConfigurationError(
                f"finite differences: {type(self.inner).__name__} is no evaluator; "
                "pass one, for instance paracore.evaluators.batched(denoiser)"
            )
        wrong = isinstance(self.step, bool) or not isinstance(self.step, (int, float)) or not 0 < self.step < 1
        if self.step is not None and wrong:
            raise ConfigurationError(
                f"finite differences: step is {self.step!r}; a number between 0 and 1, or None, is needed"
            )

    @property
    def capabilities(self) -> frozenset[str]:
        """What the evaluator inside can do, and ``"jvp"``."""
        return frozenset(self.inner.capabilities) | {"jvp"}

    @torch.no_grad()
    def evaluate(self, request: paracore.Request) -> paracore.Outputs:
        """Evaluate all rows, twice where tangents are given.

        Raises:
            DenoiserError: if the evaluator inside returns another number of rows.
        """
        if request.tangents is None:
            return self.inner.evaluate(request)
        x, v, count = request.states, request.tangents, len(request)
        wide = torch.promote_types(x.dtype, torch.float32)
        precision = torch.finfo(x.dtype).eps ** 0.5 if self.step is None else self.step
        length = _size(v, wide)
        h = precision * _size(x, wide).clamp_min(1e-3) / torch.where(length > 0, length, 1.0)
        moved = (x.to(wide) + h * v.to(wide)).to(x.dtype)
        asked: Any = attrs.evolve(
            request,
            nodes=request.nodes.repeat(2),
            samples=request.samples.repeat(2),
            states=torch.cat([x, moved]),
            times=request.times.repeat(2),
            tangents=None,
        )
        outputs = self.inner.evaluate(asked)
        if len(outputs.values) != 2 * count:
            raise DenoiserError(f"the evaluator returned {len(outputs.values)} rows; {2 * count} are needed")
        values, there = outputs.values[:count], outputs.values[count:]
        jvps = ((there.to(wide) - values.to(wide)) / h).to(values.dtype)
        return paracore.Outputs(values, jvps, outputs.calls)


def _size(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Root mean square of each row, shaped to multiply it."""
    norm: torch.Tensor = torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1, dtype=dtype)
    norm /= x[0].numel() ** 0.5
    return norm.reshape((-1,) + (1,) * (x.ndim - 1))


def finite_differences(evaluator: paracore.Evaluator, step: float | None = None) -> FiniteDifferences:
    """An evaluator that also answers tangents, by finite differences; see :class:`FiniteDifferences`."""
    return FiniteDifferences(evaluator, step)


def differenced(
    denoiser: paracore.Denoiser, *, max_batch: int | None = None, step: float | None = None
) -> FiniteDifferences:
    """An evaluator on one device that answers tangents by finite differences.

    Args:
        denoiser: any callable ``denoiser(x, t, rows)``; it needs no derivatives.
        max_batch: most rows in one network call; ``None`` is no limit.
        step: relative size of the move; ``None``: the square root of the dtype's precision.
    """
    return FiniteDifferences(paracore.evaluators.batched(denoiser, max_batch=max_batch), step)
