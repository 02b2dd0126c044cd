"""A catalogue of tiny, random-weight, offline diffusers pipelines: one function per pipeline, all in :data:`ZOO`.

Each is a real pipeline class with a few thousand parameters. Text encoders are left out and embeddings are given, so
nothing is downloaded and a call takes milliseconds. Layers that start at zero are woken: outputs depend on every input.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import attrs
import numpy as np
import torch
from torch import nn

with warnings.catch_warnings():
    # Optional back-ends and old torch interfaces are probed when diffusers is imported; nothing a pipeline needs.
    warnings.simplefilter("ignore")
    import diffusers as d
    import transformers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

__all__ = ["NAMES", "UNSUPPORTED", "ZOO", "Example", "in_bfloat16", "quiet", "run", "tensor_of"]

SIZE = 16
"""Height and width of the pictures, in pixels."""


@attrs.frozen
class Example:
    """A pipeline and one way to call it.

    Attributes:
        pipe: the pipeline, on the CPU, in float32 and evaluation mode, its progress bar switched off.
        call: keyword arguments of the call, all deterministic; the number of steps and the generator are not among
            them.
        kind: ``"image"``, ``"video"`` or ``"audio"``.
        supports_bf16: whether the unchanged pipeline runs when all of it is cast to bfloat16.
        generators: the call takes a list of that many generators; 0 for a single one.
        notes: what is special about its loop.
    """

    pipe: Any
    call: dict[str, Any]
    kind: str
    supports_bf16: bool = True
    generators: int = 0
    notes: str = ""

    def generator(self, seed: int) -> torch.Generator | list[torch.Generator]:
        """Seeded as the call wants it: one generator, or a list of them."""
        if self.generators:
            return [torch.Generator().manual_seed(seed + i) for i in range(self.generators)]
        return torch.Generator().manual_seed(seed)

    def arguments(self, steps: int = 6, seed: int = 0, **more: Any) -> dict[str, Any]:
        """All keyword arguments of one call, with a fresh generator; ``more`` replaces those of :attr:`call`."""
        defaults = {"output_type": "pt" if self.kind == "audio" else "np"}
        return {**defaults, **self.call, "num_inference_steps": steps, "generator": self.generator(seed), **more}


# --------------------------------------------------------------------------------------------------------- helpers


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines and none of the warnings that diffusers raises about itself."""
    logs = (diffusers_logging, transformers_logging)
    before = [log.get_verbosity() for log in logs]
    for log in logs:
        log.set_verbosity(50)
    try:
        with warnings.catch_warnings():
            # diffusers uses deprecated parts of itself, of torch (weight_norm) and of NumPy (__array__ without copy).
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            # Mochi asks for autocast to float32, which means "off" on a CPU.
            warnings.filterwarnings("ignore", message="In CPU autocast", category=UserWarning)
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.set_verbosity(level)


def noise(*shape: int, seed: int = 11) -> torch.Tensor:
    """Standard normal, the same on every machine and call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(size: int = SIZE, seed: int = 21) -> torch.Tensor:
    """``(1, 3, size, size)`` in [0, 1]."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def frame_of(seed: int, size: int = SIZE) -> Any:
    """The same as a PIL image."""
    return d.image_processor.VaeImageProcessor.numpy_to_pil(picture(size, seed)[0].permute(1, 2, 0).numpy())[0]


