"""Checks of what a sampler does, whole or as the host of a part: everything that it asks is compared."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import torch

from paracore.engine import Engine
from paracore.errors import CheckpointError
from paracore.request import Denoiser
from paracore.sampler import Sampler
from paracore.schemes import flow_euler
from paracore.status import Status
from paracore.testing.drive import AfterNode, CheckFailure, ForSample, Run, drive
from paracore.testing.hosts import Trial, cases, trials
from paracore.testing.problems import Case, exponential_scheme, make_case
from paracore.testing.subject import Subject, subject_of
from paracore.testing.watch import evidence

__all__ = [
    "check_at_most_n_rounds",
    "check_batch_independent",
    "check_causal",
    "check_contains_nonfinite",
    "check_converges_on_linear",
    "check_deterministic",
    "check_dtype_kept",
    "check_runs_at_the_edges",
    "check_sequential_at_tolerance_zero",
    "check_state_bounded",
    "check_state_round_trips",
    "check_stateless",
]

STEPS = 7
SOME = ("flow", "multistep", "ddpm", "table-memory")
"""Kinds of schemes for checks that need several runs each."""


def all_trials(subject: Subject, **options: Any) -> list[Trial]:
    """Over every kind of scheme, at tolerance 0 and above.

    Raises:
        CheckFailure: if the subject runs on no kind of scheme at all.
    """
    found: list[Trial] = []
    for case in cases(steps=STEPS):
        hosts = 2 if case.label.split()[0] in SOME else 1
        found += [*trials(subject, case, hosts=hosts), *trials(subject, case, tolerance=1e-2, hosts=1)]
    if not found:
        why = "; ".join(sorted(subject.memo.get("refusals", ()))[:3])
        raise CheckFailure(f"it runs on no kind of scheme{': ' + why if why else ''}")
    return found


def some_trials(subject: Subject, tolerance: float | None = None) -> list[Trial]:
    """Over some kinds of schemes. Decisions of a stopping rule show where it has something to accept."""
    if tolerance is None:
        tolerance = 0.2 if subject.kind == "stopping" else 1e-2
    found: list[Trial] = []
    for number, case in enumerate(cases(kinds=SOME, steps=STEPS)):
        found += trials(subject, case, tolerance=tolerance, hosts=1 + number % 2)
    return found or all_trials(subject)[:2]


def run(trial: Trial, network: Denoiser | None = None, **options: Any) -> Run:
    """Drive a trial's fresh sampler; what it raises is named."""
    try:
        return drive(trial.make(), trial.case.problem, network or trial.case.network, max_batch=None, **options)
    except CheckFailure as error:
        raise CheckFailure(f"{trial.label}: {error}") from error
    except Exception as error:
        raise CheckFailure(f"{trial.label}: raised {type(error).__name__}: {error}") from error


def plain_run(subject: Subject, trial: Trial) -> Run:
    """The undisturbed run of a trial, made once."""
    key = f"run {trial.label}"
    if key not in subject.memo:
        subject.memo[key] = run(trial)
    found: Run = subject.memo[key]
    return found


def compare(left: Run, right: Run, what: str, label: str) -> None:
    """Both asked the same, bit for bit.

    Raises:
        CheckFailure.
    """
    for number, (a, b) in enumerate(zip(left.asked, right.asked, strict=False)):
        if (a.nodes, a.samples) != (b.nodes, b.samples):
            raise CheckFailure(f"{label}: {what}: round {number + 1} asks for other nodes")
        if not torch.equal(torch.nan_to_num(a.states), torch.nan_to_num(b.states)):
            raise CheckFailure(f"{label}: {what}: round {number + 1} asks at other states")
    if len(left.asked) != len(right.asked):
        raise CheckFailure(f"{label}: {what}: {len(left.asked)} rounds against {len(right.asked)}")
    if not torch.equal(torch.nan_to_num(left.result.sample), torch.nan_to_num(right.result.sample)):
        raise CheckFailure(f"{label}: {what}: other samples")


# -- the engine's facts, which a part cannot break and a sampler of its own can --------------------------------------


