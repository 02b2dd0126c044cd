"""A state between two requests is a checkpoint: saved, loaded elsewhere and resumed it gives the unbroken bits."""

from __future__ import annotations

import enum
import subprocess
import sys

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import paracore
from paracore.checkpoint import from_plain, save_checkpoint, to_plain
from paracore.engine import Engine
from paracore.errors import CheckpointError, ConfigurationError
from paracore.strategies import Initializer
from paracore.testing.adversarial import random_composition
from paracore.testing.problems import exponential_scheme, make_case, random_case


def drive(sampler, state, evaluator, rounds=None):
    """Advance by a number of rounds, or to the end."""
    while rounds != 0 and (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        rounds = None if rounds is None else rounds - 1
    return state


def same(a, b):
    assert torch.equal(a.sample, b.sample)
    assert a.status == b.status
    if a.trajectory is not None:
        assert torch.equal(a.trajectory, b.trajectory)
    for name in ("front", "rounds", "evaluations", "residual", "interpolated", "error_estimate"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("network_calls", "total_rounds", "largest_request", "steps"):
        assert getattr(a, name) == getattr(b, name)
    for x, y in zip(a.trace or (), b.trace or (), strict=True):
        for field in attrs.fields(type(x)):
            np.testing.assert_array_equal(getattr(x, field.name), getattr(y, field.name))


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.0, None]), st.booleans(), st.booleans())
def test_between_any_two_requests(tmp_path_factory, seed, tolerance, lockstep, trajectory):
    case = random_case(seed, lockstep=lockstep, dtype=[torch.float64, torch.float32, torch.bfloat16][seed % 3])
    sampler = Engine(random_composition(seed, case.problem, tolerance=tolerance, adversarial=0.3))
    evaluator, path = case.evaluator(), tmp_path_factory.mktemp("state") / "state.pt"
    options = {"trajectory": trajectory, "trace": trajectory}
    unbroken = sampler.result(drive(sampler, sampler.start(case.problem, **options), evaluator))
    state = sampler.start(case.problem, **options)
    while (request := sampler.request(state)) is not None:
        save_checkpoint(sampler.plain(state), path)
        state = sampler.restore(case.problem, paracore.load_checkpoint(path))
        assert torch.equal(sampler.request(state).states, request.states)
        state = sampler.advance(state, evaluator.evaluate(request))
    save_checkpoint(sampler.plain(state), path)
    same(sampler.result(sampler.restore(case.problem, paracore.load_checkpoint(path))), unbroken)


@pytest.mark.parametrize(("kind", "seed"), [("ddpm", 2), ("multistep", 0), ("heun", 0), ("table-noise", 0)])
def test_every_checkpoint_of_a_solve_resumes_to_the_same_bits(tmp_path, kind, seed):
    case = random_case(seed, kind=kind, steps=12, batch=3)
    sampler = paracore.compose(window=4, tolerance=3e-2, selection="every-kth", stopping="change")
    unbroken = paracore.solve(sampler, case.problem, case.evaluator(), trajectory=True, trace=True)
    assert any(len(set(t.front.tolist())) > 1 for t in unbroken.trace)  # fronts differ
    for rounds in range(unbroken.total_rounds + 1):
        state = drive(sampler, sampler.start(case.problem, trajectory=True, trace=True), case.evaluator(), rounds)
        save_checkpoint(sampler.plain(state), tmp_path / "s.pt")
        restored = sampler.restore(case.problem, paracore.load_checkpoint(tmp_path / "s.pt"))
        same(paracore.solve(sampler, case.problem, case.evaluator(), state=restored), unbroken)


SCRIPT = """
import sys, torch
import paracore
from paracore.testing.problems import random_case
case = random_case(12, kind="ddpm", steps=12, batch=3)
sampler = paracore.compose(window=4, tolerance=3e-2, selection="every-kth")
state = sampler.restore(case.problem, paracore.load_checkpoint(sys.argv[1]))
result = paracore.solve(sampler, case.problem, case.evaluator(), state=state)
torch.save({"sample": result.sample, "trajectory": result.trajectory, "rounds": result.rounds.tolist()}, sys.argv[2])
"""


def test_in_another_process(tmp_path):
    case = random_case(12, kind="ddpm", steps=12, batch=3)
    sampler = paracore.compose(window=4, tolerance=3e-2, selection="every-kth")
    unbroken = paracore.solve(sampler, case.problem, case.evaluator(), trajectory=True)
    half = drive(sampler, sampler.start(case.problem, trajectory=True), case.evaluator(), unbroken.total_rounds // 2)
    save_checkpoint(sampler.plain(half), tmp_path / "half.pt")
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "half.pt"), str(tmp_path / "end.pt")],
        check=True,
        env={**__import__("os").environ, "PYTHONPATH": ":".join(p for p in sys.path if p)},
    )
    end = torch.load(tmp_path / "end.pt")
    assert torch.equal(end["sample"], unbroken.sample)
    assert torch.equal(end["trajectory"], unbroken.trajectory)
    assert end["rounds"] == unbroken.rounds.tolist()


