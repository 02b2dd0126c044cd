"""What ranks of a process group do in tests: ``torchrun ... ranks.py CASE FOLDER``. Each case ends with a file."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import attrs
import torch
from torch import distributed as dist

import paracore
from evaluators.checks import SIZES, check_rows, check_solve, check_tangents, make_request, problem
from evaluators.networks import Matrix, Smooth
from paracore import fitting
from paracore.errors import EvaluatorError
from paracore.evaluators import distributed
from paracore.schemes import ddpm
from paracore.testing import run_checks, subject_of

RANK = int(os.environ["RANK"])
WORLD = int(os.environ["WORLD_SIZE"])
LAST = WORLD - 1


class Once(Smooth):
    """On the last rank, something else in its second call."""

    def __init__(self, how: str) -> None:
        self.how, self.calls = how, 0

    def __call__(self, x, t, rows):
        self.calls += 1
        if RANK == LAST and self.calls == 2:
            if self.how == "nan":
                return torch.full_like(x, float("nan"))
            if self.how == "shape":
                return super().__call__(x, t, rows)[:, :2]
            if self.how == "dtype":
                return super().__call__(x, t, rows).double()
            raise ZeroDivisionError("no schedule")
        return super().__call__(x, t, rows)


def raised(do) -> str:
    try:
        do()
    except EvaluatorError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def facts(folder: Path) -> None:
    """Everything that needs no rank to die."""
    evaluator = distributed(Smooth(), jvp=True, timeout=60)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        check_rows(evaluator, dtype)
    check_tangents(evaluator)
    assert len(evaluator.evaluate(make_request(0)).values) == 0
    assert (evaluator.main, evaluator.world) == (RANK == 0, WORLD)
    check_solve(distributed(Matrix(), timeout=60), WORLD)

    # one rank's numbers are not finite
    request = make_request(2 * WORLD)
    evaluator = distributed(Once("nan"), timeout=60)
    evaluator.evaluate(request)
    found = evaluator.evaluate(request)
    assert torch.equal(found.values, paracore.evaluators.batched(Smooth()).evaluate(request).values)
    assert f"rank {LAST} returned numbers that are not finite" in found.incidents[0], found.incidents

    # one rank's network breaks: all say whose, and what
    for how, said in (("shape", "returned shape"), ("dtype", "torch.float64"), ("raise", "ZeroDivisionError: no sch")):
        evaluator = distributed(Once(how), timeout=60)
        evaluator.evaluate(request)
        message = raised(lambda evaluator=evaluator: evaluator.evaluate(request))
        assert message.startswith(f"rank {LAST}, rows"), message
        assert said in message, message

    # inputs of the first rank reach all
    generator = torch.Generator().manual_seed(RANK)
    mine = paracore.Problem(ddpm(9), torch.full((2, 3), float(RANK + 1)), generator)
    before = generator.get_state()
    begun = distributed(Smooth(), timeout=60).begin(mine)
    assert begun.x0.tolist() == torch.ones(2, 3).tolist()
    assert torch.equal(begun.generator.get_state(), torch.Generator().manual_seed(0).get_state())
    assert torch.equal(generator.get_state(), before)
    message = raised(lambda: distributed(Smooth(), timeout=60).begin(problem(batch=2 if RANK == LAST else 1)))
    assert f"the problem differs: rank {LAST} has x0 (2, 48)" in message, message

    # ranks that do something else are named
    def other(change) -> str:
        evaluator = distributed(Smooth(), timeout=60, check_every=2)
        for number in range(8):
            asked = make_request(6, number)
            evaluator.evaluate(change(asked, number) if RANK == LAST else asked)
        return "not noticed"

    def fewer(asked, number):
        return make_request(5, number) if number == 3 else asked

    def node(asked, number):
        return attrs.evolve(asked, nodes=asked.nodes.flip(0)) if number == 3 else asked

    def bit(asked, number):
        states = asked.states.clone()
        states[3, 1, 1] = torch.nextafter(states[3, 1, 1], torch.tensor(9.0))
        return attrs.evolve(asked, states=states) if number >= 3 else asked

    for change, said in ((fewer, "number of rows of request 4"), (node, "nodes"), (bit, "states of request 5")):
        message = raised(lambda change=change: other(change))
        assert message.startswith(f"rank {LAST} differs from rank 0"), message
        assert said in message, message

    # window="auto": all take the first one's measurements, however different theirs are
    measured = fitting._time

    def drifting(*arguments):
        return measured(*arguments) * (1 + 100 * RANK * torch.rand(()).item())

    fitting._time, fitting._room = drifting, lambda problem, window: window < (16 if RANK == 0 else 4)
    evaluator = distributed(Matrix(), timeout=60)
    chosen = []
    for _ in range(5):
        fitted = paracore.sampler("picard", window="auto").fitted(problem(), evaluator)
        chosen.append(fitted.composition.window)
    windows = [None] * WORLD
    dist.all_gather_object(windows, chosen)
    assert all(other == windows[0] for other in windows)
    (folder / f"done-{RANK}").touch()


def kit(folder: Path) -> None:
    """The conformance kit on every rank at once."""
    report = run_checks(subject_of("evaluator:distributed(timeout=60)"))
    assert report.passed, str(report)
    (folder / f"done-{RANK}").touch()


def groups(folder: Path) -> None:
    """Four ranks: time-parallel over (0, 2) and (1, 3)."""
    dist.init_process_group("gloo")
    mine = None
    for members in ((0, 2), (1, 3)):
        group = dist.new_group(members)
        if RANK in members:
            mine = group
    check_rows(distributed(Smooth(), mine, timeout=60))
    check_solve(distributed(Matrix(), mine, timeout=60), 2)
    message = (
        raised(lambda: distributed(Smooth(), mine, timeout=60).begin(problem(batch=1 + (RANK == 3))))
        if RANK in (1, 3)
        else "rank 1 of the group (rank 3 of all)"
    )
    assert "rank 1 of the group (rank 3 of all)" in message, message
    (folder / f"done-{RANK}").touch()


def await_saved(path: Path, rounds: int) -> None:
    """Until rank 0 has saved that many rounds: torchrun ends it as soon as it sees another rank gone."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if path.exists() and paracore.load_checkpoint(path)["total_rounds"] >= rounds:
            return
        time.sleep(0.01)
    raise AssertionError(f"{path.name} did not reach {rounds} rounds")


