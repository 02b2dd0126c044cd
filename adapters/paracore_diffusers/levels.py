"""Noise levels and prediction of a scheduler's table: taken from the scheduler's attributes, believed only if they fit.

A network that knows the data point and the noise moves the state along ``alpha * data + sigma * noise`` exactly,
whatever the order of the sampler. So candidates are tried against the table on that path, and dropped where it does not
follow them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from paracore.schemes import Levels, Scheme
from paracore_diffusers.stepper import Stepper

__all__ = ["Context", "find_levels"]

Array = npt.NDArray[np.float64]
Path = tuple[Array, Array]

TOLERANCE = 2e-3
"""Misfit allowed on the path: timesteps are rounded to integers in many schedulers."""
FLOW_CLIP = 0.01
"""Smallest ``1 - t`` in the flow's ``g**2 = 2 t / (1 - t)``, as in :mod:`paracore.schemes`."""

CONFIGURED = {
    "epsilon": "noise",
    "sample": "data",
    "original_sample": "data",
    "v_prediction": "v-prediction",
    "flow_prediction": "velocity",
}


@attrs.frozen(eq=False)
class Context:
    """What a scheduler tells about its levels.

    Attributes:
        sigmas: ``(N + 1,)`` its ``sigmas`` at the nodes, or ``None``.
        bars: ``(T,)`` its ``alphas_cumprod``, or ``None``.
        betas: ``(T,)`` or ``None``.
        circle: ``(alphas, betas)`` at the nodes where those are a point on the circle, or ``None``.
        config: its configuration.
    """

    sigmas: Array | None
    bars: Array | None
    betas: Array | None
    circle: Path | None
    config: Mapping[str, Any]

    @classmethod
    def of(cls, stepper: Stepper) -> Context:
        """Read a scheduler's public attributes."""
        scheduler, n = stepper.scheduler, stepper.nodes
        begin = getattr(scheduler, "begin_index", None)
        start = begin if isinstance(begin, int) else max(len(scheduler.timesteps) - n, 0)
        sigmas = _numbers(getattr(scheduler, "sigmas", None))
        alphas, betas = (_numbers(getattr(scheduler, k, None)) for k in ("alphas", "betas"))
        circle = None
        if alphas is not None and betas is not None and len(alphas) == len(betas) >= start + n + 1:
            cut = slice(start, start + n + 1)
            if np.allclose(alphas[cut] ** 2 + betas[cut] ** 2, 1, atol=1e-5):
                circle = alphas[cut], betas[cut]
        return cls(
            sigmas[start : start + n + 1] if sigmas is not None and len(sigmas) >= start + n + 1 else None,
            _numbers(getattr(scheduler, "alphas_cumprod", None)),
            betas,
            circle,
            stepper.config,
        )


def find_levels(scheme: Scheme, context: Context) -> tuple[Levels | None, str | None]:
    """Levels and prediction that the table follows; ``None`` each where none of the candidates does.

    Levels without a prediction: the network's output is none of paracore's forms (EDM's preconditioned output, say).
    """
    if scheme.steps < 2:
        return None, None
    configured = CONFIGURED.get(str(context.config.get("prediction_type")))
    for alpha, sigma in _paths(scheme, context):
        forms = list(_forms(alpha, sigma, context))
        forms.sort(key=lambda form: form[0] != configured)
        for form, p, q in forms:
            end = _follows(scheme, alpha, sigma, p, q)
            if end is not None:
                levels = _levels(np.append(alpha[: scheme.steps], end[0]), np.append(sigma[: scheme.steps], end[1]))
                return _with_time(levels, scheme, context), form
    return None, None


def _numbers(value: Any) -> Array | None:
    try:
        numbers = None if value is None else np.asarray(value.cpu() if hasattr(value, "cpu") else value, np.float64)
    except (TypeError, ValueError):
        return None
    return numbers if numbers is not None and numbers.ndim == 1 and np.isfinite(numbers).all() else None


def _paths(scheme: Scheme, context: Context) -> Iterator[Path]:
    """Candidates for ``alpha, sigma``, at the N + 1 nodes or the first N."""
    n, time, sigmas = scheme.steps, scheme.time, context.sigmas
    if sigmas is not None:
        if sigmas.max() <= 1 + 1e-6:
            yield 1 - sigmas, sigmas
        yield np.ones(n + 1), sigmas
        root = np.sqrt(1 + sigmas**2)
        yield 1 / root, sigmas / root
    if context.circle is not None:
        yield context.circle
    bars = context.bars
    if bars is not None and np.all(time >= 0) and time.max() <= len(bars) - 1:
        bar = np.interp(time, np.arange(len(bars)), bars)
        yield np.sqrt(bar), np.sqrt(1 - bar)
        if np.all(bars > 0):  # noise-to-data levels, interpolated as they are where stages lie between timesteps
            ratio = np.exp(np.interp(time, np.arange(len(bars)), 0.5 * np.log((1 - bars) / bars)))
            yield np.ones(n), ratio
    if time.max() <= np.pi / 2 and time.min() >= 0:
        yield np.cos(time), np.sin(time)
    if time.min() >= 0 and time.max() <= 1:
        yield 1 - time, time
        yield time, 1 - time


