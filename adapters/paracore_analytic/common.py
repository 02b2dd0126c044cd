"""What the analytic denoisers share: constants per dtype and device, noise levels, random matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from paracore.errors import ConfigurationError, SchemeError
from paracore.schemes import Levels, Scheme

__all__ = [
    "Constants",
    "Output",
    "at_least",
    "compute_dtype",
    "double",
    "generator_of",
    "known_levels",
    "random_orthogonal",
]


@final
class Constants:
    """Float64 tensors, cast once for each dtype and device that a denoiser is called with."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self._source = tensors
        self._cast: dict[tuple[torch.dtype, torch.device], dict[str, torch.Tensor]] = {}

    def like(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """All tensors on the device of ``x``; floating-point ones in its dtype."""
        key = (x.dtype, x.device)
        if key not in self._cast:
            self._cast[key] = {
                name: value.to(x.device, x.dtype) if value.is_floating_point() else value.to(x.device)
                for name, value in self._source.items()
            }
        return self._cast[key]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a denoiser computes in: float32 for half precision, else the state's own dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def double(value: torch.Tensor | Sequence[object] | float, name: str) -> torch.Tensor:
    """A finite float64 CPU tensor.

    Raises:
        ConfigurationError: for anything else.
    """
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{name} is {type(value).__name__}; a tensor of numbers is needed") from error
    if not bool(torch.isfinite(tensor).all()):
        raise ConfigurationError(f"{name} has non-finite numbers; all must be finite")
    return tensor


def at_least(minimum: float, **options: float) -> None:
    """Refuse options below a minimum.

    Raises:
        ConfigurationError: naming the first option that is too small.
    """
    for name, value in options.items():
        if not value >= minimum:
            raise ConfigurationError(f"{name} is {value}; {minimum} or more is needed")


def generator_of(seed: int) -> torch.Generator:
    """A CPU generator with this seed."""
    return torch.Generator().manual_seed(seed)


def random_orthogonal(dimension: int, generator: torch.Generator) -> torch.Tensor:
    """``(d, d)`` float64 orthogonal matrix, Haar distributed."""
    columns = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    q: torch.Tensor
    q, r = torch.linalg.qr(columns)
    return q * torch.ones_like(r.diagonal()).copysign(r.diagonal())


@final
class Output:
    """A data prediction as the scheme's own output, ``u * x + v * data`` with a weight for each row.

    The same numbers as ``scheme.output_from_data``, but from tensors only, which ``torch.func.jvp`` needs.
    """

    def __init__(self, scheme: Scheme, who: str) -> None:
        levels = known_levels(scheme, who)
        self._plain = scheme.prediction == "data"
        u, v = levels.conversion("data", str(scheme.prediction), slice(0, scheme.steps))
        self._constants = Constants(u=torch.from_numpy(u), v=torch.from_numpy(v))

    def __call__(self, node: torch.Tensor, x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        """The output at ``node (M,)`` from states and data predictions ``(M, *event)``."""
        if self._plain:
            return data
        c, shape = self._constants.like(x), (-1,) + (1,) * (x.ndim - 1)
        return x * c["u"][node].reshape(shape) + data * c["v"][node].reshape(shape)


def known_levels(scheme: Scheme, who: str) -> Levels:
    """The scheme's noise levels.

    Raises:
        SchemeError: if it has none, or its prediction is unknown or cannot be made from a data prediction.
    """
    if scheme.levels is None or scheme.prediction is None:
        missing = "noise levels" if scheme.levels is None else "known prediction"
        raise SchemeError(
            f"{who} needs a scheme that knows its noise levels and prediction; {scheme.name!r} has no {missing}: "
            "use a builder of paracore.schemes"
        )
    scheme.levels.conversion("data", scheme.prediction, slice(0, scheme.steps))
    return scheme.levels
