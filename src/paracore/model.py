"""What an adapter registers under a name, so that the command line and the harness can sample from it."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch

from paracore.errors import ConfigurationError
from paracore.request import Denoiser
from paracore.schemes.table import Scheme

__all__ = ["Model"]


class Model(abc.ABC):
    """A family of denoisers with known shapes.

    Attributes:
        shape: ``event``, shape of one sample.
        classes: number of classes, 0 if the model is not class-conditional.
        reference: where the model comes from: paper, data, licence.
    """

    shape: tuple[int, ...]
    classes: int = 0
    reference: ClassVar[str] = ""

    @abc.abstractmethod
    def denoiser(self, scheme: Scheme, labels: torch.Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """The network for a scheme: it returns ``scheme.prediction`` at the scheme's noise levels.

        Args:
            scheme: must know its noise levels.
            labels: ``(B,)`` int64 class of each sample of the problem, or ``None``.
            guidance: classifier-free guidance scale; 1 is none.

        Raises:
            ConfigurationError: for labels or guidance that the model does not have.
            SchemeError: for a scheme without noise levels.
        """

    def images(self, samples: torch.Tensor) -> torch.Tensor | None:
        """Samples ``(B, *event)`` as images ``(B, H, W)`` or ``(B, H, W, 3)`` in [0, 1]; ``None``: no picture."""
        return None

    def check_request(self, labels: torch.Tensor | None, guidance: float) -> None:
        """Refuse labels or guidance that the model does not have."""
        if guidance != 1.0 and (not self.classes or labels is None):
            what = "has no classes" if not self.classes else "was given no labels"
            raise ConfigurationError(
                f"guidance {guidance} needs a class-conditional model and labels; {type(self).__name__} {what}: "
                "use guidance=1, or a model with classes"
            )
        if labels is None:
            return
        if not self.classes:
            raise ConfigurationError(f"labels were given, but {type(self).__name__} has no classes")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            raise ConfigurationError(f"labels must be (B,) int64; got {tuple(labels.shape)} {labels.dtype}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise ConfigurationError(f"labels must lie in 0..{self.classes - 1}; got {labels.tolist()}")