def killed(folder: Path) -> None:
    """The last rank (or the first) dies after some rounds; the first one saves the state."""
    victim, after, timeout = (int(word) for word in sys.argv[3:6])

    class Dying(Matrix):
        calls = 0

        def forward(self, x, t, rows):
            self.calls += 1
            if (folder / "slow").exists():
                time.sleep(0.2)
            if victim == RANK and self.calls > after and not (folder / "resume").exists():
                await_saved(folder / "state.pt", after)
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(x, t, rows)

    sampler, task = paracore.sampler("picard", window=4), problem(batch=4, steps=20)
    state, path = None, folder / "state.pt"
    with distributed(Dying(), timeout=timeout) as evaluator:
        if (folder / "resume").exists():
            data = paracore.load_checkpoint(path) if evaluator.main else None
            state = sampler.restore(task, evaluator.broadcast(data))
        try:
            result = paracore.solve(
                sampler, task, evaluator, state=state, checkpoint=path if evaluator.main else None, checkpoint_every=1
            )
        except EvaluatorError as error:
            (folder / f"error-{RANK}").write_text(str(error))
            raise
        if evaluator.main:
            torch.save(result.sample, folder / "sample.pt")
    (folder / f"done-{RANK}").touch()


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert SIZES
    {"facts": facts, "kit": kit, "groups": groups, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