def right_half(size: int = SIZE) -> torch.Tensor:
    """``(1, 1, size, size)``: the mask of an inpainting call, one where to paint."""
    return (torch.arange(size) >= size // 2).float().expand(1, 1, size, size).clone()


def embeddings(length: int, width: int, pooled: int = 0) -> dict[str, torch.Tensor]:
    """Prompt embeddings ``(1, length, width)``, their negatives and, with ``pooled``, the pooled ones of both."""
    found = {"prompt_embeds": noise(1, length, width), "negative_prompt_embeds": noise(1, length, width, seed=12)}
    if pooled:
        found["pooled_prompt_embeds"] = noise(1, pooled)
        found["negative_pooled_prompt_embeds"] = noise(1, pooled, seed=13)
    return found


def masks(length: int, names: str = "prompt_attention_mask", dtype: torch.dtype = torch.long) -> dict[str, Any]:
    """Attention masks of the embeddings and their negatives; a few tokens at the end are padding."""
    mask = torch.ones(1, length, dtype=dtype)
    mask[:, -2:] = 0
    negative = torch.ones(1, length, dtype=dtype)
    negative[:, -3:] = 0
    return {names: mask, f"negative_{names}": negative}


def awake(build: Callable[[], Any]) -> Any:
    """The module built from seed 0, in evaluation mode; parameters left at zero or unset get small random values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build().eval()
        for name, parameter in module.named_parameters():
            # Padding tokens are torch.empty in some models: whatever the memory held.
            if "pad_token" in name or not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.05)
    return module


def absent(*names: str) -> dict[str, None]:
    """Components a pipeline wants named but does not need when embeddings are given."""
    return dict.fromkeys(names)


def text(count: int) -> dict[str, None]:
    """The absent text encoders and tokenizers ``text_encoder, text_encoder_2, ...``."""
    ends = ["", *(f"_{i}" for i in range(2, count + 1))]
    return absent(*(f"{part}{end}" for end in ends for part in ("text_encoder", "tokenizer")))


def example(pipe: Any, call: dict[str, Any], kind: str = "image", **more: Any) -> Example:
    """The record, with the pipeline's progress bar switched off."""
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    return Example(pipe, call, kind, **more)


def flow(**config: Any) -> Any:
    return d.FlowMatchEulerDiscreteScheduler(**config)


def kl(latent_channels: int = 4, blocks: int = 1, **config: Any) -> Any:
    """The usual image autoencoder; its stride is ``2 ** (blocks - 1)``."""
    defaults: dict[str, Any] = {
        "sample_size": 32,
        "block_out_channels": (4,) * blocks,
        "down_block_types": ("DownEncoderBlock2D",) * blocks,
        "up_block_types": ("UpDecoderBlock2D",) * blocks,
        "layers_per_block": 1,
        "latent_channels": latent_channels,
        "norm_num_groups": 1,
    }
    return awake(lambda: d.AutoencoderKL(**{**defaults, **config}))


def flow_kl(latent_channels: int, blocks: int = 1) -> Any:
    """As the flow-matching image models have it: shifted latents, no convolution around them."""
    return kl(
        latent_channels,
        blocks,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def clip_vision(size: int = SIZE) -> Any:
    """The configuration of a tiny image encoder: four patches."""
    return transformers.CLIPVisionConfig(
        hidden_size=8,
        projection_dim=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        patch_size=size // 2,
    )


SD_BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
IMAGE: dict[str, Any] = {"height": SIZE, "width": SIZE}


# ------------------------------------------------------------------------------------------- Stable Diffusion 1 and XL


def sd_unet(**config: Any) -> Any:
    defaults: dict[str, Any] = {
        "block_out_channels": (4, 8),
        "layers_per_block": 1,
        "sample_size": 32,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 8,
        "norm_num_groups": 2,
    }
    return awake(lambda: d.UNet2DConditionModel(**{**defaults, **config}))


def sd_parts(scheduler: Any = None) -> dict[str, Any]:
    scheduler = scheduler or d.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **SD_BETAS)
    return {
        "unet": sd_unet(),
        "scheduler": scheduler,
        "vae": kl(4),
        "requires_safety_checker": False,
        **absent("text_encoder", "tokenizer", "safety_checker", "feature_extractor"),
    }


def sd(scheduler: Any = None, notes: str = "", **more: Any) -> Example:
    """Stable Diffusion with DDIM, or with the scheduler given."""
    call = {**embeddings(8, 8), **IMAGE, "guidance_scale": 6.0, **more}
    return example(d.StableDiffusionPipeline(**sd_parts(scheduler)), call, notes=notes)


def sd_heun() -> Example:
    return sd(d.HeunDiscreteScheduler(**SD_BETAS), "two evaluations per step, each with its own timestep")


def sd_euler_ancestral() -> Example:
    return sd(d.EulerAncestralDiscreteScheduler(**SD_BETAS), "draws noise in every step")


def sd_pndm() -> Example:
    return sd(d.PNDMScheduler(skip_prk_steps=True, **SD_BETAS), "one timestep is repeated")


def sd_sde() -> Example:
    scheduler = d.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", use_karras_sigmas=True, **SD_BETAS)
    return sd(scheduler, "DPM-Solver++ 2M SDE: multistep and stochastic")


def sd_dpm() -> Example:
    return sd(d.DPMSolverMultistepScheduler(**SD_BETAS), "DPM-Solver++ 2M")


def sd_eta() -> Example:
    return sd(notes="stochastic DDIM: eta reaches the scheduler through the call", eta=0.7)


def sd_clip() -> Example:
    """DDIM with its default clipping: the step is not linear in the network's output."""
    return sd(d.DDIMScheduler(clip_sample=True, **SD_BETAS), "clipped: no table, only replay")


def sd_rescale() -> Example:
    scheduler = d.DDIMScheduler(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        **SD_BETAS,
    )
    return sd(
        scheduler, "v prediction, zero terminal SNR, guidance rescaled by standard deviations", guidance_rescale=0.7
    )


def sd_generators() -> Example:
    """Two pictures, each with its own generator, and noise in every step."""
    made = sd(d.EulerAncestralDiscreteScheduler(**SD_BETAS), num_images_per_prompt=2)
    return attrs.evolve(made, generators=2, notes="a list of generators")


def sd_img2img() -> Example:
    call = {**embeddings(8, 8), "image": picture(), "strength": 0.7, "guidance_scale": 6.0}
    pipe = d.StableDiffusionImg2ImgPipeline(**sd_parts())
    return example(pipe, call, notes="starts inside the schedule")


def sd_inpaint() -> Example:
    """A network without mask channels: the known half is put back after every step."""
    call = {
        **embeddings(8, 8),
        **IMAGE,
        "image": picture(),
        "mask_image": right_half(),
        "guidance_scale": 6.0,
        "strength": 1.0,
    }
    pipe = d.StableDiffusionInpaintPipeline(**sd_parts())
    return example(pipe, call, notes="edits the latents after the step")


def sd_inpaint9() -> Example:
    """A network that sees mask and masked picture: nothing is edited after the step."""
    parts = {**sd_parts(), "unet": sd_unet(in_channels=9)}
    pipe = d.StableDiffusionInpaintPipeline(**parts)
    return example(pipe, attrs.asdict(sd_inpaint())["call"], notes="mask and picture are input channels")


def sd_controlnet() -> Example:
    control = awake(
        lambda: d.ControlNetModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            in_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            cross_attention_dim=8,
            norm_num_groups=2,
            conditioning_embedding_out_channels=(4,),
        )
    )
    call = {
        **embeddings(8, 8),
        "image": picture(),
        "guidance_scale": 6.0,
        "controlnet_conditioning_scale": 0.8,
        "control_guidance_end": 0.6,
    }
    pipe = d.StableDiffusionControlNetPipeline(controlnet=control, **sd_parts())
    return example(pipe, call, notes="a second network; its strength is looked up by loop index")


def sd_lcm() -> Example:
    parts = {**sd_parts(d.LCMScheduler(**SD_BETAS)), "unet": sd_unet(time_cond_proj_dim=8)}
    call = {"prompt_embeds": noise(1, 8, 8), **IMAGE, "guidance_scale": 6.0, "original_inference_steps": 50}
    pipe = d.LatentConsistencyModelPipeline(**parts)
    return example(pipe, call, notes="stochastic; decodes the data prediction of the last step, not its state")


