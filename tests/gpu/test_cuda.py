"""On an accelerator: ``pytest -m gpu tests/gpu``. ``PARACORE_TEST_DEVICE=cpu`` runs the same tests without one.

Networks on an accelerator round differently from those on a processor (the convolutions of digits may run in TF32), so
answers are held against the processor's within the error target, and bit for bit against the same device's only.
"""

from __future__ import annotations

import functools
import os
import warnings

import attrs
import numpy as np
import pytest
import torch

import paracore
from paracore.checkpoint import save_checkpoint
from paracore.engine import Engine
from paracore.harness import compare, relative_error
from paracore.status import Status
from paracore.testing.adversarial import random_composition
from paracore.testing.mixtures import registered_mixture
from paracore.testing.problems import KINDS as SCHEMES
from paracore.testing.problems import Case, random_case

DEVICE = torch.device(os.environ.get("PARACORE_TEST_DEVICE", "cuda"))
MISSING = "torch.cuda finds no device; PARACORE_TEST_DEVICE=cpu runs these tests without one"
TARGET = 0.01
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
RULE = {"stopping": "error-target", "tolerance": TARGET}

PRESETS = {
    "picard": {"window": 8},
    "ropa": {"window": 8},
    "front": {"window": 8},
    "anderson": {"window": 8},
    "taa": {"window": 8, **RULE},
    "parasolver": {"window": 8, **RULE},
    "secant": {"window": 8},
    "srds": {"window": 8, "tolerance": TARGET, "norm": "relative"},
    "chords": {"cores": 8, "stop": "residual", "tolerance": TARGET, "norm": "relative"},
    "paradigms": {"window": 8, **RULE},
}
"""All under an error target of 1 %; those that are no compositions, under a change of the sample of 1 %."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason=MISSING),
]


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    """One thread; and torch's lazy import before the first forward-mode derivative may warn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(lambda x: x, (torch.ones(1),), (torch.ones(1),))
    yield
    torch.set_num_threads(threads)


def there(case: Case, dtype: torch.dtype | None = None) -> Case:
    """The case on the device; its generators stay where they are."""
    x0 = case.problem.x0.to(DEVICE, dtype or case.problem.x0.dtype)
    return attrs.evolve(case, problem=attrs.evolve(case.problem, x0=x0))


def on_device(*tensors: torch.Tensor | None) -> bool:
    return all(t is None or t.device.type == DEVICE.type for t in tensors)


# -- digits -------------------------------------------------------------------------------------------------------


def digits(device: torch.device | str, steps: int, max_batch: int | None = None):
    """Two samples at guidance 4: the problem and its evaluator."""
    model = paracore.registry.make("model", "digits")
    scheme = paracore.schemes.flow_euler(steps)
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(3100))
    problem = paracore.Problem(scheme, noise.to(device))
    denoiser = model.denoiser(scheme, torch.tensor([3, 7]), 4.0)
    return problem, paracore.evaluators.batched(denoiser, max_batch=max_batch)


@functools.cache
def drawn(device: str, name: str | None) -> paracore.Result | torch.Tensor:
    """50 steps by a preset, or by the sequential sampler (``None``)."""
    problem, evaluator = digits(device, 50)
    if name is None:
        return paracore.sequential(problem, evaluator)
    return paracore.solve(paracore.sampler(name, **PRESETS[name]), problem, evaluator, trajectory=True)


def test_the_sequential_sampler_draws_the_same_digits():
    here, other = drawn(str(DEVICE), None), drawn("cpu", None)
    assert on_device(here)
    assert max(relative_error(here.cpu(), other)) < 0.5 * TARGET


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_draws_digits(name):
    """Rounds within 2 of the processor's; the sample within three targets of it and of the sequential sample."""
    result, other = drawn(str(DEVICE), name), drawn("cpu", name)
    assert result.ok
    assert (result.rounds <= 50).all()
    assert on_device(result.sample, result.trajectory)
    assert torch.isfinite(result.trajectory).all()
    assert (np.abs(result.rounds - other.rounds) <= 2).all()
    assert max(relative_error(result.sample, drawn(str(DEVICE), None))) < 3 * TARGET
    assert max(relative_error(result.sample.cpu(), other.sample)) < 3 * TARGET


@pytest.mark.parametrize("name", PRESETS)
def test_tolerance_zero_draws_the_sequential_bits(name):
    problem, evaluator = digits(DEVICE, 12, max_batch=1)
    sampler = paracore.sampler(name, **{**PRESETS[name], "tolerance": 0.0})
    result = paracore.solve(sampler, problem, evaluator, trajectory=True)
    assert torch.equal(result.trajectory, paracore.sequential(problem, evaluator, trajectory=True))
    assert set(result.status) == {Status.EXACT}
    assert (result.rounds <= 12).all()


