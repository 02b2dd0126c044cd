"""A trained network through a pipeline and by itself: the same rounds and pictures, and nothing thrown away."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("diffusers")

import paracore
from paracore.schemes import flow_euler
from paracore_diffusers import parallelize
from paracore_digits import DigitsModel
from paracore_digits.network import DigitsUNet
from paracore_digits.pipeline import digits_pipeline

LABELS, GUIDANCE, STEPS = [3, 7], 4.0, 32  # with 32 steps float32 holds every step's length exactly
SAMPLERS = {
    "picard": ("picard", {"window": 8, "tolerance": 1e-2}),
    "anderson": ("anderson", {"window": 8, "tolerance": 1e-2}),
    "default": (None, {"window": 8}),
    "tight": ("picard", {"window": 8, "tolerance": 0.0}),
}


@functools.cache
def pipeline():
    pipe = digits_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise() -> torch.Tensor:
    return torch.randn(len(LABELS), 1, 28, 28, generator=torch.Generator().manual_seed(0))


def through_pipeline(sampler, steps=STEPS, **options):
    fast = parallelize(pipeline(), sampler, **options)
    given = {"num_inference_steps": steps, "latents": noise(), "output_type": "latent"}
    return fast(LABELS, GUIDANCE, **given).images, fast.last


def by_itself(sampler, steps=STEPS, max_batch=None, **options):
    scheme = flow_euler(steps)
    denoiser = DigitsModel().denoiser(scheme, torch.tensor(LABELS), GUIDANCE)
    made = paracore.sampler(sampler, **options) if sampler else parallelize(pipeline(), None, **options)._make()
    problem = paracore.Problem(scheme, noise(), lockstep=True)
    return paracore.solve(made, problem, paracore.evaluators.batched(denoiser, max_batch=max_batch))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def check(name: str, execution: str) -> None:
    sampler, options = SAMPLERS[name]
    images, last = through_pipeline(sampler, execution=execution, **options)
    # the network rounds its input to a grid: only calls of the same size give states that stay this close
    result = by_itself(sampler, max_batch=None if execution == "merged" else len(LABELS), **options)
    assert last.route == "table"
    assert last.rounds == result.total_rounds
    assert relative(images, result.sample) < 1e-5


def test_same_rounds_and_pictures():
    check("default", "merged")


@pytest.fixture
def row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network takes the rows of a call one by one: on some processors a row's bits depend on the others'."""
    whole = DigitsUNet.forward

    def forward(self, x, t, label):
        rows = zip(x.split(1), t.split(1), label.split(1), strict=True)
        return torch.cat([whole(self, *row) for row in rows])

    monkeypatch.setattr(DigitsUNet, "forward", forward)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["merged", "one-by-one"])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "tight"])
def test_same_rounds_and_pictures_whatever_the_sampler(name, execution):
    check(name, execution)


@pytest.mark.slow
@pytest.mark.usefixtures("row_by_row")
@pytest.mark.parametrize("execution", ["merged", "one-by-one"])
def test_same_rounds_at_tolerance_0(execution):
    """The exact chain grows where outputs are equal bit for bit."""
    check("tight", execution)


def counted(call) -> list[int]:
    """Batch sizes of the network's calls."""
    sizes: list[int] = []

    def note(module, args, kwargs):
        sizes.append(len(next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))))

    handle = pipeline().unet.register_forward_pre_hook(note, with_kwargs=True)
    call()
    handle.remove()
    return sizes


@pytest.mark.parametrize("execution", ["one-by-one", "merged"])
def test_the_pipelines_own_first_evaluation_is_used(execution):
    """Every evaluation is asked for by the sampler; the pipeline's own first one is node 0 of the first round."""
    alone = counted(lambda: pipeline()(LABELS, GUIDANCE, num_inference_steps=1, latents=noise(), output_type="latent"))
    taken = {}

    def run():
        _, taken["last"] = through_pipeline("picard", 6, window=3, tolerance=0.0, execution=execution)

    sizes = counted(run)
    last = taken["last"]
    # Windows of 3 at every front but the last two.
    assert last.evaluations == 3 * 4 + 2 + 1
    assert last.network_calls == last.evaluations * len(alone)
    if execution == "one-by-one":
        assert sizes == alone * last.evaluations
    else:
        # The check of the first merged call holds the first evaluation once more.
        assert sum(sizes) in (sum(alone) * last.evaluations, sum(alone) * (last.evaluations + 1))


def test_exact_is_the_pipelines_own_bits():
    given = {"num_inference_steps": 8, "latents": noise(), "output_type": "pt"}
    expected = pipeline()(LABELS, GUIDANCE, **given).images
    fast = parallelize(pipeline(), "picard", window=4, exact=True)
    assert torch.equal(fast(LABELS, GUIDANCE, **given).images, expected)


@pytest.mark.slow
def test_fewer_rounds_for_the_same_picture():
    expected = pipeline()(LABELS, GUIDANCE, num_inference_steps=50, latents=noise(), output_type="latent").images
    images, last = through_pipeline(None, 50, window=16)
    assert last.rounds < 25
    assert relative(images, expected) < 0.03