def test_solve_saves_every_so_often_and_the_last_save_resumes(tmp_path):
    case = random_case(5, kind="flow", steps=12, batch=2)
    sampler, path = paracore.sampler("picard", window=3, tolerance=0), tmp_path / "run.pt"
    unbroken = paracore.solve(sampler, case.problem, case.evaluator())
    with pytest.raises(ConfigurationError, match="checkpoint_every is 0"):
        paracore.solve(sampler, case.problem, case.evaluator(), checkpoint=path, checkpoint_every=0)

    class PowerCut(BaseException):
        """Nothing can be done any more."""

    class Dies:
        capabilities = frozenset()

        def __init__(self, cause):
            self.cause, self.left = cause, 4

        def evaluate(self, request):
            self.left -= 1
            if self.left < 0:
                raise self.cause
            return case.evaluator().evaluate(request)

    for cause, rounds in ((PowerCut(), 3), (RuntimeError("the network fails"), 4)):  # an evaluator's failure is saved
        with pytest.raises(type(cause)):
            paracore.solve(sampler, case.problem, Dies(cause), checkpoint=path, checkpoint_every=3)
        state = sampler.restore(case.problem, paracore.load_checkpoint(path))
        assert state.total_rounds == rounds
        same(paracore.solve(sampler, case.problem, case.evaluator(), state=state), unbroken)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


@pytest.fixture
def saved(tmp_path):
    case = random_case(12, kind="ddpm", steps=8, batch=2)
    sampler = paracore.compose(window=4, tolerance=1e-2)
    data = sampler.plain(drive(sampler, sampler.start(case.problem, trace=True), case.evaluator(), 2))
    save_checkpoint(data, tmp_path / "c.pt")
    return case, sampler, data, tmp_path / "c.pt"


def test_another_composition_is_refused(saved):
    case, _, data, _ = saved
    with pytest.raises(CheckpointError, match=r"was made by Composition\(.*this sampler is"):
        paracore.compose(window=5, tolerance=1e-2).restore(case.problem, data)


def test_another_problem_is_refused(saved):
    case, sampler, data, _ = saved
    problem = case.problem
    others = [
        attrs.evolve(problem, x0=problem.x0 + 1),
        attrs.evolve(problem, x0=problem.x0.float()),
        attrs.evolve(problem, x0=torch.cat([problem.x0, problem.x0]), generator=[*problem.generator] * 2),
        attrs.evolve(problem, scheme=paracore.schemes.ddpm(9)),
        attrs.evolve(problem, scheme=attrs.evolve(problem.scheme, time=problem.scheme.time + 1)),
        attrs.evolve(problem, lockstep=True),
        attrs.evolve(problem, generator=torch.Generator().manual_seed(0)),
        attrs.evolve(problem, generator=[torch.Generator().manual_seed(b) for b in range(2)]),
    ]
    for other in others:
        with pytest.raises(CheckpointError, match="another problem"):
            sampler.restore(other, data)
    sampler.restore(attrs.evolve(problem), data)


def test_damaged_data_is_refused_by_name(saved):
    case, sampler, data, _ = saved
    for key in data:
        if key in ("composition", "problem", "newest", "preview", "calls", "largest", "total_rounds", "trajectory"):
            continue
        missing = {k: v for k, v in data.items() if k != key}
        with pytest.raises(CheckpointError):
            sampler.restore(case.problem, missing)
    for key, value in {"final": 3, "tape": None, "trace": 1, "extra": 1}.items():
        with pytest.raises(CheckpointError, match="damaged"):
            sampler.restore(case.problem, {**data, key: value})
    with pytest.raises(CheckpointError, match="generators"):
        sampler.restore(case.problem, {**data, "tape": {**data["tape"], "generators": []}})
    with pytest.raises(CheckpointError):
        sampler.restore(case.problem, {})


