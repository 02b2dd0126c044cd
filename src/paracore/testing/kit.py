"""The conformance kit: which checks a thing must pass, and what they found."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from paracore.composition import KINDS
from paracore.errors import ConfigurationError, suggest
from paracore.testing import checks_evaluators as evaluators
from paracore.testing import checks_facts as facts
from paracore.testing import checks_independence as independence
from paracore.testing import checks_models as models
from paracore.testing import checks_state as state
from paracore.testing import checks_static as static
from paracore.testing import checks_stopping as stopping
from paracore.testing import checks_strategies as strategies
from paracore.testing import checks_updates as updates
from paracore.testing import checks_use as use
from paracore.testing import checks_windows as windows
from paracore.testing.drive import CheckFailure
from paracore.testing.subject import Subject, subject_of

__all__ = [
    "Check",
    "Outcome",
    "Report",
    "checks_for",
    "contract_of",
    "outcome_of",
    "outcomes",
    "parametrize_with_checks",
    "run_checks",
]

Check = Callable[[Any], None]
"""``check(thing)``: returns, or raises :class:`~paracore.testing.CheckFailure`."""

_DRIVEN: tuple[Check, ...] = (
    facts.check_sequential_at_tolerance_zero,
    facts.check_at_most_n_rounds,
    independence.check_causal,
    independence.check_batch_independent,
    facts.check_contains_nonfinite,
    state.check_deterministic,
    state.check_stateless,
    state.check_state_round_trips,
    state.check_state_bounded,
    use.check_dtype_kept,
    use.check_runs_at_the_edges,
    use.check_converges_on_linear,
)
_STRATEGY: tuple[Check, ...] = (
    static.check_documented,
    static.check_immutable_record,
    strategies.check_runs_on_every_scheme,
    strategies.check_never_mutates,
    strategies.check_repeatable_calls,
    strategies.check_returns_what_it_must,
)
_BY_KIND: dict[str, tuple[Check, ...]] = {
    "residual": (
        updates.check_residual_is_zero_at_the_solution,
        strategies.check_stays_at_the_solution,
        stopping.check_size_independent,
    ),
    "jacobian": (
        strategies.check_stays_at_the_solution,
        updates.check_null_does_nothing,
        updates.check_damping_enters,
        updates.check_local_is_linear,
        updates.check_response_within_the_truth,
    ),
    "preconditioner": (
        updates.check_null_does_nothing,
        updates.check_zero_residual_gives_zero_update,
        stopping.check_size_independent,
        strategies.check_stays_at_the_solution,
    ),
    "damping": (
        updates.check_null_does_nothing,
        updates.check_factors_are_not_negative,
        strategies.check_stays_at_the_solution,
        stopping.check_size_independent,
    ),
    "stopping": (
        stopping.check_accepts_what_is_exact,
        stopping.check_refuses_what_is_far,
        stopping.check_tolerance_is_kept,
        stopping.check_tolerance_is_monotone,
        stopping.check_size_independent,
        stopping.check_unit_of_the_state,
    ),
    "initializer": (windows.check_guesses_are_near, windows.check_guesses_follow_a_trend),
    "selection": (windows.check_selects_within_the_width, windows.check_fill_keeps_constants),
    "sampler": (static.check_documented,),
    "model": (
        static.check_documented,
        models.check_model_outputs,
        models.check_model_rows_are_independent,
        models.check_model_labels_follow_their_samples,
        models.check_model_answers_its_scheme,
        models.check_model_refuses_what_it_lacks,
        models.check_model_images,
        models.check_model_counts_calls,
    ),
    "evaluator": (
        static.check_documented,
        evaluators.check_evaluator_keeps_rows,
        evaluators.check_evaluator_counts_calls,
        evaluators.check_evaluator_products,
        evaluators.check_evaluator_raises_what_the_network_raises,
        evaluators.check_evaluator_hands_on_nonfinite,
        evaluators.check_evaluator_drives_a_solve,
    ),
}


@attrs.frozen
class Outcome:
    """What one check found.

    Attributes:
        subject: what was checked, in words.
        check: the check's name.
        contract: what it stands for, a sentence.
        status: ``"passed"``, ``"failed"``, ``"expected"`` (it failed, and was expected to) or ``"unexpected"`` (it was
            expected to fail, and passed).
        message: what broke the contract, or the reason of an expected failure.
        seconds: how long it took.
    """

    subject: str
    check: str
    contract: str
    status: str
    message: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return self.status in ("passed", "expected")


@attrs.frozen
class Report:
    """What all checks found of one thing.

    Attributes:
        subject: what was checked, in words.
        outcomes: one for each check.
    """

    subject: str
    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether everything is as it should be."""
        return all(outcome.ok for outcome in self.outcomes)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """What is not as it should be."""
        return tuple(outcome for outcome in self.outcomes if not outcome.ok)

    def __str__(self) -> str:
        lines = [f"{self.subject}: {len(self.outcomes) - len(self.failures)} of {len(self.outcomes)} checks hold"]
        lines += [f"  {o.check}: {o.contract}\n    {o.message}" for o in self.failures]
        return "\n".join(lines)


