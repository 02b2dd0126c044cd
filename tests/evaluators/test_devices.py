"""Several devices in one process, and workers that fail."""

from __future__ import annotations

import contextlib
import gc
import threading
import time

import pytest
import torch

import paracore
from evaluators.checks import SIZES, check_rows, check_solve, check_tangents, make_request, problem
from evaluators.networks import Failing, Matrix, Recording, Smooth
from paracore.errors import ConfigurationError, DenoiserError, EvaluatorError
from paracore.evaluators import devices

CPU = "cpu"


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows(count, dtype):
    with devices(Smooth(), [CPU] * count) as evaluator:
        check_rows(evaluator, dtype)


def test_tangents():
    """Again and again: two forward-mode derivatives at once would disturb each other."""
    with devices(Smooth(), [CPU] * 3, jvp=True) as evaluator:
        for _ in range(8):
            check_tangents(evaluator)
    assert devices(Smooth(), [CPU]).capabilities == frozenset()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_bits_of_the_same_calls(count):
    with devices(Matrix(), [CPU] * count) as evaluator:
        check_solve(evaluator, count)


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_compute_with_the_callers_number_of_threads(threads):
    """A new thread starts with a number of its own in some of torch's libraries, and other bits."""
    found = []

    class Asking(Smooth):
        def __call__(self, x, t, rows):
            found.append((threading.current_thread().name, torch.get_num_threads()))
            return super().__call__(x, t, rows)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with devices(Asking(), [CPU, CPU]) as evaluator:
            evaluator.evaluate(make_request(4))
    finally:
        torch.set_num_threads(before)
    assert {name for name, _ in found} == {"paracore-cpu-0", "paracore-cpu-1"}
    assert {number for _, number in found} == {threads}


