"""The catalogue of tiny pipelines: each runs offline, gives the same bits twice, and listens to its inputs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from adapters.diffusers import zoo

LISTENING = ("flux", "sd3", "wan", "cogx", "hyv", "sd", "sdxl", "pixart", "lumina2", "qwen")
"""Of every kind of network one, in which a change of the prompt must change the picture."""


@pytest.mark.parametrize("name", zoo.NAMES)
def test_same_bits_twice(name):
    made = zoo.ZOO[name]()
    first, second = zoo.run(made), zoo.run(made)
    assert torch.equal(first, second)
    assert bool(first.isfinite().all())
    assert float(first.std()) > 1e-3
    assert made.kind in ("image", "video", "audio")


@pytest.mark.parametrize("name", LISTENING)
def test_output_depends_on_seed_steps_and_prompt(name):
    made = zoo.ZOO[name]()
    output = zoo.run(made, steps=4)
    prompt = made.call["prompt_embeds"]
    changed = {"seed": zoo.run(made, steps=4, seed=1), "steps": zoo.run(made, steps=5)}
    changed["prompt"] = zoo.run(made, steps=4, prompt_embeds=prompt.flip(1))
    for what, other in changed.items():
        assert not torch.equal(output, other), what


@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "cogx", "hyv", "sdxl"])
def test_another_instance_draws_the_same(name):
    assert torch.equal(zoo.run(zoo.ZOO[name](), steps=3), zoo.run(zoo.ZOO[name](), steps=3))


def check_bfloat16(name: str) -> None:
    made = zoo.in_bfloat16(zoo.ZOO[name]())
    first = zoo.run(made)
    assert bool(first.isfinite().all())
    assert torch.equal(first, zoo.run(made))


@pytest.mark.parametrize("name", ["flux", "hyv", "cogx", "sd3"])
def test_bfloat16(name):
    check_bfloat16(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NAMES)
def test_bfloat16_of_all(name):
    if zoo.ZOO[name]().supports_bf16:
        check_bfloat16(name)
    else:
        with pytest.raises((RuntimeError, TypeError), match="BFloat16"):
            check_bfloat16(name)


def test_run_through_another_callable():
    made, seen = zoo.ZOO["sd_generators"](), []

    def spy(**arguments):
        seen.append(arguments)
        return made.pipe(**arguments)

    assert torch.equal(zoo.run(made, 3, through=spy, guidance_scale=2.0), zoo.run(made, 3, guidance_scale=2.0))
    assert (seen[0]["num_inference_steps"], seen[0]["guidance_scale"], len(seen[0]["generator"])) == (3, 2.0, 2)


def test_building_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    zoo.ZOO["flux"]()
    assert torch.equal(before, torch.random.get_rng_state())


def test_names():
    assert set(zoo.UNSUPPORTED) <= set(zoo.NAMES)
    assert len(zoo.NAMES) == len(set(zoo.NAMES)) >= 26
