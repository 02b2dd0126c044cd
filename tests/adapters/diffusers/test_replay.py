"""Replays of the real scheduler: the same bits as its own run, from the engine too, and where a step branches off."""

from __future__ import annotations

import gc
import inspect
import weakref

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    KDPM2AncestralDiscreteScheduler,
    PNDMScheduler,
    SASolverScheduler,
    UniPCMultistepScheduler,
)

import paracore
from paracore import evaluators, schemes
from paracore.errors import CheckpointError, ProblemError
from paracore_diffusers.errors import UnsupportedSchedulerError
from paracore_diffusers.replay import ReplayScheme
from paracore_diffusers.replay_noise import RawNoise
from paracore_diffusers.replay_tape import RawTape, TapedProblem
from paracore_diffusers.stepper import Dtypes, Stepper
from paracore_diffusers.table import prepared, scheduler_table, small_signal_table

# diffusers' own: options that it deprecates, and arrays that it makes of tensors.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

SCHEDULERS = {
    "ddim-clip": (DDIMScheduler, {}),
    "ddpm-clip": (DDPMScheduler, {}),
    "dpm-threshold": (DPMSolverMultistepScheduler, {"thresholding": True}),
    "sde-dpm": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "pndm": (PNDMScheduler, {}),
    "pndm-plms": (PNDMScheduler, {"skip_prk_steps": True}),
    "heun": (HeunDiscreteScheduler, {}),
    "kdpm2a": (KDPM2AncestralDiscreteScheduler, {}),
    "sa": (SASolverScheduler, {}),
    "cogvideox-dpm": (CogVideoXDPMScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "ipndm": (IPNDMScheduler, {}),
}
GENERATORS = {
    "one": lambda: torch.Generator().manual_seed(5),
    "list": lambda: [torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)],
    "none": lambda: None,
}
each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


def network(x):
    """A smooth network that mixes the numbers of a sample; in any dtype."""
    return torch.tanh(0.7 * x + 0.3 * torch.sin(3 * x.roll(1, -1))) * 0.9


def ordinary(scheduler, x, generator):
    """The scheduler's own run, in a pipeline's loop: the sample, and the dtype that step returns."""
    takes = inspect.signature(scheduler.step).parameters
    dtype, returned, old, times = x.dtype, None, None, scheduler.timesteps
    for i, t in enumerate(times):
        extra = {"generator": generator} if "generator" in takes else {}
        if "timestep_back" in takes:
            extra |= {"timestep_back": times[i - 1] if i else None, "old_pred_original_sample": old}
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        out = scheduler.step(model_output=network(scaled), timestep=t, sample=x, return_dict=False, **extra)
        old = out[1] if len(out) > 1 else None
        returned, x = out[0].dtype, out[0].to(dtype)
    return x, returned


def setting(name, *, generator=None, dtype=torch.float32, steps=8, window=None):
    """A run's stepper, start, replay scheme, own sample and the state that its generators end in."""
    kind, options = SCHEDULERS[name]
    ready = prepared(kind(**options), steps)
    size = float(getattr(ready, "init_noise_sigma", 1.0))
    x = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * size).to(dtype)
    torch.manual_seed(3)
    used = generator() if generator else torch.Generator().manual_seed(5)
    sample, returned = ordinary(prepared(kind(**options), steps), x, used)
    ends = states_of(used)
    torch.manual_seed(3)
    given = generator() if generator else torch.Generator().manual_seed(5)
    stepper = Stepper(ready, ready.timesteps)
    dtypes = Dtypes(dtype, returned, dtype, dtype)
    noise = RawNoise.create(stepper, given, x.shape, dtypes, "cpu")
    scheme = ReplayScheme.create(
        stepper,
        small_signal_table(stepper).scheme,
        first_dtype=dtype,
        returned_dtype=returned,
        state_dtype=dtype,
        output_dtype=dtype,
        noise=noise,
        window=window,
    )
    return scheme, x, sample, given, ends


def states_of(generator):
    if generator is None:
        return [torch.get_rng_state()]
    return [g.get_state() for g in (generator if isinstance(generator, list) else [generator])]


def output_at(scheme, node, state):
    """The network's output, as a pipeline would compute it at a node."""
    return network(scalers(scheme.stepper)[node].scale(node, state.to(scheme.dtypes.state))).to(state.dtype)


def scalers(stepper):
    """One run at each node: how the input is scaled depends on how often step was called."""
    if stepper not in SCALERS:
        runs, blank = [stepper.fresh()], torch.zeros(1, 1, 2, 2)
        for node in range(stepper.nodes - 1):
            runs.append(runs[-1].copy())
            runs[-1].step(node, blank, blank, lambda k, shape, dtype, device: torch.zeros(shape, dtype=dtype))
        SCALERS[stepper] = runs
    return SCALERS[stepper]


