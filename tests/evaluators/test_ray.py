"""A real Ray, and actors that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import paracore
from evaluators.checks import check_rows, check_solve, check_tangents, make_request, problem
from evaluators.networks import Failing, Matrix, Smooth
from paracore.errors import ConfigurationError, DenoiserError, EvaluatorError
from paracore.evaluators import ray as ray_evaluator

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]  # Ray's own warnings; one Ray


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests, whose workers find the tests' modules."""
    paths = os.pathsep.join(path for path in sys.path if path)
    ray.init(
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def smooth(cluster):
    with ray_evaluator(Smooth(), 3, jvp=True) as evaluator:
        yield evaluator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows(smooth, dtype):
    check_rows(smooth, dtype)


def test_tangents(smooth):
    check_tangents(smooth)


@pytest.mark.slow
def test_bits_of_the_same_calls():
    with ray_evaluator(Matrix(), 2) as evaluator:
        check_solve(evaluator, 2)


def killed_once(evaluator):
    """An observer that kills the process of one actor after a round."""

    class Killing(paracore.Observer):
        def __init__(self, after: int) -> None:
            self.after, self.killed = after, False

        def round_finished(self, event):
            if event.round == self.after:
                os.kill(evaluator.processes[0], signal.SIGKILL)
                self.killed = True

    return Killing


def check_killed(evaluator, after: int, name: str, seed: int) -> bool:
    """Whether an actor was killed in the middle of the solve."""
    sampler, task = paracore.sampler(name, window=4), problem(seed=seed)
    observer = killed_once(evaluator)(after)
    result = paracore.solve(sampler, task, evaluator, observers=[observer])
    with paracore.evaluators.devices(Smooth(), ["cpu", "cpu"]) as two:
        expected = paracore.solve(sampler, task, two)
    assert torch.equal(result.sample, expected.sample)
    if result.incidents:
        assert "worker 0 (Ray actor) died" in result.incidents[0]
        assert "was replaced" in result.incidents[0]
    return observer.killed and bool(result.incidents)


@pytest.mark.parametrize("after", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_actor_is_replaced_and_the_answer_stays(after):
    with ray_evaluator(Smooth(), 2) as evaluator:
        assert check_killed(evaluator, after, "picard", seed=3)
        assert evaluator.alive == 2


@pytest.mark.slow
def test_fifty_actors_killed_at_random():
    """50 of 50 end with the undisturbed answer."""
    lost = run = 0
    with ray_evaluator(Smooth(), 2, max_restarts=100) as evaluator:
        while lost < 50:
            lost += check_killed(evaluator, 1 + run % 5, ("picard", "ropa")[run % 2], seed=run)
            run += 1
            assert run < 100


@pytest.mark.slow
def test_an_actor_that_hangs_is_replaced_after_the_timeout(tmp_path):
    sampler, task = paracore.sampler("picard", window=4), problem()
    with ray_evaluator(Failing(tmp_path / "once", 2, "hang"), 2) as evaluator:
        evaluator._timeout = 1.0  # the start took longer
        result = paracore.solve(sampler, task, evaluator)
    with paracore.evaluators.devices(Smooth(), ["cpu", "cpu"]) as two:
        assert torch.equal(result.sample, paracore.solve(sampler, task, two).sample)
    assert "gave no answer within 1 s, and was replaced" in result.incidents[0]


@pytest.mark.slow
def test_numbers_that_are_not_finite_on_one_actor(tmp_path):
    sampler, task = paracore.sampler("picard", window=4), problem()
    with ray_evaluator(Failing(tmp_path / "once", 2, "nan"), 2) as evaluator:
        result = paracore.solve(sampler, task, evaluator)
    with paracore.evaluators.devices(Smooth(), ["cpu", "cpu"]) as two:
        assert torch.equal(result.sample, paracore.solve(sampler, task, two).sample)
    assert "returned numbers that are not finite" in result.incidents[0]


@pytest.mark.slow
def test_no_actor_left_loses_nothing(tmp_path):
    class Dying(Smooth):  # sent by value
        calls = 0

        def __call__(self, x, t, rows):
            self.calls += 1
            if self.calls > 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(x, t, rows)

    sampler, task, path = paracore.sampler("picard", window=4), problem(), tmp_path / "state.pt"
    with (
        ray_evaluator(Dying(), 2, max_restarts=0) as evaluator,
        pytest.raises(EvaluatorError, match=r"no worker is left.*died") as caught,
    ):
        paracore.solve(sampler, task, evaluator, checkpoint=path)
    assert caught.value.result.total_rounds == 3
    state = sampler.restore(task, paracore.load_checkpoint(path))
    with ray_evaluator(Smooth(), 2) as evaluator:
        result = paracore.solve(sampler, task, evaluator, state=state)
        expected = paracore.solve(sampler, task, evaluator)
    assert torch.equal(result.sample, expected.sample)


@pytest.mark.slow
def test_what_the_network_raises():
    class Broken(Smooth):
        def __call__(self, x, t, rows):
            raise ZeroDivisionError("no schedule")

    class Short(Smooth):
        def __call__(self, x, t, rows):
            return super().__call__(x, t, rows)[:, :2]

    with ray_evaluator(Broken(), 2) as evaluator:
        with pytest.raises(ZeroDivisionError, match="no schedule"):
            evaluator.evaluate(make_request(3))
        assert evaluator.alive == 2
    with ray_evaluator(Short(), 2) as evaluator, pytest.raises(DenoiserError, match=r"worker [01] \(Ray actor\), row"):
        evaluator.evaluate(make_request(3))


def test_bad_options():
    with pytest.raises(ConfigurationError, match="workers is 0"):
        ray_evaluator(Smooth(), 0)
    with pytest.raises(ConfigurationError, match="cannot be sent to Ray actors"):
        ray_evaluator(Locked(), 2)


class Locked(Smooth):
    def __init__(self):
        self.lock = threading.Lock()


EMBEDDED = """
import sys, torch
torch.set_num_threads(1)
import paracore
from evaluators.checks import make_request
from evaluators.networks import Smooth
evaluator = paracore.evaluators.ray(Smooth(), 2)
print(*evaluator.processes, flush=True)
if "wait" in sys.argv:
    import time
    class Slow(paracore.Observer): pass
    while True:
        evaluator.evaluate(make_request(4))
evaluator.evaluate(make_request(4))
evaluator.close()
import ray
assert not ray.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "interrupted"])
def test_an_embedded_ray_leaves_no_process(how, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [sys.executable, "-c", EMBEDDED, *(["wait"] if how == "interrupted" else [])]
    with subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        processes = [int(word) for word in process.stdout.readline().split()]
        assert len(processes) == 2
        if how == "interrupted":
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == (0 if how == "closed" else 1) or "KeyboardInterrupt" in errors, errors
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in processes)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
