"""The digits network as an ordinary diffusers pipeline. Needs diffusers: not imported by ``import paracore_digits``."""

# mypy: disable-error-code="no-untyped-call"
# (diffusers leaves most of its methods without types)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor

from paracore.errors import ConfigurationError
from paracore_digits.model import DigitsModel, _on_grid
from paracore_digits.network import CLASSES, NULL_CLASS, DigitsUNet

__all__ = ["DigitsNetwork", "DigitsPipeline", "digits_pipeline"]

_TRAIN_TIMESTEPS = 1000
"""The scheduler's timesteps are flow times in [0, 1] times this."""


class DigitsNetwork(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers has no types
    """:class:`~paracore_digits.network.DigitsUNet` with the calling convention of diffusers' UNets.

    Args:
        widths: channels at the three resolutions.
        embedding: width of the embedding of time and label.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96), embedding: int = 128) -> None:
        super().__init__()
        a, b, c = widths  # a list when read from a file
        self.network = DigitsUNet((a, b, c), embedding)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        class_labels: torch.Tensor,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """Velocity, noise minus data, at ``sample``.

        In float32 the network sees its input rounded to the grid that :class:`~paracore_digits.DigitsModel` uses.

        Args:
            sample: ``(M, 1, 28, 28)``.
            timestep: flow time times 1000, one number or ``(M,)``.
            class_labels: ``(M,)`` int64 in 0..10; 10 stands for "no class".
            return_dict: return an object with the field ``sample`` instead of a tuple.

        Returns:
            ``(M, 1, 28, 28)``, in the dtype of ``sample``.
        """
        time = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0]) / _TRAIN_TIMESTEPS
        seen = _on_grid(sample) if sample.dtype == torch.float32 else sample
        velocity = self.network(seen, time, class_labels)
        return UNet2DOutput(sample=velocity) if return_dict else (velocity,)


class DigitsPipeline(DiffusionPipeline):
    """Draws handwritten digits by class: flow matching in pixel space with classifier-free guidance.

    Args:
        unet: the velocity network.
        scheduler: any scheduler for flow matching that accepts sigmas.
    """

    unet: DigitsNetwork
    scheduler: Any
    model_cpu_offload_seq = "unet"  # type: ignore[assignment]
    _callback_tensor_inputs = ("latents",)

    def __init__(self, unet: DigitsNetwork, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        self._guidance_scale, self._num_timesteps, self._interrupt = 1.0, 0, False

    @property
    def guidance_scale(self) -> float:
        """Of the newest call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the network is also asked for "no class"."""
        return self._guidance_scale > 1.0

    @property
    def num_timesteps(self) -> int:
        """Of the newest call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set ``_interrupt`` in a callback to skip the remaining steps."""
        return self._interrupt

    def prepare_latents(
        self,
        batch_size: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Standard normal ``(batch_size, 1, 28, 28)``, or what was given, in ``dtype`` on ``device``.

        Raises:
            ConfigurationError: if the shape of what was given, or the length of a list of generators, does not fit.
        """
        shape = (batch_size, 1, 28, 28)
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ConfigurationError(
                f"{len(generator)} generators for {batch_size} digits: pass one generator, or one per digit"
            )
        if latents is None:
            noise: torch.Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
            return noise
        if tuple(latents.shape) != shape:
            raise ConfigurationError(
                f"latents of shape {tuple(latents.shape)} for {batch_size} digits: pass {shape}, or none"
            )
        return latents.to(device=device, dtype=dtype)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | torch.Tensor,
        guidance_scale: float = 4.0,
        num_inference_steps: int = 50,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one picture per label.

        Args:
            class_labels: digits 0..9, B of them.
            guidance_scale: 1 or less for none.
            num_inference_steps: steps of equal length in flow time (before the scheduler's shift).
            generator: of the initial noise; a list of B, or one for all.
            latents: the initial noise ``(B, 1, 28, 28)``, instead of drawing it.
            output_type: ``"pil"``, ``"np"`` ``(B, 28, 28, 1)`` in [0, 1], ``"pt"`` ``(B, 1, 28, 28)`` in [0, 1], or
                ``"latent"``, the last state as it is.
            return_dict: return an object with the field ``images`` instead of a tuple.
            callback_on_step_end: called as ``(pipeline, step, timestep, tensors)`` after every step; returns tensors
                that replace those of the loop.
            callback_on_step_end_tensor_inputs: names of what it is handed.

        Raises:
            ConfigurationError: for labels outside 0..9, latents or generators that do not fit, unknown tensor names.
        """
        labels = torch.as_tensor(class_labels, dtype=torch.int64).reshape(-1)
        wrong = labels[(labels < 0) | (labels >= CLASSES)]
        if len(labels) == 0 or len(wrong):
            raise ConfigurationError(f"class_labels {labels.tolist()}: pass one or more digits, each 0..{CLASSES - 1}")
        unknown = sorted(set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise ConfigurationError(
                f"callback_on_step_end_tensor_inputs names {unknown[0]!r}: allowed are "
                f"{list(self._callback_tensor_inputs)}"
            )
        self._guidance_scale, self._interrupt = guidance_scale, False
        device = self._execution_device
        labels = labels.to(device)
        latents = self.prepare_latents(len(labels), self.unet.dtype, device, generator, latents)

        # Down to 1/N, not to the scheduler's own smallest sigma: N steps of equal length, the last one ends at 0.
        sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        self.scheduler.set_timesteps(sigmas=sigmas.tolist(), device=device)
        timesteps = self.scheduler.timesteps
        self._num_timesteps = len(timesteps)

        if self.do_classifier_free_guidance:
            labels = torch.cat([labels, torch.full_like(labels, NULL_CLASS)])
        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                model_input = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
                timestep = t.expand(model_input.shape[0])
                velocity = self.unet(model_input, timestep, class_labels=labels, return_dict=False)[0]
                if self.do_classifier_free_guidance:
                    with_label, without = velocity.chunk(2)
                    velocity = without + guidance_scale * (with_label - without)
                latents = self.scheduler.step(velocity, t, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = {"latents": latents} if callback_on_step_end_tensor_inputs else {}
                    latents = callback_on_step_end(self, i, t, tensors).pop("latents", latents)
                progress_bar.update()

        images: Any = latents if output_type == "latent" else self.image_processor.postprocess(latents, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        return ImagePipelineOutput(images=images)


def digits_pipeline() -> DigitsPipeline:
    """The pipeline with the shipped weights, in float32 and evaluation mode, with Euler's method and no shift."""
    unet = DigitsNetwork()
    # Copied: the model shares its network, and a pipeline may be cast or moved.
    unet.network.load_state_dict(DigitsModel().network().state_dict())
    unet.eval().requires_grad_(False)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=_TRAIN_TIMESTEPS, shift=1.0)
    return DigitsPipeline(unet=unet, scheduler=scheduler)