def animatediff() -> Example:
    unet = sd_unet(norm_num_groups=2)
    adapter = awake(
        lambda: d.MotionAdapter(
            block_out_channels=(4, 8),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=2,
            motion_max_seq_length=8,
            use_motion_mid_block=False,
        )
    )
    pipe = d.AnimateDiffPipeline(
        unet=unet,
        motion_adapter=adapter,
        vae=kl(4),
        scheduler=d.DDIMScheduler(clip_sample=False, beta_schedule="linear"),
        **absent("text_encoder", "tokenizer", "feature_extractor", "image_encoder"),
    )
    call = {**embeddings(8, 8), **IMAGE, "num_frames": 3, "guidance_scale": 6.0}
    return example(pipe, call, "video", notes="frames lie in the batch dimension inside the network")


def sdxl_parts(scheduler: Any = None) -> dict[str, Any]:
    unet = awake(
        lambda: d.UNet2DConditionModel(
            block_out_channels=(2, 4),
            layers_per_block=2,
            sample_size=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=80,
            cross_attention_dim=64,
            norm_num_groups=1,
        )
    )
    scheduler = scheduler or d.EulerDiscreteScheduler(timestep_spacing="leading", **SD_BETAS)
    return {"unet": unet, "scheduler": scheduler, "vae": kl(4), **text(2)}


def sdxl() -> Example:
    call = {**embeddings(8, 64, pooled=32), **IMAGE, "guidance_scale": 5.0}
    pipe = d.StableDiffusionXLPipeline(**sdxl_parts())
    return example(pipe, call, notes="scales the model's input by the scheduler's step index")


def sdxl_img2img() -> Example:
    call = {**embeddings(8, 64, pooled=32), "image": picture(), "strength": 0.7, "guidance_scale": 5.0}
    pipe = d.StableDiffusionXLImg2ImgPipeline(**sdxl_parts())
    return example(pipe, call, notes="starts inside the schedule; the scheduler has a begin index")


def kandinsky22() -> Example:
    """A UNet that also predicts a variance; the pipeline drops it or hands it on, as the scheduler says."""
    unet = awake(
        lambda: d.UNet2DConditionModel(
            in_channels=4,
            out_channels=8,
            addition_embed_type="image",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(4, 8),
            layers_per_block=1,
            encoder_hid_dim=8,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=2,
            resnet_time_scale_shift="scale_shift",
        )
    )
    movq = awake(
        lambda: d.VQModel(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        )
    )
    scheduler = d.DDPMScheduler(clip_sample=True, variance_type="learned_range")
    pipe = d.KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)
    call = {"image_embeds": noise(1, 8), "negative_image_embeds": noise(1, 8, seed=12), "height": 64, "width": 64}
    return example(pipe, {**call, "guidance_scale": 4.0}, notes="learned variance: twice as many channels as the state")


# ----------------------------------------------------------------------------------------- unconditional, and by class


def pixel_unet() -> Any:
    return awake(
        lambda: d.UNet2DModel(
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    )


def ddim() -> Example:
    pipe = d.DDIMPipeline(unet=pixel_unet(), scheduler=d.DDIMScheduler(clip_sample=False))
    notes = "iterates a progress bar over the timesteps; hands NumPy arrays out, which know no bfloat16"
    return example(pipe, {"batch_size": 1}, supports_bf16=False, notes=notes)


def ddpm() -> Example:
    pipe = d.DDPMPipeline(unet=pixel_unet(), scheduler=d.DDPMScheduler(clip_sample=False))
    notes = "draws noise in every step but the last; hands NumPy arrays out, which know no bfloat16"
    return example(pipe, {"batch_size": 2}, supports_bf16=False, notes=notes)


def consistency() -> Example:
    pipe = d.ConsistencyModelPipeline(unet=pixel_unet(), scheduler=d.CMStochasticIterativeScheduler())
    notes = "stochastic and clipped; hands NumPy arrays out, which know no bfloat16"
    return example(pipe, {"batch_size": 1}, supports_bf16=False, notes=notes)


def deepfloyd() -> Example:
    """Pixels, a learned variance that the scheduler uses, and thresholding."""
    unet = awake(
        lambda: d.UNet2DConditionModel(
            sample_size=SIZE,
            in_channels=3,
            out_channels=6,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            cross_attention_dim=32,
            encoder_hid_dim=32,
            attention_head_dim=8,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            cross_attention_norm="group_norm",
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
        )
    )
    scheduler = d.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    pipe = d.IFPipeline(
        unet=unet,
        scheduler=scheduler,
        requires_safety_checker=False,
        **absent("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "watermarker"),
    )
    call = {**embeddings(8, 32), **IMAGE, "guidance_scale": 5.0}
    return example(pipe, call, notes="learned variance and thresholding: no table; stochastic")


def dit() -> Example:
    transformer = awake(
        lambda: d.DiTTransformer2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=4,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_zero",
            norm_elementwise_affine=False,
        )
    )
    pipe = d.DiTPipeline(transformer=transformer, vae=kl(4), scheduler=d.DDIMScheduler(clip_sample=False))
    return example(pipe, {"class_labels": [1]}, notes="the state itself holds both halves of guidance")


def pixart() -> Example:
    transformer = awake(
        lambda: d.PixArtTransformer2DModel(
            sample_size=SIZE,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=32,
            cross_attention_dim=16,
            norm_num_groups=1,
            use_additional_conditions=False,
        )
    )
    pipe = d.PixArtSigmaPipeline(
        transformer=transformer, vae=kl(4), scheduler=d.DPMSolverMultistepScheduler(), **text(1)
    )
    call = {**embeddings(8, 32), **masks(8), **IMAGE, "negative_prompt": None, "use_resolution_binning": False}
    return example(pipe, call, notes="predicts a variance, dropped by the pipeline")


def sana() -> Example:
    transformer = awake(
        lambda: d.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
        )
    )
    kinds, channels, layers = ("ResBlock", "EfficientViTBlock"), (8, 8), (1, 1)
    vae = awake(
        lambda: d.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=kinds,
            decoder_block_types=kinds,
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            encoder_layers_per_block=layers,
            decoder_layers_per_block=layers,
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            upsample_block_type="interpolate",
            downsample_block_type="conv",
            scaling_factor=0.41407,
        )
    )
    scheduler = d.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = d.SanaPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **text(1))
    call = {
        **embeddings(8, 8),
        **masks(8),
        "height": 32,
        "width": 32,
        "negative_prompt": None,
        "use_resolution_binning": False,
    }
    return example(pipe, call, notes="flow matching with a DPM-Solver")