def checks_for(thing: Any, kind: str | None = None) -> tuple[Check, ...]:
    """The checks that a thing must pass, by its kind and what it says of itself.

    Args:
        thing: see :func:`~paracore.testing.subject_of`.
        kind: where it cannot be seen from the thing.
    """
    subject = subject_of(thing, kind)
    own = _BY_KIND[subject.kind]
    if subject.is_strategy:
        return (*_STRATEGY, *own, *_DRIVEN)
    return (*own, *_DRIVEN) if subject.kind == "sampler" else own


def contract_of(check: Check) -> str:
    """What a check stands for: the first sentence of its docstring."""
    return " ".join((inspect.getdoc(check) or "").split("\n\n")[0].split())


def all_checks() -> dict[str, Check]:
    """Every check by its name."""
    found = (*_STRATEGY, *_DRIVEN, *(check for own in _BY_KIND.values() for check in own))
    return {check.__name__: check for check in found}


def run_checks(thing: Any, kind: str | None = None, *, expected_failures: Mapping[str, str] | None = None) -> Report:
    """Run all checks on a thing.

    Args:
        thing: a registered name (``"damping:gain-ratio"``, ``"picard"``), class, instance or factory; see
            :func:`~paracore.testing.subject_of`.
        kind: where it cannot be seen from the thing.
        expected_failures: ``{check: reason}``, beside those that its plugin declares. Strict: one that passes is an
            error.

    Returns:
        A report; nothing is raised for a check that fails.
    """
    subject = subject_of(thing, kind)
    return Report(subject.label, tuple(outcomes(subject, expected_failures)))


def outcomes(subject: Subject, expected_failures: Mapping[str, str] | None = None) -> Iterator[Outcome]:
    """What the checks of a subject find, one after the other as they are run; see :func:`run_checks`."""
    expected = _expected(subject, expected_failures)
    for check in checks_for(subject):
        yield outcome_of(check, subject, expected)


def outcome_of(check: Check, subject: Subject, expected: Mapping[str, str]) -> Outcome:
    """Run one check; whatever it raises is a failure."""
    began, name, message = time.perf_counter(), check.__name__, ""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script")  # torch's own, in its forward derivatives
            check(subject)
    except CheckFailure as failure:
        message = str(failure)
    except Exception as error:
        message = f"raised {type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    if name in expected:
        status = "expected" if message else "unexpected"
        message = expected[name] if message else f"it was expected to fail ({expected[name]}), and passed"
    else:
        status = "failed" if message else "passed"
    return Outcome(subject.label, name, contract_of(check), status, message, seconds)


def _expected(subject: Subject, more: Mapping[str, str] | None) -> dict[str, str]:
    merged = {**subject.expected_failures, **(more or {})}
    names = [check.__name__ for check in checks_for(subject)]
    for name in merged:
        if name not in all_checks():
            raise ConfigurationError(f"expected failure {name!r} is no check; {suggest(name, all_checks())}")
    return {name: reason for name, reason in merged.items() if name in names}


def cases_of(
    things: Iterable[Any], expected_failures: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """``(label, test)`` of every check of every thing; a test raises what is not as it should be."""
    for thing in things:
        subject = subject_of(thing)
        expected = _expected(subject, expected_failures)
        for check in checks_for(subject):

            def test(check: Check = check, subject: Subject = subject, expected: dict[str, str] = expected) -> None:
                outcome = outcome_of(check, subject, expected)
                if not outcome.ok:
                    raise CheckFailure(
                        f"{outcome.subject} breaks {outcome.check}: {outcome.contract}\n{outcome.message}"
                    )

            yield f"{subject.label}-{check.__name__}", test


def parametrize_with_checks(things: Iterable[Any], expected_failures: Mapping[str, str] | None = None) -> Any:
    """A pytest mark: one test for every check of every thing.

        @parametrize_with_checks([MyDamping(), "my-sampler"], expected_failures={"check_causal": "one fit"})
        def test_contract(check):
            check()

    Args:
        things: see :func:`~paracore.testing.subject_of`.
        expected_failures: ``{check: reason}`` for all of them. Strict: one that passes fails the test.
    """
    import pytest

    tests = [pytest.param(test, id=label) for label, test in cases_of(things, expected_failures)]
    return pytest.mark.parametrize("check", tests)


assert set(_BY_KIND) >= set(KINDS)
