"""Executors: how recorded calls are made changes no answer, and a wrong merged answer is found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from adapters.diffusers import fakes, zoo
from paracore.errors import ConfigurationError
from paracore_diffusers import parallelize
from paracore_diffusers.calls import Call
from paracore_diffusers.execution import Merged, OneByOne, Replicas, executor_from


class Sizes:
    """The batch sizes of a network's calls."""

    def __init__(self, network: nn.Module) -> None:
        self.seen: list[int] = []
        self.handle = network.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs):
        main = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.ndim > 1)
        self.seen.append(len(main))


def run(made, steps=7, **options):
    fast = parallelize(made.pipe, "picard", tolerance=0.0, **options)
    return zoo.run(made, steps, 3, through=fast), fast.last


@pytest.mark.parametrize(
    ("name", "most"), [("flux", 1), ("flux", 2), ("flux", 5), ("flux", None), ("sd", 1), ("sd", 3), ("wan", 3)]
)
def test_max_batch(name, most):
    made = zoo.ZOO[name]()
    own = 2 if name == "sd" else 1
    expected = zoo.run(made, 7, 3)
    sizes = Sizes(made.pipe.unet if name == "sd" else made.pipe.transformer)
    found, last = run(made, window=5, max_batch=most)
    assert max(sizes.seen) <= max(most or 99, own)
    if most is None:
        assert max(sizes.seen) >= 4 * own
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert last.evaluations == 5 + 5 + 5 + 4 + 3 + 2 + 1


class Wrong(fakes.Network):
    """Mixes the samples of a batch."""

    def forward(self, sample, timestep, context=None, strength=1.0):
        return super().forward(sample, timestep, context, strength) + 0.1 * sample.mean(0, keepdim=True)


class FirstTime(fakes.Network):
    """Takes the first time for all."""

    def forward(self, sample, timestep, context=None, strength=1.0):
        return super().forward(sample, timestep.flatten()[0], context, strength)


class Picky(fakes.Network):
    """Takes one time only."""

    def forward(self, sample, timestep, context=None, strength=1.0):
        if timestep.ndim > 0 and len(timestep) > 1:
            raise ValueError("one time only, please\nand more")
        return super().forward(sample, timestep, context, strength)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Wrong, "one by one: a merged answer differs from the single one by .* \\(allowed 0.001\\)"),
        (FirstTime, "one by one: a merged answer differs from the single one by"),
        (Picky, "one by one: the network refuses the merged call \\(one time only, please\\)"),
    ],
)
def test_a_network_that_merges_wrongly(kind, message):
    pipe = fakes.Plain(kind(), zoo.flow())
    pipe.set_progress_bar_config(disable=True)
    draw = lambda call: call(8, generator=torch.Generator().manual_seed(0)).images  # noqa: E731
    expected = draw(pipe)
    fast = parallelize(pipe, "picard", window=4, tolerance=0.0)
    torch.testing.assert_close(draw(fast), expected, rtol=1e-5, atol=1e-5)
    assert __import__("re").match(message, fast.last.merges[kind.__name__])
    again = draw(fast)
    assert torch.equal(again, draw(fast)), "what was found once holds from then on"


def test_the_check_can_be_loosened():
    pipe = fakes.Plain(Wrong(), zoo.flow())
    pipe.set_progress_bar_config(disable=True)
    fast = parallelize(pipe, "picard", window=4, tolerance=0.0, execution=Merged(tolerance=1e9))
    fast(8, generator=torch.Generator().manual_seed(0))
    assert fast.last.merges == {"Wrong": "merged"}


@pytest.mark.parametrize(
    ("name", "count"),
    [("flux", 1), ("flux", 3), ("wan22", 2), ("z_image", 2), pytest.param("sd_controlnet", 2, marks=pytest.mark.slow)],
)
def test_replicas_keep_the_bits(name, count):
    made = zoo.ZOO[name]()
    expected = zoo.run(made, 6, 3)
    fast = parallelize(made.pipe, "picard", window=4, exact=True, devices=["cpu"] * count)
    assert torch.equal(zoo.run(made, 6, 3, through=fast), expected)