# ---------------------------------------------------------------------------------------------- flow-matching pictures


def flux_parts(**config: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": [4, 4, 8],
        "guidance_embeds": True,
    }
    transformer = awake(lambda: d.FluxTransformer2DModel(**{**defaults, **config}))
    return {
        "transformer": transformer,
        "vae": flow_kl(1),
        "scheduler": flow(use_dynamic_shifting=True),
        **text(2),
    }


FLUX: dict[str, Any] = {
    "prompt_embeds": noise(1, 8, 32),
    "pooled_prompt_embeds": noise(1, 32),
    "guidance_scale": 3.5,
}


def flux() -> Example:
    return example(d.FluxPipeline(**flux_parts()), {**FLUX, **IMAGE}, notes="guidance is an input of the network")


def flux_cfg() -> Example:
    call = {**embeddings(8, 32, pooled=32), **IMAGE, "guidance_scale": 3.5, "true_cfg_scale": 2.0}
    return example(d.FluxPipeline(**flux_parts()), call, notes="calls the network twice per step")


def flux_img2img() -> Example:
    call = {**FLUX, **IMAGE, "image": picture(), "strength": 0.7}
    return example(d.FluxImg2ImgPipeline(**flux_parts()), call, notes="starts inside the schedule")


def flux_inpaint() -> Example:
    call = {**FLUX, **IMAGE, "image": picture(), "mask_image": right_half(), "strength": 0.9}
    return example(d.FluxInpaintPipeline(**flux_parts()), call, notes="edits the latents after the step")


def flux_kontext() -> Example:
    call = {**FLUX, **IMAGE, "image": picture(), "max_area": SIZE * SIZE, "_auto_resize": False}
    notes = "the picture's tokens are appended for the network and cut off its output"
    return example(d.FluxKontextPipeline(**flux_parts()), call, notes=notes)


def flux_modular() -> Example:
    """The same network in a pipeline assembled from blocks; its call returns the pictures themselves."""
    blocks = d.modular_pipelines.FluxAutoBlocks()
    del blocks.sub_blocks["text_encoder"]
    pipe = blocks.init_pipeline()
    parts = {name: part for name, part in flux_parts().items() if part is not None}
    pipe.update_components(**parts)
    pending = [pipe._blocks]  # pipe.blocks is a copy
    while pending:
        block = pending.pop()
        pending += getattr(block, "sub_blocks", {}).values()
        if hasattr(block, "progress_bar"):
            block.set_progress_bar_config(disable=True)
    call = {**FLUX, **IMAGE, "output": "images"}
    return example(pipe, call, notes="a ModularPipeline: the loop is a block, its timesteps lie in a state object")


def sd3_parts(**config: Any) -> dict[str, Any]:
    transformer = awake(
        lambda: d.SD3Transformer2DModel(
            sample_size=32,
            patch_size=1,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
            **config,
        )
    )
    return {"transformer": transformer, "vae": flow_kl(4), "scheduler": flow(shift=3.0), **text(3)}


def sd3() -> Example:
    call = {**embeddings(8, 32, pooled=64), **IMAGE, "guidance_scale": 5.0}
    return example(d.StableDiffusion3Pipeline(**sd3_parts()), call)


def sd3_slg() -> Example:
    """Skip-layer guidance between two fractions of the steps: more calls in the middle of the loop."""
    call = {
        **sd3().call,
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": 0.2,
        "skip_layer_guidance_stop": 0.8,
    }
    return example(d.StableDiffusion3Pipeline(**sd3_parts()), call, notes="a further call for some loop indices")


def sd3_img2img() -> Example:
    call = {**embeddings(8, 32, pooled=64), **IMAGE, "guidance_scale": 5.0, "image": picture(), "strength": 0.7}
    return example(d.StableDiffusion3Img2ImgPipeline(**sd3_parts()), call, notes="starts inside the schedule")


def auraflow() -> Example:
    transformer = awake(
        lambda: d.AuraFlowTransformer2DModel(
            sample_size=32,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pos_embed_max_size=256,
        )
    )
    pipe = d.AuraFlowPipeline(transformer=transformer, vae=kl(4), scheduler=flow(shift=1.73), **text(1))
    return example(pipe, {**embeddings(8, 32), **masks(8), **IMAGE}, notes="tells the network t / 1000")


def lumina2() -> Example:
    transformer = awake(
        lambda: d.Lumina2Transformer2DModel(
            sample_size=4,
            in_channels=4,
            hidden_size=8,
            num_layers=2,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(128, 128, 128),
            cap_feat_dim=8,
        )
    )
    pipe = d.Lumina2Pipeline(
        transformer=transformer, vae=flow_kl(4), scheduler=flow(use_dynamic_shifting=True), **text(1)
    )
    call = {**embeddings(8, 8), **masks(8), "height": 64, "width": 64, "cfg_trunc_ratio": 0.5}
    return example(pipe, call, notes="guidance for the first half of the loop indices; the time runs upwards")