def test_damaged_files_are_refused(saved, tmp_path):
    path = saved[3]
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for content in (b"", b"hello", whole[: len(whole) // 2], whole[100:], rng.bytes(1000)):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.pt is not a readable checkpoint"):
            paracore.load_checkpoint(tmp_path / "bad.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds list"):
        paracore.load_checkpoint(tmp_path / "list.pt")
    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(CheckpointError):
        paracore.load_checkpoint(tmp_path / "evil.pt")
    with pytest.raises(FileNotFoundError):
        paracore.load_checkpoint(tmp_path / "none.pt")


class Evil:
    """Must not be unpickled."""

    def __reduce__(self):
        return (print, ("executed",))


def test_a_full_disk_leaves_the_old_file(saved, tmp_path, monkeypatch):
    case, sampler, data, path = saved
    before = path.read_bytes()

    def full(obj, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(data, path)
    with pytest.raises(OSError, match="No space"):
        paracore.solve(sampler, case.problem, case.evaluator(), checkpoint=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_an_unwritable_place_is_an_os_error(saved, tmp_path):
    with pytest.raises(OSError):
        save_checkpoint(saved[2], tmp_path / "no" / "such" / "folder.pt")
    with pytest.raises(OSError):
        save_checkpoint(saved[2], tmp_path / "c.pt" / "below-a-file.pt")


class Colour(enum.IntEnum):
    RED = 3


PLAIN = {
    "numbers": [1, 2.5, True, None, "text", float("inf")],
    "tuple": (1, (2, [3])),
    "pairs": {1: "a", (2, 3): "b"},
    "tags": {"__array__": 1, "__tuple__": 2},
    "array": np.arange(6.0).reshape(2, 3)[:, ::2],
    "bools": np.array([[True], [False]]),
    "scalar": np.array(3),
    "empty": np.zeros((0, 4)),
    "tensor": torch.arange(4, dtype=torch.bfloat16),
}


def test_plain_data_goes_there_and_back(tmp_path):
    save_checkpoint(to_plain(PLAIN), tmp_path / "p.pt")
    back = from_plain(paracore.load_checkpoint(tmp_path / "p.pt"))
    assert list(back) == list(PLAIN)
    for key in ("numbers", "tuple", "pairs", "tags"):
        assert back[key] == PLAIN[key]
    for key in ("array", "bools", "scalar", "empty"):
        np.testing.assert_array_equal(back[key], PLAIN[key])
        assert back[key].dtype == PLAIN[key].dtype
    assert torch.equal(back["tensor"], PLAIN["tensor"])


def test_numpy_and_enum_numbers_become_plain_ones(tmp_path):
    """A np.float64 is a float, and an IntEnum an int; neither would load again as it is."""
    odd = {"a": np.float64(2.5), "b": Colour.RED, "c": np.bool_(True), "d": np.str_("x")}
    save_checkpoint(to_plain(odd), tmp_path / "n")
    back = from_plain(paracore.load_checkpoint(tmp_path / "n"))
    assert back == {"a": 2.5, "b": 3, "c": True, "d": "x"}
    assert [type(v) for v in back.values()] == [float, int, bool, str]


@attrs.frozen
class Record:
    x: int = 1


class Named(tuple):
    _fields = ("x",)


@pytest.mark.parametrize(
    "value",
    [Record(), object(), {1, 2}, b"bytes", torch.Generator(), np.array([object()]), np.array(["text"]), Named((1,))],
    ids=lambda v: type(v).__name__,
)
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(CheckpointError, match="not plain data"):
        to_plain({"state": [value]})


@attrs.frozen
class Hoarder(Initializer):
    """Keeps an object in its state."""

    def start(self, problem, rows):
        return object()

    def enter(self, window, rows, last, state):
        return list(window.state_rows)


def test_a_strategy_with_an_object_in_its_state_is_refused_when_saved():
    case = make_case(paracore.schemes.flow_euler(3))
    sampler = paracore.compose(initializer=Hoarder())
    assert paracore.solve(sampler, case.problem, case.evaluator()).ok
    with pytest.raises(CheckpointError, match="object is not plain data"):
        sampler.plain(sampler.start(case.problem))


def test_a_full_disk_in_the_middle_of_a_solve_loses_nothing(tmp_path, monkeypatch):
    case = make_case(exponential_scheme(8), batch=2)
    sampler = paracore.compose(window=3, tolerance=0)
    whole = paracore.solve(sampler, case.problem, case.evaluator())
    saves = []

    def full(data, path):
        saves.append(path)
        if len(saves) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["paracore.solve"], "save_checkpoint", full)
    with pytest.raises(paracore.errors.CheckpointWriteError, match=r"No space left on device.*untouched") as caught:
        paracore.solve(sampler, case.problem, case.evaluator(), checkpoint=tmp_path / "state.pt")
    assert caught.value.result.total_rounds == 3
    rest = paracore.solve(sampler, case.problem, case.evaluator(), state=caught.value.state)
    assert torch.equal(rest.sample, whole.sample)
