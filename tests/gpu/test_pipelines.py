"""diffusers pipelines on an accelerator: the sequential bits, merged calls, and the default sampler.

``PARACORE_TEST_DEVICE=cpu pytest -m gpu tests/gpu`` runs it without one.
"""

from __future__ import annotations

import os

import pytest
import torch

from adapters.diffusers import zoo
from paracore_diffusers import parallelize

DEVICE = torch.device(os.environ.get("PARACORE_TEST_DEVICE", "cuda"))
STEPS = 20
NAMES = [
    *("flux", "sd3", "wan", "cogx", "hyv", "sd", "sdxl", "ddim"),  # the seed paper's families and older ones
    *("sd_euler_ancestral", "cogx_dpm", "wan22", "sd_controlnet", "flux_img2img", "ltx", "qwen"),
]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(autouse=True)
def _deterministic():
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


def on_device(name: str, half: bool) -> zoo.Example:
    made = zoo.ZOO[name]()
    if half:
        made = zoo.in_bfloat16(made)
    made.pipe.to(DEVICE)
    for key, value in made.call.items():
        if isinstance(value, torch.Tensor):
            made.call[key] = value.to(DEVICE)
    return made


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(
    ("name", "half"),
    # ddim does not run in bfloat16 as it is: test_zoo.py shows it
    [(name, half) for name in NAMES for half in (False, True) if (name, half) != ("ddim", True)],
)
def test_exact_mode_gives_the_sequential_bits(name, half):
    made = on_device(name, half)
    with zoo.quiet():
        expected = zoo.run(made, STEPS, 3)
        fast = parallelize(made.pipe, "picard", window=4, exact=True)
        assert torch.equal(zoo.run(made, STEPS, 3, through=fast), expected)
        assert torch.equal(zoo.run(made, STEPS, 3), expected)
    assert fast.last.rounds <= fast.last.steps


@pytest.mark.parametrize("name", NAMES)
def test_merged_calls_stay_near(name):
    made = on_device(name, half=False)
    with zoo.quiet():
        expected = zoo.run(made, STEPS, 3)
        fast = parallelize(made.pipe, "picard", window=4, tolerance=0)
        assert distance(zoo.run(made, STEPS, 3, through=fast), expected) < 1e-4
    assert set(fast.last.merges.values()) == {"merged"}