@pytest.mark.parametrize("mode", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_workers_take_over_inference_mode_and_autocast(mode):
    found = []

    class Asking(Smooth):
        def __call__(self, x, t, rows):
            found.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
            return super().__call__(x, t, rows)

    with devices(Asking(), [CPU, CPU]) as evaluator, mode():
        expected = (torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        evaluator.evaluate(make_request(4))
    assert found == [expected] * 2


def test_each_worker_makes_one_call_per_round_and_has_its_own_replica():
    network = Recording()
    with devices(network, [CPU] * 3) as evaluator:
        evaluator.evaluate(make_request(7))
        assert sorted(network.sizes) == [2, 2, 3]
        evaluator.evaluate(make_request(2))
    assert sorted(network.sizes) == [1, 1, 2, 2, 3]
    module = Matrix()
    with devices(module, [CPU, CPU]) as evaluator:
        before = evaluator.evaluate(problem_request())
        module.weight.data.zero_()  # the first replica is the module itself, the second a copy
        after = evaluator.evaluate(problem_request())
    assert not torch.equal(before.values[0], after.values[0])
    assert torch.equal(before.values[-1], after.values[-1])


def problem_request():
    return paracore.sampler("picard", window=2).request(paracore.sampler("picard", window=2).start(problem(batch=2)))


def test_max_batch_splits_each_share():
    network = Recording()
    with devices(network, [CPU, CPU], max_batch=2) as evaluator:
        evaluator.evaluate(make_request(8))
    assert sorted(network.sizes) == [2, 2, 2, 2]


# ---------------------------------------------------------------------------------------------------------- failures


def undisturbed(sampler, shards=2):
    with devices(Smooth(), [CPU] * shards) as evaluator:
        return paracore.solve(sampler, problem(), evaluator)


@pytest.mark.parametrize("when", [1, 2, 5])
@pytest.mark.parametrize("name", ["picard", "ropa"])
def test_a_worker_that_raises_is_given_up_and_the_answer_stays(tmp_path, when, name):
    sampler = paracore.sampler(name, window=4)
    with devices(Failing(tmp_path / "once", when, "raise"), [CPU, CPU]) as evaluator:
        result = paracore.solve(sampler, problem(), evaluator)
        assert evaluator.alive == 1
    assert torch.equal(result.sample, undisturbed(sampler).sample)
    assert len(result.incidents) == 1
    assert "raised RuntimeError: the device fell off the bus" in result.incidents[0]
    assert result.as_dict()["incidents"] == list(result.incidents)


def test_a_worker_that_hangs_is_given_up_after_the_timeout(tmp_path):
    sampler = paracore.sampler("picard", window=4)
    began = time.monotonic()
    with devices(Failing(tmp_path / "once", 3, "hang"), [CPU, CPU, CPU], timeout=0.3) as evaluator:
        result = paracore.solve(sampler, problem(), evaluator)
        assert evaluator.alive == 2
    assert time.monotonic() - began < 20
    assert torch.equal(result.sample, undisturbed(sampler, 3).sample)
    assert "gave no answer within 0.3 s" in result.incidents[0]


def test_a_network_that_raises_everywhere_is_raised_and_no_worker_is_given_up():
    class Broken(Smooth):
        def __call__(self, x, t, rows):
            raise ZeroDivisionError("no schedule")

    with devices(Broken(), [CPU, CPU, CPU]) as evaluator:
        with pytest.raises(ZeroDivisionError, match="no schedule") as caught:
            evaluator.evaluate(make_request(5))
        assert "worker" in caught.value.__notes__[0]
        assert evaluator.alive == 3
        with pytest.raises(ZeroDivisionError):  # and it can be asked again
            evaluator.evaluate(make_request(2))


def test_answers_that_come_together_with_an_error_are_not_lost(monkeypatch):
    """An error ends the call; the other workers' answers, taken in with it, must free them all the same."""

    class Broken(Smooth):
        def __call__(self, x, t, rows):
            raise ZeroDivisionError("no schedule")

    with devices(Broken(), [CPU, CPU, CPU], timeout=5.0) as evaluator:
        wait = evaluator._threads.wait

        def together(seconds):
            time.sleep(0.1)
            return wait(seconds)

        monkeypatch.setattr(evaluator._threads, "wait", together)
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(ZeroDivisionError):
                evaluator.evaluate(make_request(6))
            assert time.monotonic() - began < 4
        assert evaluator.alive == 3


def test_a_broken_contract_is_raised_at_once_and_names_the_worker_and_its_rows():
    class Short(Smooth):
        def __call__(self, x, t, rows):
            return super().__call__(x, t, rows)[:, :2]

    with devices(Short(), [CPU, CPU]) as evaluator:
        with pytest.raises(DenoiserError, match=r"worker [01] \(cpu\), rows \d to \d: .*shape"):
            evaluator.evaluate(make_request(4))
        assert evaluator.alive == 2


def test_no_worker_left_loses_nothing(tmp_path):
    """All replicas hang one after the other; the error carries the state, and the file goes on from it."""
    network = Hanging(after=5)
    sampler, task, path = paracore.sampler("picard", window=4), problem(), tmp_path / "state.pt"
    with devices(network, [CPU, CPU], timeout=0.3) as evaluator:
        with pytest.raises(EvaluatorError, match=r"no worker is left.*gave no answer.*state saved to") as caught:
            paracore.solve(sampler, task, evaluator, checkpoint=path, checkpoint_every=1000)
        with pytest.raises(EvaluatorError, match="no worker is left"):
            evaluator.evaluate(make_request(2))
    error = caught.value
    assert error.result.total_rounds > 0
    expected = undisturbed(sampler)
    restored = sampler.restore(task, paracore.load_checkpoint(path))
    for state in (error.state, restored):
        with devices(Smooth(), [CPU, CPU]) as evaluator:
            result = paracore.solve(sampler, task, evaluator, state=state)
        assert torch.equal(result.sample, expected.sample)
        assert result.rounds.tolist() == expected.rounds.tolist()


class Hanging(Smooth):
    """From a call on, for good."""

    def __init__(self, after: int) -> None:
        self.after, self.calls = after, 0

    def __deepcopy__(self, memo):
        return self

    def __call__(self, x, t, rows):
        self.calls += 1
        if self.calls > self.after:
            time.sleep(30)
        return super().__call__(x, t, rows)


def test_numbers_that_are_not_finite_on_one_worker_are_its_own(tmp_path):
    sampler = paracore.sampler("picard", window=4)
    with devices(Failing(tmp_path / "once", 2, "nan"), [CPU, CPU]) as evaluator:
        result = paracore.solve(sampler, problem(), evaluator)
        assert evaluator.alive == 2
    assert torch.equal(result.sample, undisturbed(sampler).sample)
    assert "returned numbers that are not finite" in result.incidents[0]


def test_numbers_that_are_not_finite_everywhere_are_the_networks():
    class Overflowing(Smooth):
        calls = 0

        def __deepcopy__(self, memo):
            return self

        def __call__(self, x, t, rows):
            self.calls += 1
            value = super().__call__(x, t, rows)
            value[rows.sample == 1] = float("inf")
            return value

    network = Overflowing()
    with devices(network, [CPU, CPU]) as evaluator:
        result = paracore.solve(paracore.sampler("picard", window=4), problem(), evaluator, raise_on_failure=False)
        assert [s.failed for s in result.status] == [False, True, False]
        assert result.incidents == ()
        for _ in range(5):  # it stops asking twice
            network.calls = 0
            evaluator.evaluate(every_sample(1))
        assert network.calls == 2


def test_one_samples_own_overflow_hides_no_workers_fault(tmp_path):
    """What was found out about a sample counts for that sample alone."""

    class Both(Failing):
        def __deepcopy__(self, memo):
            return Both(self.marker, self.when, self.how)

        def __call__(self, x, t, rows):
            value = super().__call__(x, t, rows)
            value[rows.sample == 1] = float("inf")
            return value

    with devices(Both(tmp_path / "once", 12, "nan"), [CPU, CPU]) as evaluator:
        for _ in range(6):
            assert evaluator.evaluate(every_sample(1)).incidents == ()
        incidents = [text for _ in range(12) for text in evaluator.evaluate(every_sample(0)).incidents]
        assert len(incidents) == 1
        assert "returned numbers that are not finite" in incidents[0]


def every_sample(sample):
    request = make_request(4)
    return paracore.Request(request.nodes, torch.full((4,), sample), request.states, request.times)


# ------------------------------------------------------------------------------------------------------------ the end


def workers():
    return [t for t in threading.enumerate() if t.name.startswith("paracore-")]


def test_threads_end_with_the_evaluator():
    before = set(workers())  # those that hang in other tests' networks
    evaluator = devices(Smooth(), [CPU, CPU])
    forgotten = devices(Smooth(), [CPU, CPU])
    own = set(workers()) - before
    assert len(own) == 4
    evaluator.close()
    evaluator.close()
    with pytest.raises(ConfigurationError, match="was closed"):
        evaluator.evaluate(make_request(2))
    del forgotten
    gc.collect()
    for worker in own:
        worker.join(5)
    assert not any(worker.is_alive() for worker in own)


def test_interrupted_and_used_again():
    class Slow(Smooth):
        def __call__(self, x, t, rows):
            time.sleep(0.2)
            return super().__call__(x, t, rows)

    with devices(Slow(), [CPU, CPU]) as evaluator:
        threading.Timer(0.1, lambda: __import__("_thread").interrupt_main()).start()
        with contextlib.suppress(KeyboardInterrupt):
            evaluator.evaluate(make_request(2))
            time.sleep(1)
        request = make_request(3, seed=9)
        found = evaluator.evaluate(request)  # late answers to the broken-off request are not taken for its own
        assert torch.equal(found.values, paracore.evaluators.batched(Smooth()).evaluate(request).values)


# -------------------------------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": []}, "at least one device"),
        ({"devices": "cpu"}, "at least one device"),
        ({"devices": ["cuda:99"]}, "device 'cuda:99' cannot be used"),
        ({"devices": ["tpu"]}, "device 'tpu' cannot be used"),
        ({"devices": [CPU], "timeout": 0}, "timeout is 0"),
        ({"devices": [CPU], "timeout": "soon"}, "timeout is 'soon'"),
        ({"devices": [CPU], "max_batch": 0}, "max_batch is 0"),
        ({"devices": [CPU, CPU], "replicas": [Smooth()]}, "1 replicas for 2 devices"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        devices(Smooth(), **options)


def test_a_denoiser_that_cannot_be_copied():
    class Held(Smooth):
        def __init__(self):
            self.lock = threading.Lock()

    with pytest.raises(ConfigurationError, match=r"cannot be copied.*replicas="):
        devices(Held(), [CPU, CPU])
    with devices(Held(), [CPU, CPU], replicas=[Held(), Held()]) as evaluator:
        check_rows(evaluator)


def test_registered_and_empty_requests():
    evaluator = paracore.registry.find("evaluator", "devices").make(Smooth(), devices=[CPU, CPU])
    with evaluator:
        assert len(evaluator.evaluate(make_request(0)).values) == 0
        assert evaluator.workers == 2


@pytest.mark.slow
def test_fifty_workers_lost_at_random(tmp_path):
    """50 of 50 end with the undisturbed answer."""
    random = torch.Generator().manual_seed(0)
    run = lost = 0
    while lost < 50:
        sampler = paracore.sampler(("picard", "ropa")[run % 2], window=SIZES[run % 4 + 1])
        when = int(torch.randint(1, 9, (), generator=random))
        with devices(Failing(tmp_path / str(run), when, "raise"), [CPU, CPU]) as evaluator:
            result = paracore.solve(sampler, problem(seed=run), evaluator)
        with devices(Smooth(), [CPU, CPU]) as evaluator:
            expected = paracore.solve(sampler, problem(seed=run), evaluator)
        assert torch.equal(result.sample, expected.sample)
        fired = (tmp_path / str(run)).exists()  # the solve may have ended before
        assert fired == bool(result.incidents)
        lost, run = lost + fired, run + 1
