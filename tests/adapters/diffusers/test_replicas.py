"""Copies of the network on several devices: a copy that fails or hangs costs no answer, and the run says so."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from adapters.diffusers import fakes, zoo
from paracore.errors import ConfigurationError, EvaluatorError
from paracore_diffusers import parallelize
from paracore_diffusers.calls import Call
from paracore_diffusers.execution import Merged, OneByOne
from paracore_diffusers.replicas import Replicas

TROUBLE: dict[str, object] = {}
"""By the name of a replica's thread: what happens in its calls (copies of a network share nothing else)."""


class Troubled(fakes.Network):
    def forward(self, sample, timestep, context=None, strength=1.0):
        what = TROUBLE.get(threading.current_thread().name)
        if what is not None:
            what()
        return super().forward(sample, timestep, context, strength)


def divide():
    raise ZeroDivisionError("no schedule")


@pytest.fixture
def hang():
    """Makes calls hang until the test ends."""
    over = threading.Event()
    yield lambda: over.wait(60)
    over.set()


@pytest.fixture(autouse=True)
def _no_trouble():
    TROUBLE.clear()
    yield
    TROUBLE.clear()


def pipeline():
    pipe = fakes.Plain(Troubled(), zoo.flow())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(call):
    return call(8, generator=torch.Generator().manual_seed(0)).images


def replicas(pipe, count=2, **options):
    return parallelize(pipe, "picard", **{"window": 4, "exact": True, "devices": ["cpu"] * count, **options})


@pytest.mark.parametrize("count", [2, 3])
def test_a_copy_that_raises_is_given_up(count):
    pipe = pipeline()
    expected, fast = draw(pipe), replicas(pipe, count)
    TROUBLE["paracore-cpu-1"] = divide
    assert torch.equal(draw(fast), expected)
    (said,) = fast.last.incidents
    assert said.startswith("replica 1 (cpu) raised ZeroDivisionError: no schedule; the call")
    assert said.endswith("evaluated elsewhere")
    assert torch.equal(draw(fast), expected)
    assert fast.last.incidents == (), "of another run"
    assert fast._executor.alive == count - 1
    fast.release()


def test_a_copy_that_raises_in_a_merged_call():
    pipe = pipeline()
    expected, fast = draw(pipe), replicas(pipe, exact=False, tolerance=0.0)
    TROUBLE["paracore-cpu-0"] = divide
    torch.testing.assert_close(draw(fast), expected, rtol=1e-5, atol=1e-5)
    assert fast.last.incidents[0].startswith("replica 0 (cpu) raised ZeroDivisionError")
    assert fast.last.merges == {"Troubled": "merged"}, "as found on the one that is left"


def test_a_copy_that_hangs_is_given_up_after_the_timeout(hang):
    pipe = pipeline()
    expected, fast = draw(pipe), replicas(pipe, timeout=0.5)
    TROUBLE["paracore-cpu-1"] = hang
    began = time.monotonic()
    assert torch.equal(draw(fast), expected)
    assert 0.5 <= time.monotonic() - began < 10
    (said,) = fast.last.incidents
    assert said.startswith("replica 1 (cpu) gave no answer within 0.5 s; the call")
    own = [t for t in threading.enumerate() if t.name.startswith("paracore-")]
    assert own, "the hanging one, at least"
    assert all(t.daemon for t in own), "threads must not keep the process alive"


def test_no_copy_is_left(hang):
    pipe = pipeline()
    expected, fast = draw(pipe), replicas(pipe, timeout=0.3)
    TROUBLE.update({"paracore-cpu-0": hang, "paracore-cpu-1": hang})
    with pytest.raises(EvaluatorError, match=r"no worker is left; .*replica [01] \(cpu\) gave no answer") as caught:
        draw(fast)
    assert caught.value.result is not None
    assert torch.equal(draw(pipe), expected), "the pipeline is as it was"


def test_what_all_copies_raise_is_the_networks_own():
    pipe = pipeline()
    expected, fast = draw(pipe), replicas(pipe)
    TROUBLE.update({"paracore-cpu-0": divide, "paracore-cpu-1": divide})
    with pytest.raises(ZeroDivisionError, match="no schedule") as caught:
        draw(fast)
    assert any("raised by replica" in note for note in caught.value.__notes__)
    TROUBLE.clear()
    assert torch.equal(draw(fast), expected)
    assert fast._executor.alive == 2, "nobody was given up"


def test_late_answers_are_not_used(hang):
    """A copy that was given up answers in the middle of a later run."""
    over, slow = threading.Event(), []

    class Late(nn.Module):
        def forward(self, x):
            if threading.current_thread().name == "paracore-cpu-1" and not slow:
                slow.append(1)
                over.wait(30)
                return -x
            return 2 * x

    module, executor = Late(), Replicas(["cpu", "cpu"], OneByOne, 0.3)
    calls = [Call(module, (torch.full((1, 1), float(i)),), {}, 0, i) for i in range(4)]
    executor.run(calls, [])
    over.set()
    time.sleep(0.1)
    again = [Call(module, (torch.full((1, 1), float(i)),), {}, 0, i) for i in range(4)]
    executor.run(again, [])
    assert [float(c.result) for c in (*calls, *again)] == [0.0, 2.0, 4.0, 6.0] * 2
    executor.close()


@pytest.mark.parametrize("each", [OneByOne, Merged])
def test_workers_take_over_the_callers_surroundings(each):
    found = []

    class Asking(nn.Module):
        def forward(self, x):
            state = torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()
            found.append((threading.current_thread().name, torch.get_num_threads(), *state))
            return x

    executor, module = Replicas(["cpu", "cpu"], each), Asking()

    def surroundings():
        found.clear()
        executor.run([Call(module, (torch.ones(1, 2),), {}, 0, i) for i in range(2)], [])
        assert sorted({row[0] for row in found}) == ["paracore-cpu-0", "paracore-cpu-1"]
        return {row[1:] for row in found}

    threads = torch.get_num_threads()
    assert surroundings() == {(threads, False, False, False)}
    with torch.autocast("cpu", torch.bfloat16):
        assert surroundings() == {(threads, False, True, False)}
    with torch.inference_mode():
        assert surroundings() == {(threads, True, False, False)}
    torch.set_num_threads(threads + 1)
    try:
        assert surroundings() == {(threads + 1, False, False, False)}
    finally:
        torch.set_num_threads(threads)
    executor.close()


def test_threads_end_with_the_pipeline():
    before, pipe = set(threading.enumerate()), pipeline()
    fast = replicas(pipe)
    draw(fast)
    own = set(threading.enumerate()) - before
    assert {t.name for t in own} == {"paracore-cpu-0", "paracore-cpu-1"}
    fast.release()
    for thread in own:
        thread.join(5)
    assert not any(t.is_alive() for t in own)


def test_a_loop_that_draws_is_refused_with_replicas_too():
    class Drawing(fakes.Plain):
        def guided(self, latents, t, i):
            torch.rand(1)
            return super().guided(latents, t, i)

    pipe = Drawing(Troubled(), zoo.flow())
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(Exception, match="draws random numbers inside its loop"):
        draw(replicas(pipe))


def test_devices_that_cannot_be_used():
    with pytest.raises(ConfigurationError, match="device 'tpu' cannot be used"):
        replicas(pipeline(), devices=["cpu", "tpu"])