def test_replicas_merge_too():
    made = zoo.ZOO["flux"]()
    expected = zoo.run(made, 7, 3)
    found, last = run(made, window=6, devices=["cpu", "cpu"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert set(last.merges.values()) == {"merged"}


def test_replicas_obey_max_batch():
    made = zoo.ZOO["flux"]()
    found, seen = executor_from("merged", ["cpu", "cpu"], 2), []
    assert [e.max_batch for e in found._each] == [2, 2]
    fast = parallelize(made.pipe, "picard", window=7, tolerance=0.0, devices=["cpu", "cpu"], max_batch=2)
    forward = type(made.pipe.transformer).forward

    def spied(self, hidden_states, *args, **kwargs):
        seen.append(len(hidden_states))
        return forward(self, hidden_states, *args, **kwargs)

    spied.__signature__ = __import__("inspect").signature(forward)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(made.pipe.transformer), "forward", spied)
        zoo.run(made, 8, 3, through=fast)
    assert max(seen) == 2


@pytest.mark.parametrize("change", ["weights", "exchange", "setting"])
def test_replicas_follow_their_network(change):
    """Copies of an earlier call are not used once the network was changed."""
    pipe = fakes.made(fakes.Plain)
    draw = lambda call: call(8, generator=torch.Generator().manual_seed(0)).images  # noqa: E731
    fast = parallelize(pipe, "picard", window=4, exact=True, devices=["cpu", "cpu"])
    before = draw(fast)
    assert torch.equal(before, draw(pipe))
    with torch.no_grad():
        if change == "weights":
            pipe.unet.mix.weight.mul_(1.5)
        elif change == "exchange":
            pipe.unet.mix = nn.Sequential(pipe.unet.mix, nn.Tanh())
        else:
            pipe.unet.mix.padding_mode, pipe.unet.mix._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]
    after = draw(fast)
    assert not torch.equal(after, before)
    assert torch.equal(after, draw(pipe))


class Doubling:
    """An executor of one's own."""

    inline = False

    def __init__(self) -> None:
        self.calls = 0

    def run(self, calls, known):
        self.calls += len(calls)
        for call in calls:
            if not call.done:
                call.result, call.done = call.run(), True


def test_an_executor_of_ones_own():
    made, own = zoo.ZOO["flux"](), Doubling()
    expected = zoo.run(made, 6, 3)
    found, last = run(made, 6, window=4, execution=own)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert own.calls > 0
    assert last.merges == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fast", None, None), "execution is 'fast'; 'merged', 'one-by-one' or an executor is needed"),
        (("merged", None, 0), "max_batch is 0; an integer of at least 1"),
        (("merged", None, 1.5), "max_batch is 1.5"),
        (("merged", [], None), r"devices is \[\]; a list of at least one device"),
        (("merged", "cpu", None), "devices is 'cpu'; a list of at least one device"),
        (("merged", ["cpu"], 0), "max_batch is 0"),
        ((Doubling(), ["cpu"], None), "devices and an executor of one's own"),
        ((Doubling(), None, 4), "max_batch and an executor of one's own"),
        ((3, None, None), r"execution is 3; .*an object with run\(calls, known\) and inline"),
        ((Doubling, None, None), "execution is <class .*Doubling'>; .*an object with run"),
    ],
)
def test_wrong_options(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        executor_from(*arguments)


def test_known_calls_are_not_made_again():
    count = []

    def network(x):
        count.extend(x[:, 0].tolist())
        return 2 * x

    def calls():
        found = [Call(network, (torch.full((1, 2), float(i)),), {}, 0, i) for i in range(4)]
        found[1].result, found[1].done = torch.zeros(1, 2), True
        return found

    for executor in (OneByOne(), Merged(), Merged(2)):
        count.clear()
        todo = calls()
        executor.run(todo, [])
        assert set(count) == {0.0, 2.0, 3.0}
        assert [float(c.result[0, 0]) for c in todo] == [0.0, 0.0, 4.0, 6.0]


def test_errors_in_a_replica_reach_the_caller():
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        Replicas(["cpu", "cpu"], OneByOne).run([Call(Broken(), (torch.ones(1, 2),), {}, 0, 0)], [])