def check_sequential_at_tolerance_zero(thing: Any) -> None:
    """At tolerance 0 the answer is the sequential sampler's, bit for bit, on every kind of scheme."""
    subject = subject_of(thing)
    more = []
    if not subject.is_strategy:  # the engine sees to it for parts
        for case in cases(kinds=("flow", "ddim"), steps=24, dtype=torch.float32):
            more += [*trials(subject, case, window=24), *trials(subject, case)]
    for trial in all_trials(subject) + more:
        if trial.label.endswith("tolerance 0"):
            found = plain_run(subject, trial)
            if not torch.equal(found.result.sample, trial.case.reference()):
                worst = float((found.result.sample - trial.case.reference()).abs().max())
                raise CheckFailure(f"{trial.label}: the sample is off by {worst:.2g} from the sequential one")
            if not all(status is Status.EXACT for status in found.result.status):
                names = ", ".join(status.name for status in found.result.status)
                raise CheckFailure(f"{trial.label}: status {names}; EXACT is what tolerance 0 ends with")


def check_at_most_n_rounds(thing: Any) -> None:
    """Never more rounds than sequential sampling, and rounds and evaluations are reported as they were."""
    subject = subject_of(thing)
    for trial in all_trials(subject):
        found, steps = plain_run(subject, trial), trial.case.problem.scheme.steps
        result, label = found.result, trial.label
        rounds = [len(found.of(b)) for b in range(trial.case.problem.batch)]
        if max(rounds) > steps:
            raise CheckFailure(f"{label}: {max(rounds)} rounds for {steps} steps")
        if result.rounds.tolist() != rounds:
            raise CheckFailure(f"{label}: reports {result.rounds.tolist()} rounds for the samples; it made {rounds}")
        if not result.ok or result.sample.shape != trial.case.problem.x0.shape:
            raise CheckFailure(f"{label}: ended with {result!r}, not with a sample for each")
        if result.total_rounds != len(found.asked):
            raise CheckFailure(f"{label}: reports {result.total_rounds} rounds; it made {len(found.asked)} requests")
        rows = [sum(asked.samples.count(b) for asked in found.asked) for b in range(len(result.sample))]
        if result.evaluations.tolist() != rows:
            raise CheckFailure(f"{label}: reports {result.evaluations.tolist()} evaluations; it asked for {rows} rows")
        largest = max(len(asked.nodes) for asked in found.asked)
        if result.largest_request != largest:
            raise CheckFailure(f"{label}: reports a largest request of {result.largest_request}; it was {largest}")


# -- causality, batches ----------------------------------------------------------------------------------------------