def test_the_harness_compares_on_the_device():
    problem, evaluator = digits(DEVICE, 12)
    found = compare({"ropa": paracore.sampler(window=4)}, problem, evaluator, one_at_a_time=True, repeats=2)
    assert found.ok
    sequential, row = found.rows
    assert len(sequential.wall_time) == len(row.wall_time) == 2
    assert row.dependent_rounds < 12
    assert max(row.errors) < 3 * TARGET


# -- every scheme, model, preset and part -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCHEMES)
def test_every_scheme_gives_the_processors_answer(kind):
    case = random_case(1, kind=kind, steps=8, batch=3)
    found = there(case).reference(trajectory=True)
    assert on_device(found)
    torch.testing.assert_close(found.cpu(), case.reference(trajectory=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gaussian", "mixture", "ideal", "two-mode", "linear"])
def test_every_analytic_model_gives_the_processors_answer(name, dtype):
    model, scheme = paracore.registry.make("model", name), paracore.schemes.flow_euler(8)
    labels = torch.arange(4) % model.classes if model.classes else None
    denoiser = model.denoiser(scheme, labels, 3.0 if model.classes else 1.0)
    noise = torch.randn(4, *model.shape, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    evaluator = paracore.evaluators.batched(denoiser)
    reference = paracore.sequential(paracore.Problem(scheme, noise), evaluator)
    problem = paracore.Problem(scheme, noise.to(DEVICE))
    result = paracore.solve(paracore.sampler(window=4, tolerance=0.0), problem, evaluator)
    assert on_device(result.sample)
    limit = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.1}[dtype]
    assert max(relative_error(result.sample.cpu(), reference)) < limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [e.name for e in paracore.registry.entries("sampler")])
def test_every_registered_preset(name, dtype):
    case = there(random_case(3, kind="flow", steps=8, batch=2), DTYPES[dtype])
    for tolerance in (0.0, TARGET):
        sampler = paracore.sampler(name, tolerance=tolerance)
        options = {"trajectory": True, "trace": True}
        result = paracore.solve(sampler, case.problem, case.evaluator(jvp=True), **options)
        assert on_device(result.sample, result.trajectory)
        assert result.sample.dtype == DTYPES[dtype]
        assert (result.rounds <= 8).all()
        assert torch.isfinite(result.trajectory).all()
        if tolerance == 0:
            assert torch.equal(result.trajectory, case.reference(trajectory=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["flow", "ddim", "ddim-noise", "multistep"])
def test_parts_mixed_at_random(kind, dtype):
    made, first = 0, 12 * list(DTYPES).index(dtype)
    for seed in range(first, first + 12):
        case = there(random_case(seed, kind=kind, steps=6, batch=2, lockstep=seed % 5 == 0), DTYPES[dtype])
        tolerance = (0.0, 1e-2)[seed % 2]
        sampler = registered_mixture(seed, case.problem, tolerance)
        if sampler is None:
            continue
        made += 1
        result = paracore.solve(sampler, case.problem, case.evaluator(jvp=True), raise_on_failure=False)
        assert on_device(result.sample)
        assert (result.rounds <= 6).all()
        for sample, status in zip(result.sample, result.status, strict=True):
            assert status.failed or torch.isfinite(sample).all()
        if tolerance == 0:
            assert torch.equal(result.sample, case.reference()), repr(sampler)
    assert made > 4


@pytest.mark.parametrize("block", range(4))
def test_parts_of_nonsense(block):
    """Strategies that return numbers of every kind, on the device."""
    for seed in range(block, 40, 4):
        case = there(random_case(seed, dtype=list(DTYPES.values())[seed % 3], lockstep=seed % 7 == 0))
        composition = random_composition(seed, case.problem, tolerance=(0.0, None)[seed % 2], krylov=True)
        result = paracore.solve(Engine(composition), case.problem, case.evaluator(jvp=True), raise_on_failure=False)
        assert on_device(result.sample)
        assert (result.rounds <= result.steps).all()
        if seed % 2 == 0:
            assert torch.equal(result.sample, case.reference()), repr(composition)


def test_a_warm_start_takes_a_trajectory_of_either_place():
    case = there(random_case(2, kind="flow", steps=10, batch=2))
    known = case.reference(trajectory=True)
    for given in (known, known.cpu()):
        warm = paracore.parts.WarmStart(given)
        result = paracore.solve(paracore.sampler(window=10, initializer=warm), case.problem, case.evaluator())
        assert on_device(result.sample)
        assert result.total_rounds <= 2


# -- noise, checkpoints -------------------------------------------------------------------------------------------


def noisy(place: torch.device | str, single: bool) -> Case:
    """DDPM with generators in a place: one for the batch, or one per sample."""
    case = there(random_case(2, kind="ddpm", steps=12, batch=3), torch.float32)
    generators = [torch.Generator(place).manual_seed(90 + b) for b in range(3)]
    problem = attrs.evolve(case.problem, generator=generators[0] if single else generators)
    return attrs.evolve(case, problem=problem)


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("place", ["cpu", "device"])
def test_noise_is_drawn_where_the_generator_lives(place, single):
    case = noisy("cpu" if place == "cpu" else DEVICE, single)
    for _ in range(2):  # generators are copied, never advanced
        result = paracore.solve(paracore.sampler(window=4, tolerance=0.0), case.problem, case.evaluator())
        assert on_device(result.sample)
        assert torch.equal(result.sample, case.reference())
    if place == "cpu":
        away = attrs.evolve(case, problem=attrs.evolve(case.problem, x0=case.problem.x0.cpu()))
        torch.testing.assert_close(result.sample.cpu(), away.reference(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["picard", "ropa", "front", "anderson", "parasolver", "quasi-elk", "srds", "chords"])
@pytest.mark.parametrize("place", ["cpu", "device"])
def test_a_checkpoint_resumes_to_the_unbroken_bits(tmp_path, name, place):
    """Saved after every round, loaded as it is or mapped to the device."""
    case = noisy("cpu" if place == "cpu" else DEVICE, single=False)
    options = {"cores": 4} if name == "chords" else {"window": 4}
    sampler, evaluator, path = paracore.sampler(name, **options), case.evaluator(jvp=True), tmp_path / "state.pt"
    unbroken = paracore.solve(sampler, case.problem, evaluator, trajectory=True)
    state = sampler.start(case.problem, trajectory=True)
    while (request := sampler.request(state)) is not None:
        state = sampler.advance(state, evaluator.evaluate(request))
        if getattr(state, "krylov", None) is not None:
            continue
        save_checkpoint(sampler.plain(state), path)
        for mapped in (None, DEVICE):
            state = sampler.restore(case.problem, paracore.load_checkpoint(path, map_location=mapped))
    result = sampler.result(state)
    assert on_device(result.sample)
    assert torch.equal(result.trajectory, unbroken.trajectory)
    np.testing.assert_array_equal(result.rounds, unbroken.rounds)


def test_a_checkpoint_crosses_from_place_to_place(tmp_path):
    """With generators on the processor the rest may be made elsewhere: another device's rounding, the same sample."""
    case, sampler = noisy("cpu", single=False), paracore.sampler(window=4)
    away = attrs.evolve(case, problem=attrs.evolve(case.problem, x0=case.problem.x0.cpu()))
    for begun, ended, device in ((case, away, torch.device("cpu")), (away, case, DEVICE)):
        state = sampler.start(begun.problem)
        for _ in range(3):
            state = sampler.advance(state, begun.evaluator().evaluate(sampler.request(state)))
        save_checkpoint(sampler.plain(state), tmp_path / "half.pt")
        half = sampler.restore(ended.problem, paracore.load_checkpoint(tmp_path / "half.pt", map_location=device))
        result = paracore.solve(sampler, ended.problem, ended.evaluator(), state=half)
        assert result.sample.device.type == device.type
        assert max(relative_error(result.sample, ended.reference())) < 3 * TARGET


# -- observers, lockstep, non-finite numbers, memory --------------------------------------------------------------


class Watching(paracore.Observer):
    wants_preview = True

    def __init__(self) -> None:
        self.events: list[paracore.RoundEvent] = []

    def round_finished(self, event: paracore.RoundEvent) -> None:
        self.events.append(event)


@pytest.mark.parametrize("name", ["ropa", "chords"])
def test_previews_are_data_predictions_on_the_device(name):
    case, watching = there(random_case(6, kind="flow", steps=12, batch=2)), Watching()
    sampler = paracore.sampler(name, **({"cores": 4} if name == "chords" else {"window": 4}))
    result = paracore.solve(sampler, case.problem, case.evaluator(), observers=[watching])
    plain = paracore.solve(sampler, case.problem, case.evaluator())
    assert torch.equal(result.sample, plain.sample)
    assert [e.round for e in watching.events] == list(range(1, result.total_rounds + 1))
    shown = [e.preview for e in watching.events if e.preview is not None]
    assert shown
    assert on_device(*shown)
    assert all(p.shape == result.sample.shape and torch.isfinite(p).all() for p in shown)


@pytest.mark.parametrize("name", ["picard", "ropa", "anderson"])
def test_lockstep(name):
    case, watching = there(random_case(4, kind="flow", steps=12, batch=3, lockstep=True)), Watching()
    result = paracore.solve(paracore.sampler(name, window=4), case.problem, case.evaluator(), observers=[watching])
    assert all(len(set(e.front.tolist())) == 1 for e in watching.events)
    assert max(relative_error(result.sample, case.reference())) < 3 * TARGET
    exact = paracore.solve(paracore.sampler(name, window=4, tolerance=0.0), case.problem, case.evaluator())
    assert torch.equal(exact.sample, case.reference())


@attrs.frozen(eq=False)
class Poisoned:
    """A network that answers one element with a bad number: for one sample from one node on, or at large states."""

    inner: paracore.Denoiser
    value: float
    node: int = 0
    sample: int | None = None
    above: float = 0.0

    def __call__(self, x, t, rows):
        out = self.inner(x, t, rows).clone()
        hit = (rows.node >= self.node) & (x.abs().flatten(1).amax(dim=1) > self.above)
        if self.sample is not None:
            hit &= rows.sample == self.sample
        out.view(len(x), -1)[hit, 0] = self.value
        return out


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["picard", "ropa", "anderson", "parasolver", "chords"])
def test_a_bad_output_ends_its_own_sample_only(name, value):
    case = there(random_case(4, kind="flow", steps=12, batch=3))
    bad = attrs.evolve(case, network=Poisoned(case.network, value, node=7, sample=1))
    options = {"cores": 4} if name == "chords" else {"window": 5}
    sampler = paracore.sampler(name, **options, tolerance=0.0)
    result = paracore.solve(sampler, bad.problem, bad.evaluator(), raise_on_failure=False)
    assert result.status[1] is Status.NONFINITE_OUTPUT
    assert result.front[1] == 7
    assert torch.isfinite(result.sample).all()
    for b in (0, 2):
        assert torch.equal(result.sample[b], case.reference()[b])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("tolerance", [0.0, TARGET])
def test_a_bad_output_at_a_wild_guess_is_contained(value, tolerance):
    """Entering rows are noise far from the trajectory, where the network overflows; the sequential one never does."""
    case = there(random_case(8, kind="flow", steps=14, batch=2))
    limit = float(case.reference(trajectory=True).abs().max()) * 1.01
    seen: list[float] = []

    def network(x, t, rows):
        seen.append(float(x.abs().max()))
        return Poisoned(case.network, value, above=limit)(x, t, rows)

    bad = attrs.evolve(case, network=network)
    noise = f"noise(seed={_wild(case, limit)})"
    sampler = paracore.sampler("picard", window=5, tolerance=tolerance, initializer=noise)
    result = paracore.solve(sampler, bad.problem, bad.evaluator())
    assert max(seen) > limit
    assert torch.isfinite(result.sample).all()
    assert (result.rounds <= 14).all()
    error = max(relative_error(result.sample, case.reference()))
    assert error == 0 if tolerance == 0 else error < 0.3


def _wild(case: Case, limit: float) -> int:
    """A seed whose first window of guesses leaves the bounds of the trajectory."""
    for seed in range(200):
        sampler = paracore.sampler("picard", window=5, initializer=f"noise(seed={seed})")
        if float(sampler.request(sampler.start(case.problem)).states.abs().max()) > limit:
            return seed
    raise AssertionError("no seed of 200")


@pytest.mark.skipif(DEVICE.type != "cuda", reason="counts the memory of torch's CUDA allocator")
@pytest.mark.parametrize(("name", "windows"), [("picard", 6), ("ropa", 16)])
def test_peak_memory_beside_the_model(name, windows):
    """2 million float32 values, window 8: input and output of the network included, its inside not."""
    elements, window = 2_000_000, 8
    x0 = torch.randn(1, elements, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    problem = paracore.Problem(paracore.schemes.flow_euler(50), x0)
    evaluator = paracore.evaluators.batched(lambda x, t, rows: x * -0.9)
    torch.cuda.synchronize(DEVICE)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    result = paracore.solve(paracore.sampler(name, window=window, tolerance=TARGET), problem, evaluator)
    peak = (torch.cuda.max_memory_allocated(DEVICE) - before) / (window * elements * 4)
    assert result.ok
    assert peak <= windows, f"{peak:.2f} windows"