def qwen() -> Example:
    transformer = awake(
        lambda: d.QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        )
    )
    vae = awake(
        lambda: d.AutoencoderKLQwenImage(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
    )
    pipe = d.QwenImagePipeline(transformer=transformer, vae=vae, scheduler=flow(use_dynamic_shifting=True), **text(1))
    call = {**embeddings(7, 16), **masks(7, "prompt_embeds_mask"), **IMAGE, "true_cfg_scale": 3.0}
    return example(pipe, call, notes="calls the network twice per step; guidance keeps the norm")


def flux2() -> Example:
    transformer = awake(
        lambda: d.Flux2Transformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
        )
    )
    vae = awake(
        lambda: d.AutoencoderKLFlux2(
            sample_size=32,
            block_out_channels=(4,),
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            layers_per_block=1,
            latent_channels=1,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )
    pipe = d.Flux2Pipeline(transformer=transformer, vae=vae, scheduler=flow(use_dynamic_shifting=True), **text(1))
    return example(pipe, {"prompt_embeds": noise(1, 8, 16), **IMAGE})


def z_image() -> Example:
    transformer = awake(
        lambda: d.ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        )
    )
    pipe = d.ZImagePipeline(transformer=transformer, vae=flow_kl(4), scheduler=flow(shift=3.0), **text(1))
    call = {"prompt_embeds": [noise(8, 16)], "negative_prompt_embeds": [noise(5, 16, seed=12)], **IMAGE}
    return example(pipe, call, notes="the network takes and returns lists of samples; cfg_truncation goes by time")


def chroma() -> Example:
    transformer = awake(
        lambda: d.ChromaTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=32,
            approximator_layers=1,
        )
    )
    pipe = d.ChromaPipeline(
        transformer=transformer, vae=flow_kl(1), scheduler=flow(use_dynamic_shifting=True), **text(1)
    )
    call = {**embeddings(8, 32), **masks(8, dtype=torch.float32), **IMAGE, "guidance_scale": 3.0}
    return example(pipe, call, notes="calls the network twice per step")


def cogview4() -> Example:
    transformer = awake(
        lambda: d.CogView4Transformer2DModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
        )
    )
    scheduler = flow(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    pipe = d.CogView4Pipeline(transformer=transformer, vae=kl(4), scheduler=scheduler, **text(1))
    return example(pipe, {**embeddings(16, 32), **IMAGE}, notes="hands both timesteps and sigmas to the scheduler")


def hidream() -> Example:
    transformer = awake(
        lambda: d.HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_channels=[32, 16],
            text_emb_dim=64,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(8, 8),
            llama_layers=[0, 1],
        )
    )
    pipe = d.HiDreamImagePipeline(transformer=transformer, vae=flow_kl(4), scheduler=flow(shift=3.0), **text(4))
    pipe.default_sample_size = SIZE
    call = {
        "prompt_embeds_t5": noise(1, 8, 32),
        "negative_prompt_embeds_t5": noise(1, 8, 32, seed=12),
        "prompt_embeds_llama3": noise(2, 1, 8, 16),
        "negative_prompt_embeds_llama3": noise(2, 1, 8, 16, seed=12),
        "pooled_prompt_embeds": noise(1, 64),
        "negative_pooled_prompt_embeds": noise(1, 64, seed=13),
        **IMAGE,
    }
    return example(pipe, call, notes="experts are chosen per token: not continuous; flips the output's sign")


# ---------------------------------------------------------------------------------------------------------------- video


VIDEO: dict[str, Any] = {"height": SIZE, "width": SIZE, "num_frames": 9}


def wan_transformer(**config: Any) -> Any:
    defaults: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 32,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }
    return awake(lambda: d.WanTransformer3DModel(**{**defaults, **config}))


def wan_parts(scheduler: Any = None, **config: Any) -> dict[str, Any]:
    vae = awake(
        lambda: d.AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        )
    )
    scheduler = scheduler or d.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return {"transformer": wan_transformer(**config), "vae": vae, "scheduler": scheduler, **text(1)}


def wan() -> Example:
    call = {**embeddings(16, 32), **VIDEO, "guidance_scale": 6.0}
    return example(d.WanPipeline(**wan_parts()), call, "video", notes="calls the network twice per step")


def wan22() -> Example:
    """Two experts: one network for the noisy part of the schedule, the other one for the rest."""
    second = wan_transformer(num_layers=1)
    pipe = d.WanPipeline(transformer_2=second, boundary_ratio=0.7, **wan_parts())
    call = {**embeddings(16, 32), **VIDEO, "guidance_scale": 4.0, "guidance_scale_2": 3.0}
    return example(pipe, call, "video", notes="two networks, chosen by timestep")


def wan_i2v() -> Example:
    parts = wan_parts(in_channels=36, image_dim=8, added_kv_proj_dim=24)
    pipe = d.WanImageToVideoPipeline(
        image_encoder=awake(lambda: transformers.CLIPVisionModel(clip_vision())),
        image_processor=transformers.CLIPImageProcessor(size=SIZE, crop_size=SIZE),
        **parts,
    )
    call = {**wan().call, "image": frame_of(21)}
    return example(pipe, call, "video", notes="the picture's latents are input channels")


def wan_ti2v() -> Example:
    """Times expanded per token: those of the given first frame stay at 0."""
    pipe = d.WanImageToVideoPipeline(
        expand_timesteps=True, **absent("image_encoder", "image_processor", "transformer_2"), **wan_parts()
    )
    call = {**wan().call, "image": picture()}
    return example(pipe, call, "video", notes="one timestep per token; the first frame is put back after the loop")