SCALERS = weakref.WeakKeyDictionary()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
@each_scheduler
def test_same_bits(name, generator, dtype):
    scheme, x, sample, given, ends = setting(name, generator=generator, dtype=dtype)
    states = [x.float()]
    for node in range(scheme.steps):
        output = output_at(scheme, node, states[0])
        scheme.step(node, states, [1.3 * output])  # a branch that is not followed
        new = scheme.step(np.array([node, node]), states, [output])
        assert new.dtype == torch.float32
        states.insert(0, new.clone() if node % 3 == 1 else new)  # a caller may copy
    assert torch.equal(states[0].to(dtype), sample)
    assert scheme.lineage.near == scheme.lineage.lost == 0
    assert scheme.raw is not None
    scheme.raw.advance()
    for state, end in zip(states_of(given), ends, strict=True):
        assert torch.equal(state, end)


class Served:
    """An evaluator that scales the input as a pipeline does."""

    capabilities = frozenset()

    def __init__(self, scheme):
        self.scheme = scheme
        self.inner = evaluators.batched(lambda x, t, rows: x)

    def evaluate(self, request):
        values = [
            output_at(self.scheme, int(node), state[None])[0]
            for node, state in zip(request.nodes, request.states, strict=True)
        ]
        return paracore.Outputs(torch.stack(values), calls=len(values))


@pytest.mark.parametrize("method", ["picard", "anderson", "ropa"])
@pytest.mark.parametrize("name", ["ddim-clip", "dpm-threshold", "heun", "unipc", "sa", "euler-a", "pndm"])
def test_same_bits_from_the_engine(name, method):
    scheme, x, sample, _, _ = setting(name, window=4)
    problem = TapedProblem.create(scheme, x, scheme.raw)
    result = paracore.solve(paracore.sampler(method, window=4, tolerance=0.0), problem, Served(scheme))
    assert torch.equal(result.sample, sample)
    assert scheme.lineage.lost == 0
    assert scheme.lineage.held() <= 4 * 12


def test_exact_table_with_the_pipelines_noise():
    ready = prepared(EulerAncestralDiscreteScheduler(), 8)
    table = scheduler_table(ready)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * float(ready.init_noise_sigma)
    sample, _ = ordinary(prepared(EulerAncestralDiscreteScheduler(), 8), x, torch.Generator().manual_seed(5))
    noise = RawNoise.create(table.stepper, torch.Generator().manual_seed(5), x.shape, Dtypes(), "cpu")
    problem = TapedProblem.create(table.scheme, x, noise)
    tape = problem.tape()
    assert isinstance(tape, RawTape)

    def served(request):
        scale = torch.from_numpy(table.input_scale)[request.nodes].float().reshape(-1, 1, 1, 1)
        return paracore.Outputs(network(request.states * scale), calls=len(request))

    evaluator = type("Table", (), {"capabilities": frozenset(), "evaluate": staticmethod(served)})()
    torch.testing.assert_close(paracore.sequential(problem, evaluator), sample, rtol=1e-5, atol=2e-5)
    plain = TapedProblem.create(schemes.ddim(4), x, None)
    assert not isinstance(plain.tape(), RawTape)


def test_draws_are_randn_tensors_own():
    from diffusers.utils.torch_utils import randn_tensor

    ready = prepared(CogVideoXDPMScheduler(), 4)
    stepper = Stepper(ready, ready.timesteps)
    half = Dtypes(torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16)
    noise = RawNoise.create(stepper, GENERATORS["list"](), (2, 3, 4, 4), half, "cpu")
    ask = GENERATORS["list"]()
    for node in range(4):
        for z in noise.row(node):
            assert torch.equal(z, randn_tensor((2, 3, 4, 4), generator=ask, dtype=torch.bfloat16))
    assert [len(noise.row(n)) for n in range(4)] == [1, 2, 2, 1]
    one = torch.Generator().manual_seed(2)
    twice = RawNoise.create(stepper, [one, one], (2, 3, 4, 4), half, "cpu")
    assert not torch.equal(twice.row(0)[0][0], twice.row(0)[0][1])  # one generator listed twice draws twice
    assert torch.equal(one.get_state(), torch.Generator().manual_seed(2).get_state())


def test_noise_rows_and_tape():
    scheme, *_ = setting("euler-a")
    noise = scheme.raw
    late = noise.row(5)[0]
    early = noise.row(2)[0]
    assert not torch.equal(late, early)
    saved = noise.plain()
    after = noise.row(6)[0]
    tape = RawTape(scheme, noise, torch.float32)
    torch.testing.assert_close(tape.row(2), early * float(scheme.c[2, 0]))
    assert torch.equal(tape.gather(np.array([2, 2])), tape.row(2))
    mixed = tape.gather(np.array([2, 99]))
    assert torch.equal(mixed[0], tape.row(2)[0])
    assert not mixed[1].any()
    assert tape.gather(np.array([99, 99])) is None
    tape.free(3)
    with pytest.raises(ProblemError, match="noise of node 2 was freed already"):
        noise.row(2)
    noise.restore(saved)
    assert torch.equal(noise.row(6)[0], after)
    assert torch.equal(noise.row(2)[0], early)
    with pytest.raises(CheckpointError, match="checkpoint has 0 noise generators, this run 1"):
        noise.restore({**saved, "generators": []})
    tape.restore(tape.plain())


