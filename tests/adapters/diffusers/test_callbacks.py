"""Step callbacks, interruption and the progress bar: as of a sequential run, told by what was accepted."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tqdm.auto

from adapters.diffusers import zoo
from paracore.errors import ConfigurationError
from paracore_diffusers import parallelize
from paracore_diffusers.errors import UnsupportedPipelineError

MODES = {"exact": {"exact": True}, "merged": {"tolerance": 0.0}, "one": {"tolerance": 0.0, "execution": "one-by-one"}}
NAMES = ("flux", "wan", "sd_euler_ancestral", "sd_heun", "cogx_dpm", "ltx")


def record(made, through, steps=6, inputs=("latents", "prompt_embeds"), **more):
    """What a callback was told, and the picture."""
    told = []

    def callback(pipe, step, timestep, given):
        assert pipe is made.pipe
        told.append((step, float(timestep), {k: v.clone() for k, v in given.items()}))
        return given

    more = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": list(inputs), **more}
    return told, zoo.run(made, steps, 3, through=through, **more)


@pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(n, m, marks=() if m == "exact" or n == "flux" else pytest.mark.slow) for n in NAMES for m in MODES],
)
def test_told_once_for_every_accepted_step(name, mode):
    made = zoo.ZOO[name]()
    expected, picture = record(made, None)
    fast = parallelize(made.pipe, "picard", window=3, **MODES[mode])
    found, again = record(made, fast)
    assert [(i, t) for i, t, _ in found] == [(i, t) for i, t, _ in expected]
    assert [i for i, _, _ in found] == list(range(len(expected)))
    for (_, _, ours), (_, _, theirs) in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys() == {"latents", "prompt_embeds"}
        assert torch.equal(ours["prompt_embeds"], theirs["prompt_embeds"])
        assert ours["latents"].dtype == theirs["latents"].dtype
        if mode == "exact":
            assert torch.equal(ours["latents"], theirs["latents"])
        else:
            assert torch.allclose(ours["latents"], theirs["latents"], rtol=1e-4, atol=1e-4)
    if mode == "exact":
        assert torch.equal(again, picture)


def test_only_the_inputs_asked_for():
    made = zoo.ZOO["flux"]()
    told, _ = record(made, parallelize(made.pipe), inputs=("prompt_embeds",))
    assert len(told) == 6
    assert all(set(given) == {"prompt_embeds"} for _, _, given in told)


def test_a_callback_object_brings_its_inputs():
    made, told = zoo.ZOO["flux"](), []

    class Own(zoo.d.callbacks.PipelineCallback):
        tensor_inputs = ["prompt_embeds"]  # noqa: RUF012

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            told.append((step_index, set(callback_kwargs)))
            return callback_kwargs

    zoo.run(made, 4, through=parallelize(made.pipe), callback_on_step_end=Own(cutoff_step_ratio=0.5))
    assert told == [(i, {"prompt_embeds"}) for i in range(4)]


def test_the_library_s_guidance_cutoff_is_refused():
    made = zoo.ZOO["sd"]()
    cutoff = zoo.d.callbacks.SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    with pytest.raises(UnsupportedPipelineError, match=r"changes the pipeline's _guidance_scale at step 3"):
        zoo.run(made, 6, through=parallelize(made.pipe), callback_on_step_end=cutoff)
    expected = zoo.run(made, 6, callback_on_step_end=cutoff)
    fast = parallelize(made.pipe, on_unsupported="sequential")
    with pytest.warns(UserWarning, match="_guidance_scale"):
        assert torch.equal(zoo.run(made, 6, through=fast, callback_on_step_end=cutoff), expected)


def test_older_callbacks():
    made, told = zoo.ZOO["sd"](), {"own": [], "ours": []}
    for who, through in (("own", None), ("ours", parallelize(made.pipe, "picard", window=3, exact=True))):

        def callback(step, timestep, latents, who=who):
            told[who].append((step, float(timestep), latents.clone()))

        zoo.run(made, 6, 3, through=through, callback=callback, callback_steps=2)
    assert [s for s, _, _ in told["ours"]] == [0, 2, 4]
    for ours, theirs in zip(told["ours"], told["own"], strict=True):
        assert ours[:2] == theirs[:2]
        assert torch.equal(ours[2], theirs[2])


CHANGES = {
    "latents": (lambda pipe, i, t, given: {"latents": given["latents"] * 1.01}, "latents at step 2"),
    "in place": (lambda pipe, i, t, given: given["latents"].mul_(1.01) is None or {}, "latents at step 2"),
    "prompt": (lambda pipe, i, t, given: {"prompt_embeds": 0 * given["prompt_embeds"]}, "prompt_embeds at step 2"),
    "prompt in place": (
        lambda pipe, i, t, given: given["prompt_embeds"].mul_(0.5) is None or {},
        "prompt_embeds at step 2",
    ),
    "guidance": (lambda pipe, i, t, given: setattr(pipe, "_guidance_scale", 0.5) or {}, "_guidance_scale at step 2"),
    "new": (lambda pipe, i, t, given: {"negative_prompt_embeds": torch.zeros(1)}, "negative_prompt_embeds at step 2"),
}


@pytest.mark.parametrize("mode", ["exact", "merged"])
@pytest.mark.parametrize("what", CHANGES)
def test_changes_are_refused(what, mode):
    made = zoo.ZOO["flux"]()
    made.call["prompt_embeds"] = made.call["prompt_embeds"].clone()
    change, message = CHANGES[what]

    def callback(pipe, step, timestep, given):
        return change(pipe, step, timestep, given) if step == 2 else {}

    inputs = ["latents", "prompt_embeds"]
    fast = parallelize(made.pipe, "picard", window=3, **MODES[mode])
    with pytest.raises(UnsupportedPipelineError, match=f"callback_on_step_end changes .*{message}.*cannot be honoured"):
        zoo.run(made, 6, 3, through=fast, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=inputs)


def test_returning_what_was_given_or_nothing_is_no_change():
    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 5)
    for back in (lambda g: g, lambda g: {}, lambda g: None, lambda g: {"latents": g["latents"].clone()}):
        fast = parallelize(made.pipe, "picard", exact=True)
        found = zoo.run(made, 5, through=fast, callback_on_step_end=lambda p, i, t, g, back=back: back(g))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_callback_may_use_the_network_and_random_numbers(mode):
    made, calls = zoo.ZOO["flux"](), []
    expected = zoo.run(made, 5)

    def callback(pipe, step, timestep, given):
        calls.append(pipe.transformer.config.in_channels)
        torch.randn(3)
        with torch.no_grad():
            zoo.run(zoo.attrs.evolve(made, pipe=other), 2)
        return {}

    other = zoo.d.FluxPipeline(**{**made.pipe.components, "scheduler": zoo.flow()})
    other.set_progress_bar_config(disable=True)
    with torch.random.fork_rng(devices=[]):
        fast = parallelize(made.pipe, "picard", window=3, **MODES[mode])
        found = zoo.run(made, 5, through=fast, callback_on_step_end=callback)
    assert len(calls) == 5
    assert torch.allclose(found, expected, atol=1e-5)


def test_positions_are_refused():
    made = zoo.ZOO["ddim"]()
    assert not hasattr(made.pipe, "interrupt")
    sd = zoo.ZOO["sd"]()
    names = list(__import__("inspect").signature(sd.pipe.__call__).parameters)
    values = {**dict.fromkeys(names), "callback_on_step_end": lambda *_: {}}
    given = [values[n] for n in names[: names.index("callback_on_step_end") + 1]]
    with pytest.raises(ConfigurationError, match="callback_on_step_end was given by position; give it by name"):
        parallelize(sd.pipe)(*given)


# --------------------------------------------------------------------------------------------------------- interrupt


def stopper(at: int):
    told = []

    def callback(pipe, step, timestep, given):
        told.append(step)
        if step == at:
            pipe._interrupt = True
        return given

    return callback, told


@pytest.mark.parametrize("at", [0, 2, 5])
@pytest.mark.parametrize("mode", [*MODES, "default"])
@pytest.mark.parametrize("name", ["flux", pytest.param("sd_euler_ancestral", marks=pytest.mark.slow)])
def test_interrupt(name, mode, at):
    """Bit for bit the picture of an interrupted sequential run, in exact mode; no step after the last one is told."""
    made = zoo.ZOO[name]()
    callback, expected_told = stopper(at)
    expected = zoo.run(made, 6, 3, callback_on_step_end=callback)
    callback, told = stopper(at)
    options = MODES.get(mode, {})
    fast = parallelize(made.pipe, "picard" if options else None, window=4, **options)
    found = zoo.run(made, 6, 3, through=fast, callback_on_step_end=callback)
    assert told == expected_told[: at + 1]
    assert made.pipe.interrupt
    assert bool(found.isfinite().all())
    if mode == "exact":
        assert torch.equal(found, expected)
    elif mode != "default":
        assert torch.allclose(found, expected, atol=1e-4)
    again = zoo.run(made, 6, 3)
    assert torch.equal(again, zoo.run(zoo.ZOO[name](), 6, 3))


def test_interrupt_from_outside():
    """Set by another thread, say: what was accepted by then."""
    made, count = zoo.ZOO["flux"](), []

    def hook(*_):
        count.append(1)
        if len(count) == 9:
            made.pipe._interrupt = True

    handle = made.pipe.transformer.register_forward_pre_hook(hook)
    fast = parallelize(made.pipe, "picard", window=3, tolerance=0.0, execution="one-by-one")
    found = zoo.run(made, 8, 3, through=fast)
    handle.remove()
    assert bool(found.isfinite().all())
    assert 0 < int(fast.last.result.front.min()) < 8
    assert len(count) < 14
    assert made.pipe.interrupt


# ------------------------------------------------------------------------------------------------------- progress bar


class Bar(tqdm.auto.tqdm):
    made: list[Bar] = []  # noqa: RUF012

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "disable": False, "file": open("/dev/null", "w")})  # noqa: SIM115
        self.moves, self.closed = [], 0
        Bar.made.append(self)

    def update(self, n=1):
        self.moves.append(n)
        return super().update(n)

    def close(self):
        self.closed = getattr(self, "closed", 0) + 1
        super().close()
        self.fp.close()


@pytest.mark.parametrize("name", ["flux", "sd_heun", "ddim", "sd_pndm", "sd_img2img"])
def test_progress_bar(name, monkeypatch):
    made = zoo.ZOO[name]()
    made.pipe._progress_bar_config = {}
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.tqdm", Bar)
    Bar.made = []
    fast = parallelize(made.pipe, "picard", window=3, tolerance=0.0)
    zoo.run(made, 6, 3, through=fast)
    (bar,) = Bar.made
    assert sum(bar.moves) == bar.total
    assert bar.n == bar.total
    assert all(n >= 0 for n in bar.moves)
    assert bar.closed
    assert bar.disable


def test_progress_bar_is_closed_after_an_error(monkeypatch):
    made = zoo.ZOO["flux"]()
    made.pipe._progress_bar_config = {}
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.tqdm", Bar)
    Bar.made = []

    def callback(*_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        zoo.run(made, 6, 3, through=parallelize(made.pipe), callback_on_step_end=callback)
    assert Bar.made[0].closed