def skyreels_forcing() -> Example:
    """Diffusion forcing: every frame has its own time and its own copy of the scheduler."""
    transformer = awake(
        lambda: d.SkyReelsV2Transformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=32,
            ffn_dim=32,
            num_layers=1,
            rope_max_seq_len=32,
        )
    )
    pipe = d.SkyReelsV2DiffusionForcingPipeline(**{**wan_parts(), "transformer": transformer})
    call = {**embeddings(16, 32), **VIDEO, "prompt": None, "guidance_scale": 6.0}
    return example(pipe, call, "video", notes="iterates a matrix of times, not the scheduler's timesteps")


def svd() -> Example:
    unet = awake(
        lambda: d.UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=32,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=8,
            num_attention_heads=2,
            projection_class_embeddings_input_dim=24,
            addition_time_embed_dim=8,
            num_frames=2,
        )
    )
    vae = awake(lambda: d.AutoencoderKLTemporalDecoder(block_out_channels=(32,), latent_channels=4))
    scheduler = d.EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        sigma_min=0.002,
        sigma_max=700.0,
        use_karras_sigmas=True,
        timestep_spacing="leading",
        **SD_BETAS,
    )
    pipe = d.StableVideoDiffusionPipeline(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        image_encoder=awake(lambda: transformers.CLIPVisionModelWithProjection(clip_vision(224))),
        feature_extractor=transformers.CLIPImageProcessor(),
    )
    call = {"image": frame_of(21), "height": SIZE, "width": SIZE, "num_frames": 2, "decode_chunk_size": 2}
    return example(pipe, call, "video", notes="guidance differs from frame to frame; continuous timesteps")


def cogvideox_vae() -> Any:
    return awake(
        lambda: d.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        )
    )


def cogvideox_transformer(**config: Any) -> Any:
    defaults: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 2,
        "text_embed_dim": 32,
        "num_layers": 1,
        "sample_width": 2,
        "sample_height": 2,
        "sample_frames": 9,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 16,
    }
    return awake(lambda: d.CogVideoXTransformer3DModel(**{**defaults, **config}))


def cogvideox_parts(scheduler: Any = None, **config: Any) -> dict[str, Any]:
    kind = scheduler or d.CogVideoXDDIMScheduler
    made = kind(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    return {
        "transformer": cogvideox_transformer(**config),
        "vae": cogvideox_vae(),
        "scheduler": made,
        **text(1),
    }


COGVIDEOX: dict[str, Any] = {
    **embeddings(16, 32),
    "height": SIZE,
    "width": SIZE,
    "num_frames": 8,
    "guidance_scale": 6.0,
    "max_sequence_length": 16,
}


def cogx() -> Example:
    return example(d.CogVideoXPipeline(**cogvideox_parts()), dict(COGVIDEOX), "video")


def cogx15() -> Example:
    """CogVideoX 1.5: patches in time too, rotary embeddings, guidance that changes over the steps."""
    config = {
        "patch_size_t": 2,
        "use_rotary_positional_embeddings": True,
        "patch_bias": False,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
    }
    call = {**COGVIDEOX, "num_frames": 9, "use_dynamic_cfg": True}
    return example(d.CogVideoXPipeline(**cogvideox_parts(**config)), call, "video", notes="guidance depends on t")


def cogx_dpm() -> Example:
    pipe = d.CogVideoXPipeline(**cogvideox_parts(d.CogVideoXDPMScheduler))
    notes = "stochastic; step takes and returns the last data prediction and reads the previous timestep by index"
    return example(pipe, dict(COGVIDEOX), "video", notes=notes)


def cogx_v2v() -> Example:
    pipe = d.CogVideoXVideoToVideoPipeline(**cogvideox_parts())
    call = {**COGVIDEOX, "video": [frame_of(seed) for seed in range(8)], "strength": 0.7}
    del call["num_frames"]
    return example(pipe, call, "video", notes="starts inside the schedule")


def cogx_i2v() -> Example:
    pipe = d.CogVideoXImageToVideoPipeline(**cogvideox_parts(in_channels=8))
    return example(pipe, {**COGVIDEOX, "image": picture()}, "video", notes="the picture's latents are input channels")


def hunyuan_vae() -> Any:
    return awake(
        lambda: d.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        )
    )


def hyv() -> Example:
    transformer = awake(
        lambda: d.HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=True,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
        )
    )
    pipe = d.HunyuanVideoPipeline(transformer=transformer, vae=hunyuan_vae(), scheduler=flow(shift=7.0), **text(2))
    call = {
        "prompt_embeds": noise(1, 16, 16),
        "pooled_prompt_embeds": noise(1, 8),
        "prompt_attention_mask": masks(16)["prompt_attention_mask"],
        **VIDEO,
        "guidance_scale": 6.0,
    }
    return example(pipe, call, "video", notes="guidance is an input of the network; float32 state in a bfloat16 model")


def hyv15() -> Example:
    """HunyuanVideo 1.5: guidance is an object with a state, told the loop index in every step."""
    transformer = awake(
        lambda: d.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=8,
            image_embed_dim=12,
            rope_axes_dim=(4, 6, 6),
            target_size=SIZE,
            task_type="t2v",
        )
    )
    vae = awake(
        lambda: d.AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(16, 16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
        )
    )
    guider = d.ClassifierFreeGuidance(guidance_scale=4.0, start=0.0, stop=0.8)
    pipe = d.HunyuanVideo15Pipeline(
        transformer=transformer, vae=vae, scheduler=flow(shift=5.0), guider=guider, **text(2)
    )
    pipe.vision_num_semantic_tokens = 4
    call = {
        **embeddings(8, 16),
        **masks(8, "prompt_embeds_mask"),
        "prompt_embeds_2": noise(1, 6, 8, seed=14),
        "negative_prompt_embeds_2": noise(1, 6, 8, seed=15),
        **masks(6, "prompt_embeds_mask_2"),
        **VIDEO,
    }
    return example(pipe, call, "video", notes="guidance is an object with a state and a range of steps; no callbacks")


