"""The digits network as a diffusers pipeline: the same numbers as the library's sequential run, and its manners."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import paracore
from paracore.errors import ConfigurationError
from paracore.schemes import flow_euler
from paracore_digits import DigitsModel
from paracore_digits.pipeline import DigitsPipeline, digits_pipeline

LABELS = [3, 7]


@pytest.fixture(scope="module")
def pipe() -> DigitsPipeline:
    made = digits_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = len(LABELS), seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=seeded(seed))


def gap(pipe: DigitsPipeline, steps: int, guidance: float, start: torch.Tensor) -> float:
    """Largest difference between the pipeline's last state and that of the library's sequential run."""
    scheme = flow_euler(steps)
    denoiser = DigitsModel().denoiser(scheme, torch.tensor(LABELS), guidance)
    expected = paracore.sequential(paracore.Problem(scheme, start), paracore.evaluators.batched(denoiser))
    found = pipe(LABELS, guidance, num_inference_steps=steps, latents=start, output_type="latent").images
    assert found.dtype == expected.dtype == start.dtype
    return float((found - expected).abs().max())


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [8, 32])
def test_equals_the_sequential_run(pipe, steps, guidance):
    """Numbers of steps whose lengths are exact in float32."""
    assert gap(pipe, steps, guidance, noise()) < 1e-5


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_equals_the_sequential_run_in_float64(guidance):
    """Any number of steps: without the grid of float32, to which nearly equal states may be rounded differently."""
    pipe = digits_pipeline().to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    assert gap(pipe, 20, guidance, noise().double()) < 1e-5


def test_is_close_to_the_sequential_run_whatever_the_grid_does(pipe):
    assert gap(pipe, 50, 4.0, noise()) < 3e-4


def test_output_types(pipe):
    def draw(kind):
        return pipe(LABELS, num_inference_steps=2, generator=seeded(), output_type=kind, return_dict=False)[0]

    latent, tensor, array, pictures = (draw(kind) for kind in ("latent", "pt", "np", "pil"))
    assert latent.shape == tensor.shape == (2, 1, 28, 28)
    assert torch.allclose(tensor, ((latent + 1) / 2).clamp(0, 1))
    assert array.shape == (2, 28, 28, 1)
    np.testing.assert_allclose(array[..., 0], tensor[:, 0], atol=1e-6)
    assert [(p.mode, p.size) for p in pictures] == [("L", (28, 28))] * 2


def test_noise_comes_from_the_generators(pipe):
    def draw(generator, **more):
        return pipe(LABELS, 1.0, 2, generator=generator, output_type="pt", **more).images

    assert torch.equal(draw(seeded()), draw(None, latents=noise()))
    both = draw([seeded(1), seeded(2)])
    assert torch.allclose(both, torch.cat([draw([seeded(1), seeded(9)])[:1], draw([seeded(9), seeded(2)])[1:]]))


def test_callback_sees_every_step_and_may_replace_the_state(pipe):
    seen = []

    def callback(owner, step, timestep, tensors):
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 3 else tensors

    out = pipe(5, num_inference_steps=4, generator=seeded(), output_type="latent", callback_on_step_end=callback)
    assert seen == [(0, 1000.0), (1, 750.0), (2, 500.0), (3, 250.0)]
    assert not out.images.any()


def test_interrupt_skips_the_rest(pipe):
    def stop(owner, step, timestep, tensors):
        owner._interrupt = True
        return {**tensors, "latents": tensors["latents"]}

    def evaluations(callback):
        counted = []
        hook = pipe.unet.register_forward_hook(lambda *_: counted.append(1))
        pipe(5, num_inference_steps=4, generator=seeded(), output_type="latent", callback_on_step_end=callback)
        hook.remove()
        return len(counted)

    assert evaluations(stop) == 1
    assert evaluations(None) == 4


def test_bfloat16_and_its_own_network():
    pipe = digits_pipeline()
    pipe.set_progress_bar_config(disable=True)
    single = pipe(5, num_inference_steps=8, generator=seeded(), output_type="pt").images
    half = digits_pipeline().to(torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    coarse = half(5, num_inference_steps=8, latents=noise(1), output_type="pt").images.float()
    assert float((coarse - single).abs().mean()) < 0.1
    assert pipe.unet.dtype == torch.float32  # a pipeline does not share the network of others
    assert DigitsModel().network().stem.weight.dtype == torch.float32


def test_saved_and_read_again(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = DigitsPipeline.from_pretrained(tmp_path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    pictures = [p(LABELS, num_inference_steps=2, latents=noise(), output_type="np").images for p in (pipe, again)]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": [3, 10]}, r"\[3, 10\].*0\.\.9"),
        ({"class_labels": []}, "one or more digits"),
        ({"class_labels": 3, "latents": noise(2)}, r"\(2, 1, 28, 28\) for 1 digits"),
        ({"class_labels": 3, "generator": [seeded(), seeded()]}, "2 generators for 1 digits"),
        ({"class_labels": 3, "callback_on_step_end_tensor_inputs": ["latents", "prompt"]}, "'prompt'.*latents"),
    ],
)
def test_wrong_arguments_are_named(pipe, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        pipe(**arguments, num_inference_steps=1)


def test_the_model_does_not_need_diffusers():
    code = "import sys, paracore_digits.model, paracore_digits.plugin; print('diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_draws_what_is_asked(pipe):
    """White strokes on black, and different classes look different."""
    pictures = pipe(list(range(10)), generator=seeded(), output_type="np").images[..., 0]
    assert 0.03 < pictures.mean() < 0.35
    assert (pictures[:, 0, 0] < 0.1).all()
    flat = pictures.reshape(10, -1)
    apart = np.linalg.norm(flat[:, None] - flat[None], axis=-1)[~np.eye(10, dtype=bool)]
    assert apart.min() > 3.0