def _forms(alpha: Array, sigma: Array, context: Context) -> Iterator[tuple[str | None, Array, Array]]:
    """``(form, p, q)``: the output is ``p * data + q * noise``. Without a name: none of paracore's forms."""
    one, zero = np.ones_like(alpha), np.zeros_like(alpha)
    yield "noise", zero, one
    yield "data", one, zero
    yield "velocity", -one, one
    yield "v-prediction", -sigma, alpha
    yield None, one, -one
    norm = np.hypot(alpha, sigma)
    yield None, -sigma / norm, alpha / norm
    spread = context.config.get("sigma_data")
    if isinstance(spread, int | float) and spread > 0 and np.all(sigma[: len(sigma) - 1] > 0):
        total = sigma**2 + spread**2
        out = np.maximum(sigma, 1e-30) * spread / np.sqrt(total)
        yield None, (1 - alpha * spread**2 / total) / out, -sigma * spread**2 / total / out
        yield None, -(1 - alpha * spread**2 / total) / out, sigma * spread**2 / total / out


def _follows(scheme: Scheme, alpha: Array, sigma: Array, p: Array, q: Array) -> tuple[float, float] | None:
    """Whether the table stays on the path: then where it ends. The noise that it draws counts with its variance."""
    n, random = scheme.steps, scheme.stochastic
    data, noise = np.zeros(n), np.zeros(n)
    for table, d, e in ((scheme.a, alpha, sigma), (scheme.b, p, q)):
        for lag in range(table.shape[1]):
            data[lag:] += table[lag:, lag] * d[: n - lag]
            noise[lag:] += table[lag:, lag] * e[: n - lag]
    noise = np.sqrt(noise**2 + (scheme.c**2).sum(axis=1)) if random else noise
    inside = slice(0, n - 1)
    scale = np.maximum(sigma[: n - 1], 0.05)
    off_data = np.abs(data[inside] - alpha[1:n]) > TOLERANCE
    off_noise = np.abs(noise[inside] - sigma[1:n]) > (0.5 if random else TOLERANCE) * scale
    if off_data.any() or off_noise.any() or not 0 < data[-1] < 1 + TOLERANCE:
        return None
    if noise[-1] < -TOLERANCE or noise[-1] > sigma[n - 1] * (1 + TOLERANCE) + TOLERANCE:
        return None
    return float(data[-1]), max(float(noise[-1]), 0.0)


def _levels(alpha: Array, sigma: Array) -> Levels:
    """``g`` and ``span`` in the time of each family: the flow's and EDM's is sigma itself."""
    span = -np.diff(sigma)
    if np.allclose(alpha, 1, atol=1e-6):
        g = np.sqrt(2 * sigma[:-1])
    else:
        g = np.sqrt(2 * sigma[:-1] / np.maximum(1 - sigma[:-1], FLOW_CLIP))
    return Levels(alpha, sigma, g, _filled(span))


def _with_time(levels: Levels, scheme: Scheme, context: Context) -> Levels:
    """Variance-preserving levels: time runs over the training steps, ``g**2 = T * beta`` where betas are known."""
    alpha, sigma = levels.alpha, levels.sigma
    if not np.allclose(alpha[:-1] ** 2 + sigma[:-1] ** 2, 1, atol=1e-3) or np.allclose(alpha, 1, atol=1e-6):
        return levels
    steps = float(context.config.get("num_train_timesteps") or 1000)
    time = scheme.time if scheme.time.max() > 2 else scheme.time * steps
    span = _filled(-np.diff(np.append(time + 1, 0)) / steps)
    known = context.betas is not None and len(context.betas) == steps and time.max() <= steps - 1 and time.min() >= 0
    if known and context.betas is not None:
        g = np.sqrt(steps * context.betas[np.rint(time).astype(np.int64)])
    else:
        g = np.sqrt(np.maximum(levels.transition_variance, 0) / span)
    return attrs.evolve(levels, g=g, span=span)


def _filled(span: Array) -> Array:
    """Stages of one step share its span: one of zero would make tolerances there zero."""
    out, last = span.copy(), float(np.abs(span).max()) or 1.0
    positive = span > 0
    if positive.any():
        last = float(span[np.argmax(positive)])
    for node in range(len(out)):
        last = float(out[node]) if positive[node] else last
        out[node] = last
    return out