def ltx_parts() -> dict[str, Any]:
    transformer = awake(
        lambda: d.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=32,
        )
    )
    layers, scaling = (1,) * 5, (True, True, False, False)
    vae = awake(
        lambda: d.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            layers_per_block=layers,
            decoder_layers_per_block=layers,
            spatio_temporal_scaling=scaling,
            decoder_spatio_temporal_scaling=scaling,
            patch_size=1,
        )
    )
    # The usual range of image models: without it the shift would be extrapolated from a handful of tokens.
    scheduler = flow(use_dynamic_shifting=True, base_image_seq_len=1, max_image_seq_len=4096)
    return {"transformer": transformer, "vae": vae, "scheduler": scheduler, **text(1)}


LTX: dict[str, Any] = {**embeddings(8, 32), **masks(8), "height": 32, "width": 32, "num_frames": 9}


def ltx() -> Example:
    return example(d.LTXPipeline(**ltx_parts()), {**LTX, "guidance_scale": 3.0}, "video")


def ltx_i2v() -> Example:
    call = {**LTX, "guidance_scale": 3.0, "image": picture(32)}
    pipe = d.LTXImageToVideoPipeline(**ltx_parts())
    return example(pipe, call, "video", notes="steps all frames but the first, which is put back after the step")


def ltx2() -> Example:
    """Video and sound together: two states, each with its own copy of the scheduler."""
    transformer = awake(
        lambda: d.LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=4,
            audio_out_channels=4,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            num_layers=1,
            caption_channels=16,
            rope_double_precision=False,
        )
    )
    connectors = awake(
        lambda: d.pipelines.ltx2.connectors.LTX2TextConnectors(
            caption_channels=16,
            text_proj_in_factor=1,
            video_connector_num_attention_heads=4,
            video_connector_attention_head_dim=4,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=None,
            audio_connector_num_attention_heads=4,
            audio_connector_attention_head_dim=4,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=None,
            connector_rope_base_seq_len=32,
            rope_double_precision=False,
        )
    )
    vae = awake(
        lambda: d.AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8,),
            decoder_block_out_channels=(8,),
            layers_per_block=(1,),
            decoder_layers_per_block=(1, 1),
            spatio_temporal_scaling=(True,),
            decoder_spatio_temporal_scaling=(True,),
            decoder_inject_noise=(False, False),
            downsample_type=("spatial",),
            upsample_residual=(False,),
            upsample_factor=(1,),
            decoder_causal=False,
            patch_size=1,
        )
    )
    audio = awake(
        lambda: d.AutoencoderKLLTX2Audio(
            base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
        )
    )
    vocoder = awake(
        lambda: d.pipelines.ltx2.vocoder.LTX2Vocoder(
            in_channels=16,
            hidden_channels=32,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
        )
    )
    pipe = d.LTX2Pipeline(
        transformer=transformer,
        connectors=connectors,
        vae=vae,
        audio_vae=audio,
        vocoder=vocoder,
        scheduler=flow(),
        **text(1),
    )
    call = {**embeddings(8, 16), **masks(8), "height": 32, "width": 32, "num_frames": 5, "frame_rate": 25.0}
    call |= {"stg_scale": 0.0, "modality_scale": 1.0, "audio_stg_scale": 0.0, "audio_modality_scale": 1.0}
    return example(pipe, call, "video", notes="steps two schedulers per iteration: one for video, one for sound")


def mochi() -> Example:
    transformer = awake(
        lambda: d.MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            text_embed_dim=32,
            time_embed_dim=4,
            max_sequence_length=16,
        )
    )
    vae = awake(
        lambda: d.AutoencoderKLMochi(
            encoder_block_out_channels=(32,) * 4,
            decoder_block_out_channels=(32,) * 4,
            layers_per_block=(1,) * 5,
        )
    )
    pipe = d.MochiPipeline(transformer=transformer, vae=vae, scheduler=flow(invert_sigmas=True), **text(1))
    call = {**embeddings(16, 32), **masks(16, dtype=torch.bool), "height": SIZE, "width": SIZE, "num_frames": 7}
    return example(pipe, call, "video", notes="sigmas run upwards; steps in float32 and casts back")


def allegro() -> Example:
    transformer = awake(
        lambda: d.AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=1,
            cross_attention_dim=24,
            sample_width=8,
            sample_height=8,
            sample_frames=8,
            caption_channels=24,
        )
    )
    vae = awake(
        lambda: d.AutoencoderKLAllegro(
            block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2
        )
    )
    scheduler = d.EulerAncestralDiscreteScheduler()
    pipe = d.AllegroPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **text(1))
    call = {
        **embeddings(8, 24),
        **masks(8),
        "negative_prompt": None,
        "height": SIZE,
        "width": SIZE,
        "num_frames": 8,
        "output_type": "latent",
    }
    return example(pipe, call, "video", notes="stochastic; latents are returned (its decoder only works in tiles)")


def kandinsky5() -> Example:
    transformer = awake(
        lambda: d.Kandinsky5Transformer3DModel(
            in_text_dim=16,
            in_text_dim2=8,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_text_blocks=1,
            num_visual_blocks=1,
            axes_dims=(4, 6, 6),
        )
    )
    pipe = d.Kandinsky5T2VPipeline(transformer=transformer, vae=hunyuan_vae(), scheduler=flow(shift=5.0), **text(2))
    lengths = torch.tensor([0, 8], dtype=torch.int32)
    call = {
        "prompt_embeds_qwen": noise(1, 8, 16),
        "negative_prompt_embeds_qwen": noise(1, 8, 16, seed=12),
        "prompt_embeds_clip": noise(1, 8),
        "negative_prompt_embeds_clip": noise(1, 8, seed=13),
        "prompt_cu_seqlens": lengths,
        "negative_prompt_cu_seqlens": lengths,
        **VIDEO,
        "num_frames": 5,
    }
    notes = "writes the new state into the old state's memory; in bfloat16 its time embedding stays float32 and fails"
    return example(pipe, call, "video", supports_bf16=False, notes=notes)


