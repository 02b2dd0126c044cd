"""What users do to their pipelines beforehand, and between calls."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import paracore
from adapters.diffusers import fakes, zoo
from paracore.errors import CapabilityError, ConfigurationError, ParacoreError, UnknownNameError
from paracore_diffusers import parallelize
from paracore_diffusers.errors import UnsupportedPipelineError


def check(made, steps=6, merged=True) -> torch.Tensor:
    """Exact and merged runs against the sequential one; the picture."""
    expected = zoo.run(made, steps, 3)
    exact = parallelize(made.pipe, "picard", window=4, exact=True)
    assert torch.equal(zoo.run(made, steps, 3, through=exact), expected)
    fast = parallelize(made.pipe, "picard", window=4, tolerance=0.0)
    torch.testing.assert_close(zoo.run(made, steps, 3, through=fast), expected, rtol=1e-4, atol=1e-4)
    if merged:
        assert "merged" in fast.last.merges.values(), fast.last.merges
    assert torch.equal(zoo.run(made, steps, 3), expected)
    return expected


# ------------------------------------------------------------------------------------------------ changed networks


class LowRank(nn.Module):
    """A linear layer with an addition of low rank, as adapters are."""

    def __init__(self, base: nn.Linear, scale: float = 1.0) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        generator = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(torch.randn(2, base.in_features, generator=generator) * 0.3)
        self.up = nn.Parameter(torch.randn(base.out_features, 2, generator=generator) * 0.3)

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.down.T @ self.up.T)


class Coarse(nn.Module):
    """A linear layer whose weights are kept in eight bits."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.scale = base.weight.abs().max() / 127
        self.register_buffer("whole", (base.weight / self.scale).round().to(torch.int8))
        self.bias = base.bias

    def forward(self, x):
        return nn.functional.linear(x, self.whole.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def exchanged(network: nn.Module, make) -> int:
    count = 0
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if type(child) is nn.Linear and name in ("to_q", "to_k", "to_v"):
                setattr(part, name, make(child))
                count += 1
    return count


@pytest.mark.parametrize("name", ["flux", pytest.param("sdxl", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [LowRank, Coarse])
def test_adapters_and_quantised_layers(name, make):
    made = zoo.ZOO[name]()
    before = zoo.run(made, 6, 3)
    network = made.pipe.unet if name == "sdxl" else made.pipe.transformer
    with torch.no_grad():
        assert exchanged(network, make) > 0
    assert not torch.equal(check(made), before)


def test_lora_of_the_library(tmp_path):
    from peft import LoraConfig

    made = zoo.ZOO["flux"]()
    before = zoo.run(made, 6, 3)
    made.pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    assert not torch.equal(check(made), before)
    check(zoo.attrs.evolve(made, call={**made.call, "joint_attention_kwargs": {"scale": 0.5}}))


class Wrapped(nn.Module):
    """A module around the network, with the network's attributes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("name", ["flux", "wan", "sd"])
def test_a_module_around_the_network(name):
    made = zoo.ZOO[name]()
    expected = zoo.run(made, 6, 3)
    part = "unet" if name == "sd" else "transformer"
    setattr(made.pipe, part, Wrapped(getattr(made.pipe, part)))
    assert torch.equal(check(made), expected)


@pytest.mark.slow
def test_a_compiled_network():
    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 4, 3)
    made.pipe.transformer = torch.compile(made.pipe.transformer, backend="eager")
    found = check(made, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


def test_attention_back_ends_are_left_alone(monkeypatch):
    made = zoo.ZOO["flux"]()
    registry = zoo.d.models.attention_dispatch._AttentionBackendRegistry  # set for all networks along with one
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)
    made.pipe.transformer.set_attention_backend("_native_math")
    before = [p._attention_backend for p in made.pipe.transformer.attn_processors.values()]
    check(made)
    assert [p._attention_backend for p in made.pipe.transformer.attn_processors.values()] == before


# ------------------------------------------------------------------------------------------------------------- caches


def cache(name: str):
    hooks = zoo.d.hooks
    return {
        "first block": lambda: hooks.FirstBlockCacheConfig(threshold=0.1),
        "taylor": lambda: hooks.TaylorSeerCacheConfig(),
        "pyramid": lambda: hooks.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
        "faster": lambda: hooks.FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            tensor_format="BCFHW",
            current_timestep_callback=lambda: 500,
            unconditional_batch_skip_range=2,
            attention_weight_callback=lambda _: 0.5,
        ),
    }[name]()


@pytest.mark.parametrize("execution", ["merged"])
@pytest.mark.parametrize("name", ["first block", "taylor", "pyramid", "faster"])
def test_caches_are_refused(name, execution):
    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 6, 3)
    transformer = made.pipe.transformer
    transformer.enable_cache(cache(name))
    message = r"FluxTransformer2DModel has a cache switched on \(enable_cache\).*call disable_cache\(\) first"
    with pytest.raises(UnsupportedPipelineError, match=message):
        zoo.run(made, 6, 3, through=parallelize(made.pipe, execution=execution))
    transformer.disable_cache()
    fast = parallelize(made.pipe, "picard", exact=True)
    assert torch.equal(zoo.run(made, 6, 3, through=fast), expected)


@pytest.mark.parametrize("name", ["first_block_cache", "taylorseer_cache", "pyramid_attention_broadcast"])
def test_cache_hooks_applied_directly_are_refused(name):
    made = zoo.ZOO["flux"]()
    config = {"first_block_cache": "first block", "taylorseer_cache": "taylor"}.get(name, "pyramid")
    getattr(zoo.d.hooks, f"apply_{name}")(made.pipe.transformer, cache(config))
    with pytest.raises(UnsupportedPipelineError, match=r"has the stateful hook .*remove it first"):
        zoo.run(made, 6, 3, through=parallelize(made.pipe))


def test_layerwise_casting_is_allowed():
    made = zoo.ZOO["flux"]()
    made.pipe.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    check(made)


def test_training_mode_with_dropout_is_refused():
    made = zoo.ZOO["sd"]()
    made.pipe.unet.train()
    made.pipe.unet.mid_block.resnets[0].dropout.p = 0.1
    with pytest.raises(UnsupportedPipelineError, match=r"UNet2DConditionModel is in training mode.*call \.eval\(\)"):
        zoo.run(made, 6, 3, through=parallelize(made.pipe))


# --------------------------------------------------------------------------------------------------------- offloading


def test_group_offloading():
    made = zoo.ZOO["flux"]()
    made.pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    check(made)


def test_hooks_that_bring_networks_to_a_device():
    """As offloading between networks does it: the network's forward is replaced, and set up anew after every call."""
    import accelerate

    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 6, 3)
    pipe, transformer, forward = made.pipe, made.pipe.transformer, made.pipe.transformer.forward
    seen = []

    def again(self=pipe):
        for part in (self.transformer, self.vae):
            accelerate.hooks.remove_hook_from_module(part)
            accelerate.cpu_offload_with_hook(part, torch.device("cpu"))
            seen.append(type(part))
            seen.append(part is transformer or part is pipe.components["vae"])

    again()
    seen.clear()
    pipe.maybe_free_model_hooks = again
    check(made)
    assert seen
    assert seen[1::2] == [True] * (len(seen) // 2)
    del pipe.maybe_free_model_hooks
    for part in (pipe.transformer, pipe.vae):
        accelerate.hooks.remove_hook_from_module(part)
    assert transformer.forward == forward
    assert torch.equal(zoo.run(made, 6, 3), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="enable_sequential_cpu_offload needs an accelerator")
def test_sequential_offloading():
    made = zoo.ZOO["flux"]()
    made.pipe.enable_sequential_cpu_offload()
    check(made)


# ---------------------------------------------------------------------------------------------------------- warm start


def test_warm_start():
    """A nearby prompt from an earlier trajectory: fewer rounds, and at tolerance 0 the same picture."""
    made = zoo.ZOO["flux"]()
    fast = parallelize(made.pipe, "picard", window=12, tolerance=1e-3, keep_trajectory=True)
    zoo.run(made, 12, 3, through=fast)
    first = fast.last
    assert first.trajectory.shape[0] == 13
    near = made.call["prompt_embeds"] + 1e-3
    zoo.run(made, 12, 3, through=fast, prompt_embeds=near)
    cold = fast.last
    found = {}
    for start in (first, first.trajectory):
        found = zoo.run(made, 12, 3, through=lambda start=start, **k: fast(start_from=start, **k), prompt_embeds=near)
        assert fast.last.rounds < cold.rounds, (fast.last.rounds, cold.rounds)
    expected = zoo.run(made, 12, 3, prompt_embeds=near)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    exact = parallelize(made.pipe, "picard", window=6, exact=True)
    again = zoo.run(made, 12, 3, through=lambda **k: exact(start_from=first, **k), prompt_embeds=near)
    assert torch.equal(again, expected)


def test_wrong_starts():
    made = zoo.ZOO["flux"]()
    fast = parallelize(made.pipe, "picard")
    zoo.run(made, 4, through=fast)
    with pytest.raises(ConfigurationError, match="start_from has no trajectory; make that run with keep_trajectory"):
        fast(**made.arguments(4), start_from=fast.last)
    keeping = parallelize(made.pipe, "picard", keep_trajectory=True)
    zoo.run(made, 4, through=keeping)
    with pytest.raises(ParacoreError, match=r"5|7"):
        fast(**made.arguments(6), start_from=keeping.last)
    assert torch.equal(zoo.run(made, 4), zoo.run(zoo.ZOO["flux"](), 4))


# ------------------------------------------------------------------------------------------------- several at a time


def sharing(made, kind=None):
    """Another pipeline on the same networks."""
    pipe = type(made.pipe)(**{**made.pipe.components, "scheduler": type(made.pipe.scheduler)()})
    pipe.set_progress_bar_config(disable=True)
    return zoo.attrs.evolve(made, pipe=pipe)


def test_two_pipelines_in_two_threads():
    one = zoo.ZOO["flux"]()
    two = sharing(one)
    expected = [zoo.run(one, 8, 1), zoo.run(two, 7, 2)]
    found, errors, barrier = [[], []], [], threading.Barrier(3)

    fasts = [parallelize(made.pipe, "picard", window=3, exact=True) for made in (one, two)]

    def work(which, made, steps, seed):
        fast = fasts[which]
        barrier.wait()
        try:
            for _ in range(4):
                found[which].append(fast(**made.arguments(steps, seed)).images)
        except Exception as error:
            errors.append(error)

    def ordinary():
        barrier.wait()
        for _ in range(4):
            three.append(other.pipe(**other.arguments(5, 3)).images)

    other, three = sharing(one), []
    alone = zoo.run(other, 5, 3)
    threads = [
        threading.Thread(target=work, args=(0, one, 8, 1)),
        threading.Thread(target=work, args=(1, two, 7, 2)),
        threading.Thread(target=ordinary),
    ]
    with zoo.quiet():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    for who, pictures, reference in (
        ("one", found[0], expected[0]),
        ("two", found[1], expected[1]),
        ("-", three, alone),
    ):
        assert len(pictures) == 4
        assert [float((torch.from_numpy(p) - reference).abs().max()) for p in pictures] == [0.0] * 4, who


@pytest.mark.parametrize("how", ["same", "second", "sequential"])
def test_calls_inside_a_call_are_refused(how):
    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 5)
    fast = parallelize(made.pipe)
    inner = {"same": fast, "second": parallelize(made.pipe), "sequential": made.pipe}[how]
    errors = {
        "same": (ConfigurationError, "running already"),
        "second": (ConfigurationError, "running in parallel already"),
        "sequential": (UnsupportedPipelineError, "iterates over its timesteps inside"),
    }
    error, message = errors[how]
    with pytest.raises(error, match=message):
        zoo.run(made, 5, through=fast, callback_on_step_end=lambda *_: inner(**made.arguments(3)) and {})
    assert torch.equal(zoo.run(made, 5), expected)
    assert torch.equal(zoo.run(made, 5, through=parallelize(made.pipe, "picard", exact=True)), expected)


# -------------------------------------------------------------------------------------------------- the object itself


def test_release():
    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 5)
    fast = parallelize(made.pipe, "picard", exact=True, devices=["cpu"])
    assert "FluxPipeline" in repr(fast)
    zoo.run(made, 5, through=fast)
    assert fast.release() is made.pipe
    with pytest.raises(ConfigurationError, match=r"this pipeline was released; call parallelize\(pipe\) again"):
        zoo.run(made, 5, through=fast)
    assert torch.equal(zoo.run(made, 5), expected)


def test_attributes_are_the_pipelines():
    made = zoo.ZOO["flux"]()
    fast = parallelize(made.pipe)
    assert fast.scheduler is made.pipe.scheduler
    assert fast.transformer is made.pipe.transformer
    assert fast.last is None
    zoo.run(made, 5, through=fast)
    last = fast.last
    assert last.steps == 5
    assert last.speedup == 5 / last.rounds
    assert 0 < last.solver_time < last.wall_time
    assert last.trajectory is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on_unsupported": "ignore"}, ConfigurationError, "on_unsupported is 'ignore'; 'raise' or 'sequential'"),
        ({"exact": True, "tolerance": 0.1}, ConfigurationError, "exact=True with tolerance=0.1; leave tolerance out"),
        ({"exact": True, "execution": "merged"}, ConfigurationError, "execution='merged': merged calls"),
        ({"sampler": 3}, ConfigurationError, "sampler is int; a name, a sampler or a composition is needed"),
        ({"sampler": "picart"}, UnknownNameError, "did you mean 'picard'"),
        ({"execution": "all"}, ConfigurationError, "execution is 'all'"),
        ({"max_batch": -1}, ConfigurationError, "max_batch is -1"),
        ({"devices": []}, ConfigurationError, r"devices is \[\]"),
        ({"sampler": "picard", "window": 0}, ConfigurationError, "window"),
        ({"sampler": "picard", "colour": 1}, ConfigurationError, "colour"),
        ({"tolerance": -1.0}, ConfigurationError, "tolerance"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        parallelize(fakes.made(fakes.Plain), **options)


def test_options_with_a_sampler_that_is_built():
    pipe, built = fakes.made(fakes.Plain), paracore.sampler("picard", window=4)
    parallelize(pipe, built, tolerance=0.0)
    with pytest.raises(ConfigurationError, match="options order with a sampler that is built already"):
        parallelize(pipe, built, order=2)


@pytest.mark.parametrize("what", [None, 3, nn.Linear(1, 1)])
def test_what_is_no_pipeline(what):
    with pytest.raises(ConfigurationError, match="a diffusers pipeline with a scheduler is needed"):
        parallelize(what)


def test_samplers_that_need_more_than_a_pipeline_gives():
    needing = [e.name for e in paracore.registry.entries("sampler") if paracore.sampler(e.name).needs]
    assert needing
    for name in needing:
        with pytest.raises(CapabilityError, match="which a pipeline cannot give"):
            parallelize(fakes.made(fakes.Plain), name)(4)


def test_compositions():
    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 6, 3)
    composition = paracore.sampler("picard", window=3, tolerance=0.0).composition
    for sampler in (composition, paracore.Engine(composition), "picard(window=3)"):
        fast = parallelize(made.pipe, sampler, exact=True)
        assert torch.equal(zoo.run(made, 6, 3, through=fast), expected)


def test_nothing_is_left_in_memory():
    """Neither the session nor its networks' stand-ins outlive a call."""
    import gc

    from paracore_diffusers.proxies import NetworkProxy
    from paracore_diffusers.session import Session

    made = zoo.ZOO["flux"]()
    zoo.run(made, 4, through=parallelize(made.pipe))
    gc.collect()
    kinds = [type(o) for o in gc.get_objects()]
    assert Session not in kinds
    assert NetworkProxy not in kinds


def test_overhead_is_small():
    """Recording and replaying beside the network's own time; a loose bound, measured by hand elsewhere."""
    pipe = fakes.made(fakes.Plain)
    fast = parallelize(pipe, "picard", window=8, tolerance=0.0, execution="merged")
    fast(16)
    began = time.perf_counter()
    fast(16)
    assert (time.perf_counter() - began) / fast.last.evaluations < 0.02


def test_draws_of_other_threads_are_not_the_pipelines():
    made = zoo.ZOO["flux"]()
    with ThreadPoolExecutor(1) as pool:
        hook = made.pipe.transformer.register_forward_pre_hook(lambda *_: pool.submit(torch.rand, 1).result() and None)
        fast = parallelize(made.pipe, "picard", window=4, exact=True)
        try:
            images = zoo.run(made, through=fast)
        finally:
            hook.remove()
    assert torch.equal(images, zoo.run(made))
