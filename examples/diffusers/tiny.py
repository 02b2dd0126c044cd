"""Pipelines of the examples' classes with a few thousand random weights: what ``--tiny`` runs.

Text encoders are left out and embeddings are given, so nothing is downloaded. There is nothing to see in the results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as d
import torch

__all__ = ["cogvideox15", "flux", "hunyuan_video", "sd35", "wan21"]

Tiny = tuple[Any, dict[str, Any]]


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(build: Callable[[], Any]) -> Any:
    """A network from seed 0; parameters that start at zero get small values, lest the prompt have no effect."""
    torch.manual_seed(0)
    network = build().eval()
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.05)
    return network


def image_vae(latent_channels: int) -> Any:
    return seeded(
        lambda: d.AutoencoderKL(
            sample_size=32,
            block_out_channels=(4,),
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.06,
            scaling_factor=1.5,
        )
    )


def without_text(count: int) -> dict[str, None]:
    """The missing text encoders and tokenizers."""
    ends = ["", "_2", "_3"][:count]
    return {f"{part}{end}": None for end in ends for part in ("text_encoder", "tokenizer")}


def prompts(length: int, width: int, pooled: int = 0) -> dict[str, torch.Tensor]:
    """Embeddings of the prompt and of the negative prompt."""
    found = {"prompt_embeds": noise(1, length, width), "negative_prompt_embeds": noise(1, length, width, seed=2)}
    if pooled:
        found |= {"pooled_prompt_embeds": noise(1, pooled), "negative_pooled_prompt_embeds": noise(1, pooled, seed=3)}
    return found


def flux() -> Tiny:
    transformer = seeded(
        lambda: d.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
            guidance_embeds=True,
        )
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = d.FluxPipeline(transformer=transformer, vae=image_vae(1), scheduler=scheduler, **without_text(2))
    embeddings = {"prompt_embeds": noise(1, 8, 32), "pooled_prompt_embeds": noise(1, 32)}
    return pipe, {**embeddings, "height": 32, "width": 32, "guidance_scale": 3.5}


def sd35() -> Tiny:
    transformer = seeded(
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
            qk_norm="rms_norm",
        )
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = d.StableDiffusion3Pipeline(transformer=transformer, vae=image_vae(4), scheduler=scheduler, **without_text(3))
    return pipe, {**prompts(8, 32, pooled=64), "height": 16, "width": 16, "guidance_scale": 4.5}


def hunyuan_video() -> Tiny:
    transformer = seeded(
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
    vae = seeded(
        lambda: d.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        )
    )
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe = d.HunyuanVideoPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **without_text(2))
    mask = torch.ones(1, 16, dtype=torch.long)
    mask[:, -2:] = 0
    call = {"prompt_embeds": noise(1, 16, 16), "pooled_prompt_embeds": noise(1, 8), "prompt_attention_mask": mask}
    return pipe, {**call, "height": 32, "width": 32, "num_frames": 9, "guidance_scale": 6.0}


def wan21() -> Tiny:
    transformer = seeded(
        lambda: d.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            ffn_dim=32,
            num_layers=2,
            rope_max_seq_len=32,
        )
    )
    vae = seeded(
        lambda: d.AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        )
    )
    scheduler = d.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    pipe = d.WanPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **without_text(1))
    return pipe, {**prompts(16, 32), "height": 32, "width": 32, "num_frames": 9, "guidance_scale": 5.0}


def cogvideox15() -> Tiny:
    transformer = seeded(
        lambda: d.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=32,
            num_layers=1,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            patch_size=2,
            patch_size_t=2,
            patch_bias=False,
            use_rotary_positional_embeddings=True,
            temporal_compression_ratio=4,
            max_text_seq_length=16,
        )
    )
    vae = seeded(
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
    scheduler = d.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    pipe = d.CogVideoXPipeline(transformer=transformer, vae=vae, scheduler=scheduler, **without_text(1))
    call = {**prompts(16, 32), "height": 16, "width": 16, "num_frames": 9, "guidance_scale": 6.0}
    return pipe, {**call, "use_dynamic_cfg": True, "max_sequence_length": 16}