def test_where_a_step_branches_off():
    scheme, x, *_ = setting("unipc")
    first = scheme.step(0, [x], [network(x)])
    second = scheme.step(1, [first], [network(first)])
    again = scheme.step(1, [first.clone()], [network(first)])
    assert torch.equal(second, again)
    assert scheme.lineage.near == 0
    scheme.step(1, [first + 1.0], [network(first)])
    assert scheme.lineage.near == 1
    lost = scheme.step(5, [x], [network(x)])
    assert scheme.lineage.lost == 1
    assert torch.equal(lost, schemes.Scheme.step(scheme, 5, [x], [network(x)]))


def test_what_is_kept_is_bounded():
    scheme, x, *_ = setting("ddim-clip", steps=40, window=3)
    states, most = [x], 0
    for node in range(scheme.steps):
        states = [scheme.step(node, states, [network(states[0])])]
        most = max(most, scheme.lineage.held())
    assert most <= 2 * (2 * 3 + 2)
    scheme.forget(100)
    gc.collect()
    assert scheme.lineage.held() == 1  # the caller's own state
    free, x, *_ = setting("ddim-clip", steps=40)
    front = [x]
    for node in range(30):
        new = front[0]
        for ahead in range(node, min(node + 4, 40)):
            new = free.step(ahead, [new], [network(new)])
            front = [new] if ahead == node else front
    assert free.lineage.held() <= 2 * (16 + 4 + 2)


def test_a_returned_state_is_new():
    class Same(DDIMScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return (sample,)

    ready = prepared(Same(), 3)
    stepper = Stepper(ready, ready.timesteps)
    scheme = ReplayScheme.create(stepper, small_signal_table(stepper).scheme)
    x = torch.ones(1, 1, 2, 2)
    new = scheme.step(0, [x], [x])
    assert torch.equal(new, x)
    assert new.data_ptr() != x.data_ptr()


def test_what_is_refused():
    scheme, x, *_ = setting("euler-a")
    with pytest.raises(ValueError, match=r"samples are at nodes \[1, 2\].*lockstep=True"):
        scheme.step(np.array([1, 2]), [x], [x])
    stepper = scheme.stepper
    with pytest.raises(ValueError, match=r"draws noise; pass noise=RawNoise\.create"):
        ReplayScheme.create(stepper, small_signal_table(stepper).scheme)
    with pytest.raises(ValueError, match="the table has 4 nodes, EulerAncestralDiscreteScheduler 8"):
        ReplayScheme.create(stepper, schemes.ddim(4))
    run = stepper.fresh()
    with pytest.raises(ValueError, match="this run of EulerAncestralDiscreteScheduler is at node 0, not 3"):
        run.step(3, x, x)
    with pytest.raises(UnsupportedSchedulerError, match="draws noise at node 0; none was given"):
        run.step(0, x, x)
    with pytest.raises(UnsupportedSchedulerError, match="asks at node 0 for draw 0 of shape"):
        stepper.fresh().step(0, x[:, :1], x[:, :1], scheme.raw.at(0))
    assert "replayed" in repr(scheme)


def test_noise_of_another_shape_is_refused():
    class Wide(DDIMScheduler):
        def step(self, model_output, timestep, sample, generator=None, return_dict=True):
            return (sample + torch.randn((*sample.shape, 2), generator=generator).sum(-1),)

    ready = prepared(Wide(), 3)
    stepper = Stepper(ready, ready.timesteps)
    with pytest.raises(UnsupportedSchedulerError, match="Wide draws noise of shape"):
        RawNoise.create(stepper, None, (1, 1, 2, 2), Dtypes(), "cpu")


def test_draws_from_the_global_state():
    class Loose(DDIMScheduler):
        def step(self, model_output, timestep, sample, generator=None, return_dict=True):
            return (sample + torch.randn_like(sample),)

    ready = prepared(Loose(), 4)
    stepper = Stepper(ready, ready.timesteps)
    torch.manual_seed(8)
    noise = RawNoise.create(stepper, torch.Generator().manual_seed(1), (1, 2, 4), Dtypes(), "cpu")
    rows = [noise.row(n)[0] for n in range(4)]
    noise.advance()
    after = torch.randn(3)
    torch.manual_seed(8)
    for row in rows:
        assert torch.equal(row, torch.randn(1, 2, 4))
    assert torch.equal(after, torch.randn(3))


@pytest.mark.parametrize("kind", [DDIMScheduler, FlowMatchEulerDiscreteScheduler, EulerDiscreteScheduler])
def test_copies_share_tables(kind):
    ready = prepared(kind(), 50)
    stepper = Stepper(ready, ready.timesteps)
    stepper.rehearse()
    run = stepper.fresh()
    x = torch.zeros(1, 1, 2, 2)
    for node in range(3):
        run.step(node, x, x)
    copy = run.snapshot()
    assert copy.node == 3
    assert copy.scheduler.timesteps is run.scheduler.timesteps is stepper.scheduler.timesteps
    copy.step(3, x, x)
    assert run.node == 3