def latte() -> Example:
    transformer = awake(
        lambda: d.LatteTransformer3DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            video_length=2,
            attention_head_dim=8,
            num_attention_heads=3,
            caption_channels=32,
            in_channels=4,
            cross_attention_dim=24,
            out_channels=8,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
        )
    )
    pipe = d.LattePipeline(transformer=transformer, vae=kl(4), scheduler=d.DDIMScheduler(clip_sample=False), **text(1))
    call = {**embeddings(8, 32), "negative_prompt": None, "height": 8, "width": 8, "video_length": 2}
    return example(
        pipe, {**call, "clean_caption": False}, "video", notes="predicts a variance, dropped by the pipeline"
    )


# ---------------------------------------------------------------------------------------------------------------- audio


def stable_audio() -> Example:
    transformer = awake(
        lambda: d.StableAudioDiTModel(
            sample_size=4,
            in_channels=3,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=2,
            out_channels=3,
            cross_attention_dim=8,
            time_proj_dim=8,
            global_states_input_dim=16,
            cross_attention_input_dim=8,
        )
    )
    vae = awake(
        lambda: d.AutoencoderOobleck(
            encoder_hidden_size=6,
            downsampling_ratios=[1, 2],
            decoder_channels=3,
            decoder_input_channels=3,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=4,
        )
    )
    projection = awake(
        lambda: d.StableAudioProjectionModel(text_encoder_dim=8, conditioning_dim=8, min_value=0, max_value=32)
    )
    scheduler = d.EDMDPMSolverMultistepScheduler(
        solver_order=2, prediction_type="v_prediction", sigma_data=1.0, sigma_schedule="exponential"
    )
    pipe = d.StableAudioPipeline(
        transformer=transformer, vae=vae, projection_model=projection, scheduler=scheduler, **text(1)
    )
    call = {**embeddings(6, 8), "audio_end_in_s": 1.5, "guidance_scale": 6.0}
    return example(pipe, call, "audio", notes="EDM preconditioning in the scheduler; calls the network by position")


# ------------------------------------------------------------------------------------------------------------- registry


def quietly(build: Callable[[], Example]) -> Callable[[], Example]:
    """The same function under :func:`quiet`."""

    @functools.wraps(build)
    def made() -> Example:
        with quiet():
            return build()

    return made


ZOO: dict[str, Callable[[], Example]] = {
    build.__name__: quietly(build)
    for build in (
        flux,
        sd3,
        wan,
        cogx,
        cogx15,
        hyv,
        sd,
        sdxl,
        ddim,
        dit,
        flux_cfg,
        flux_img2img,
        flux_inpaint,
        flux_kontext,
        flux_modular,
        sd3_slg,
        sd3_img2img,
        wan22,
        wan_i2v,
        wan_ti2v,
        cogx_dpm,
        cogx_i2v,
        cogx_v2v,
        svd,
        skyreels_forcing,
        hyv15,
        ltx,
        ltx_i2v,
        ltx2,
        mochi,
        allegro,
        kandinsky5,
        latte,
        sd_heun,
        sd_euler_ancestral,
        sd_pndm,
        sd_sde,
        sd_dpm,
        sd_eta,
        sd_clip,
        sd_rescale,
        sd_generators,
        sd_img2img,
        sd_inpaint,
        sd_inpaint9,
        sd_controlnet,
        sd_lcm,
        animatediff,
        sdxl_img2img,
        kandinsky22,
        ddpm,
        consistency,
        deepfloyd,
        pixart,
        sana,
        auraflow,
        lumina2,
        qwen,
        flux2,
        z_image,
        chroma,
        cogview4,
        hidream,
        stable_audio,
    )
}
"""Name -> a function that builds the example anew."""

UNSUPPORTED: tuple[str, ...] = ("ltx2", "skyreels_forcing")
"""Names whose loop steps several schedulers: a parallel run must refuse them."""

NAMES: tuple[str, ...] = tuple(ZOO)


def in_bfloat16(made: Example) -> Example:
    """The example with its pipeline (in place) and the floating-point tensors of its call cast to bfloat16."""

    def cast(value: Any) -> Any:
        if isinstance(value, list):
            return [cast(entry) for entry in value]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.to(torch.bfloat16)
        return value

    with quiet():
        made.pipe.to(torch.bfloat16)
    return attrs.evolve(made, call={name: cast(value) for name, value in made.call.items()})


def run(
    made: Example, steps: int = 6, seed: int = 0, *, through: Callable[..., Any] | None = None, **more: Any
) -> torch.Tensor:
    """The unchanged pipeline's own sequential run.

    Args:
        made: from one of the functions of :data:`ZOO`.
        steps: ``num_inference_steps`` of the call.
        seed: of the generator, or of the first one of a list.
        through: is called instead of the pipeline, with the same arguments.
        more: arguments that replace those of ``made.call``.

    Returns:
        Images, frames or audio as one float32 tensor on the CPU, by default as ``output_type="np"`` (audio: ``"pt"``).
    """
    with quiet():
        return tensor_of((through or made.pipe)(**made.arguments(steps, seed, **more)))


def tensor_of(output: Any) -> torch.Tensor:
    """Images, frames or audio of a pipeline's output object (or tuple, or bare array) as one float32 CPU tensor."""
    for name in ("images", "frames", "audios"):
        if getattr(output, name, None) is not None:
            output = getattr(output, name)
            break
    else:
        output = output[0] if isinstance(output, tuple) else output
    if isinstance(output, torch.Tensor):
        return output.detach().cpu().float()
    return torch.from_numpy(np.array(output)).float()