def check_causal(thing: Any) -> None:
    """What a row does depends on itself and earlier rows: other outputs at later nodes change nothing before them."""
    subject = subject_of(thing)
    for broken, what in evidence(subject).broken if subject.is_strategy else ():
        if broken == "causal":
            raise CheckFailure(what)
    for trial in some_trials(subject):
        sampler = trial.make()
        if isinstance(sampler, Engine) and not all(p.causal for p in sampler.composition.parts.values()):
            continue
        if not isinstance(sampler, Engine) and not getattr(sampler, "causal", False):
            continue
        plain, steps = plain_run(subject, trial), trial.case.problem.scheme.steps
        for node, how in ((1, "other"), (steps // 2, "nan"), (steps // 2, "other")):
            other = run(trial, AfterNode(trial.case.network, node, how))
            _same_before(plain, other, node, f"{trial.label}, {how} outputs after node {node}")


def _same_before(left: Run, right: Run, node: int, label: str) -> None:
    """As long as the front has not passed ``node``: the same front, the same states up to the one after it."""
    for b in range(len(left.result.sample)):
        for number, (mine, others) in enumerate(zip(left.of(b), right.of(b), strict=False)):
            front = min(min(mine), node + 1), min(min(others), node + 1)
            if front[0] != front[1]:
                raise CheckFailure(f"{label}: round {number + 1} stands at node {front[0]} or {front[1]}")
            if front[0] > node:
                break
            for at in sorted(mine.keys() & others.keys()):
                if at <= node + 1 and not torch.allclose(mine[at], others[at], rtol=1e-9, atol=1e-12):
                    raise CheckFailure(f"{label}: round {number + 1} asks at another state of node {at}")


def check_batch_independent(thing: Any) -> None:
    """A sample's answer does not depend on its batch mates, whatever they are."""
    subject = subject_of(thing)
    for broken, what in evidence(subject).broken if subject.is_strategy else ():
        if broken == "batch":
            raise CheckFailure(what)
    steps, most = (11, 0.5) if subject.kind == "selection" else (STEPS, 0.1)  # windows span more rows
    for number, case in enumerate(cases(kinds=SOME, batch=3, steps=steps)):
        tolerance = (0.0, 1e-2, most, 1e-3)[number]
        for trial in trials(subject, case, tolerance=tolerance, hosts=1 + number % 2):
            _independent(subject, trial, tolerance)


def _independent(subject: Subject, trial: Trial, tolerance: float) -> None:
    """Sample 2 alone and beside others; and sample 1, made to finish sooner than the others, alone too."""
    together = run(trial)
    calm = run(trial, ForSample(trial.case.network, 1, 0, "calm"))
    for b in (1, 2):
        for single in trials(subject, trial.case.alone(b), tolerance=tolerance):
            if single.host != trial.host:
                continue
            if b == 2:
                _same_sample(together, b, run(single), 0, f"{trial.label}: sample {b} alone")
            else:
                alone = run(single, ForSample(single.case.network, 0, 0, "calm"))
                _same_sample(calm, b, alone, 0, f"{trial.label}: sample {b}, done sooner than the others, alone")
    broken = run(trial, ForSample(trial.case.network, 1, 2, "nan"))
    huge = run(trial, ForSample(trial.case.network, 1, 3, "huge"))
    for b in (0, 2):
        _same_sample(together, b, broken, b, f"{trial.label}: sample {b} beside one that is not finite")
        _same_sample(together, b, huge, b, f"{trial.label}: sample {b} beside one that overflows")
        _same_sample(together, b, calm, b, f"{trial.label}: sample {b} beside one that is done sooner")


def _same_sample(left: Run, a: int, right: Run, b: int, label: str) -> None:
    mine, others = left.of(a), right.of(b)
    for number, (one, two) in enumerate(zip(mine, others, strict=False)):
        if one.keys() != two.keys():
            raise CheckFailure(f"{label}: request {number + 1} asks for nodes {sorted(two)}, not {sorted(one)}")
        for node in one:
            if not torch.allclose(one[node], two[node], rtol=1e-9, atol=1e-12):
                raise CheckFailure(f"{label}: request {number + 1} asks at another state of node {node}")
    if len(mine) != len(others):
        raise CheckFailure(f"{label}: {len(others)} rounds, not {len(mine)}")
    if not torch.allclose(left.result.sample[a], right.result.sample[b], rtol=1e-9, atol=1e-12):
        raise CheckFailure(f"{label}: another sample")


def check_contains_nonfinite(thing: Any) -> None:
    """Outputs that are not finite raise nothing, and end their sample with a status: it is not asked for any more."""
    for trial in some_trials(subject_of(thing)):
        steps = trial.case.problem.scheme.steps
        found = run(trial, AfterNode(trial.case.network, steps // 2, "nan"))
        wrong = [status for status in found.result.status if status is not Status.NONFINITE_OUTPUT]
        if wrong and isinstance(trial.make(), Engine):  # others may end before they see it
            names = ", ".join(status.name for status in found.result.status)
            raise CheckFailure(f"{trial.label}: outputs from node {steps // 2 + 1} on are NaN, the status is {names}")
        if not bool(torch.isfinite(found.result.sample).all()):
            raise CheckFailure(f"{trial.label}: the newest accepted state is not finite")
        _none_after_the_end(trial)


def _none_after_the_end(trial: Trial) -> None:
    """A sample whose status is known is in no later request."""
    ended: list[list[bool]] = []

    def noted(sampler: Sampler, state: Any) -> tuple[Sampler, Any]:
        if getattr(state, "krylov", None) is None:
            statuses = sampler.result(state, unfinished=Status.RUNNING).status
            ended.append([status is not Status.RUNNING for status in statuses])
        else:
            ended.append(ended[-1] if ended else [False] * trial.case.problem.batch)
        return sampler, state

    found = run(trial, ForSample(trial.case.network, 1, 2, "nan"), between=noted)
    for number, asked in enumerate(found.asked[1:]):
        late = [b for b in set(asked.samples) if ended[number][b]]
        if late:
            raise CheckFailure(f"{trial.label}: request {number + 2} asks for sample {late[0]}, which has ended")


# -- repeatability, state ---------------------------------------------------------------------------------------------


def check_deterministic(thing: Any) -> None:
    """The same inputs give the same bits, whatever the global random generators say, and leave those alone."""
    subject = subject_of(thing)
    for trial in some_trials(subject):
        first = plain_run(subject, trial)
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]
        second = run(trial)
        after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]
        if not (before[:2] == after[:2] and torch.equal(before[2], after[2])):
            raise CheckFailure(
                f"{trial.label}: draws from a global random generator; keep one in the state, from a seed"
            )
        compare(first, second, "a second run", trial.label)


def check_stateless(thing: Any) -> None:
    """Nothing is kept outside the state: one instance serves several solves, one after the other and interleaved."""
    subject = subject_of(thing)
    for trial in some_trials(subject):
        fresh = plain_run(subject, trial)
        other = make_case(flow_euler(STEPS + 5), seed=99, batch=2, dim=3, arithmetic=True)
        shared = trial.make()

        def used(sampler: Sampler = shared, trial: Trial = trial, case: Case = trial.case) -> Run:
            try:
                return drive(sampler, case.problem, case.network, max_batch=None)
            except CheckFailure:
                raise
            except Exception as error:
                raise CheckFailure(f"{trial.label}: used again it raised {type(error).__name__}: {error}") from error

        if not subject.bound:
            try:
                drive(shared, other.problem, other.network)
            except Exception as error:
                raise CheckFailure(f"{trial.label}: used again it raised {type(error).__name__}: {error}") from error
        compare(fresh, used(), "the same instance, used before", trial.label)
        compare(fresh, _interleaved(shared, trial.case), "the same instance in two solves at once", trial.label)
    if subject.kind == "sampler":
        _no_memory_of_others(subject)


def _no_memory_of_others(subject: Subject) -> None:
    """Whether a longer problem was solved before with the very same settings, by another instance, does not matter."""
    (short,), (long,) = (list(cases(kinds=("flow",), steps=steps)) for steps in (STEPS, 3 * STEPS))
    settings = 0.0101, 0.0101 * (1 + 1e-12)  # the same, and yet told apart by whatever remembers
    for trial in trials(subject, long, tolerance=settings[0]):
        run(trial)
    first, second = ([run(t) for t in trials(subject, short, tolerance=tolerance)] for tolerance in settings)
    for one, other in zip(first, second, strict=True):
        compare(one, other, "after a longer problem, solved by another instance", subject.label)


def _interleaved(sampler: Sampler, case: Case) -> Run:
    """A run, in between whose rounds the same sampler advances a second one."""
    evaluator = case.evaluator(max_batch=None, jvp="jvp" in sampler.needs)
    second = sampler.start(case.problem)

    def between(own: Sampler, state: Any) -> tuple[Sampler, Any]:
        nonlocal second
        request = sampler.request(second)
        if request is not None:
            second = sampler.advance(second, evaluator.evaluate(request))
            request = sampler.request(second)
            if request is not None:
                second = sampler.advance(second, evaluator.evaluate(request))
        return own, state

    return drive(sampler, case.problem, case.network, between=between, max_batch=None)


def check_state_round_trips(thing: Any) -> None:
    """The state is plain data: saved and restored between any two rounds, it gives the same bits."""
    subject = subject_of(thing)
    for trial in some_trials(subject):
        plain = plain_run(subject, trial)

        def restored(sampler: Sampler, state: Any, trial: Trial = trial) -> tuple[Sampler, Any]:
            if getattr(state, "krylov", None) is not None:  # a checkpoint waits for the end of its round
                return sampler, state
            try:
                data = sampler.plain(state)
                file = io.BytesIO()
                torch.save(data, file)
                file.seek(0)
                again = trial.make()
                return again, again.restore(trial.case.problem, torch.load(file, weights_only=True))
            except CheckpointError as error:
                raise CheckFailure(f"{trial.label}: {error}") from error
            except Exception as error:
                raise CheckFailure(f"{trial.label}: a saved state cannot be loaded again: {error}") from error

        compare(plain, run(trial, between=restored), "saved and restored between all rounds", trial.label)
        if subject.is_strategy or not trial.case.problem.scheme.stochastic:  # a sampler may free noise as it advances
            compare(plain, run(trial, twice=True), "advanced twice from the same state", trial.label)


def check_state_bounded(thing: Any) -> None:
    """The state holds a few windows, not the whole trajectory: it does not grow with the rounds."""
    subject = subject_of(thing)
    scheme = exponential_scheme(60)
    case = make_case(scheme, seed=5, batch=1, dim=4, stiffness=3.0, arithmetic=True)
    for trial in trials(subject, case, window=3, tolerance=1e-9):
        sizes: list[int] = []

        def measured(sampler: Sampler, state: Any, sizes: list[int] = sizes) -> tuple[Sampler, Any]:
            if getattr(state, "krylov", None) is None:
                sizes.append(_numbers(sampler.plain(state)))
            return sampler, state

        run(trial, between=measured)
        early, late = max(sizes[: len(sizes) // 3], default=0), max(sizes[len(sizes) // 2 :], default=0)
        if late > 1.3 * early + 64:
            raise CheckFailure(f"{trial.label}: the state grew from {early} numbers to {late}")


def _numbers(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(_numbers(v) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(_numbers(v) for v in value)
    return 1


# -- precision, edges, usefulness -------------------------------------------------------------------------------------


def check_dtype_kept(thing: Any) -> None:
    """States keep their dtype, in float32, float64 and half precision, and float64 is not rounded in between."""
    subject = subject_of(thing)
    for number, dtype in enumerate((torch.float32, torch.float64, torch.bfloat16, torch.float16)):
        for case in cases(kinds=("flow", "ddpm"), dtype=dtype, steps=6):
            for trial in trials(subject, case, tolerance=1e-2, hosts=1 + number % 2):
                found = run(trial)
                if found.result.sample.dtype != dtype:
                    raise CheckFailure(f"{trial.label}: the sample is {found.result.sample.dtype}, not {dtype}")
                if dtype == torch.float64:
                    _not_rounded([asked.states for asked in found.asked[1:]], trial.label)


def _not_rounded(requests: list[torch.Tensor], label: str) -> None:
    """Float64 numbers that all fit in float32 were rounded on the way; a few may, after a large cancellation."""
    rows, rounded = 0, 0
    for states in requests:
        for row in states.flatten(1):
            moved = row[torch.isfinite(row) & (row.abs() > 1e-6 * states.abs().max())]  # differences keep few bits
            rows += bool(len(moved))
            rounded += bool(len(moved)) and torch.equal(moved.float().double(), moved)
    if rounded > 0.2 * rows:
        raise CheckFailure(f"{label}: {rounded} of {rows} float64 states were rounded to float32 on the way")


def check_runs_at_the_edges(thing: Any) -> None:
    """Windows of one row, windows longer than the scheme, and schemes of one or two steps work."""
    subject = subject_of(thing)
    for steps, window in ((1, 1), (1, 4), (2, 4), (4, 1), (5, 20)):
        for number, case in enumerate(cases(kinds=("flow", "multistep", "table-noise"), steps=steps)):
            for trial in trials(subject, case, window=window, tolerance=1e-2, hosts=1 + number % 2):
                if not run(trial).result.ok:
                    raise CheckFailure(f"{trial.label}: no sample for each")
    (case,) = cases(kinds=("flow",), steps=4)
    if any(trials(subject, case, window=4, hosts=1)) and not any(trials(subject, case, window=1, hosts=1)):
        why = "; ".join(sorted(subject.memo.get("refusals", ()))[:2])
        raise CheckFailure(f"{subject.label}: a window of 1, which is sequential sampling, is refused: {why}")


def check_converges_on_linear(thing: Any) -> None:
    """On an easy linear system it keeps a small tolerance in fewer rounds than steps, at little more than Picard's."""
    subject = subject_of(thing)
    steps = 24
    found_any = [t for case in easy_cases(steps) for t in trials(subject, case, window=12, tolerance=1e-4, hosts=1)]
    for trial in found_any:
        found = run(trial)
        exact = trial.case.reference()
        error = float((found.result.sample - exact).norm() / exact.norm())
        subject.memo.setdefault("linear", []).append((trial.label, len(found.asked), error))
        if subject.is_strategy and len(found.asked) > MOST_ROUNDS * steps:
            raise CheckFailure(f"{trial.label}: {len(found.asked)} rounds for {steps} steps of an easy linear system")
        if not error <= MOST_ERROR:
            raise CheckFailure(f"{trial.label}: the sample is off by {error:.2g} (relative)")


MOST_ROUNDS, MOST_ERROR = 0.9, 2e-2


def easy_case(steps: int, batch: int = 2) -> Case:
    """``dx/dt = -x / 2`` and a small coupling, from 0 to 1."""
    return make_case(exponential_scheme(steps), seed=1, batch=batch, dim=3, stiffness=0.5, linear=True)


def easy_cases(steps: int) -> list[Case]:
    """The easy system without noise levels, and on a scheme that has them."""
    return [easy_case(steps), make_case(flow_euler(steps), seed=1, batch=2, dim=3, stiffness=0.5, linear=True)]
