"""The kit itself: what can be checked, how it reports, and that it is strict."""

from __future__ import annotations

import inspect

import attrs
import numpy as np
import pytest

import paracore
from paracore import testing
from paracore.errors import ConfigurationError, UnknownNameError
from paracore.parts import AbsoluteChange, Copy
from paracore.testing import checks_for, parametrize_with_checks, run_checks, subject_of
from paracore.testing.adversarial import ConstantDamping
from paracore.testing.kit import all_checks, contract_of


class Undocumented(ConstantDamping):
    pass


@attrs.frozen
class Negative(paracore.DampingPolicy):
    """Factors below zero."""

    reference = "nobody"

    def factors(self, round, state):
        return np.full(round.age.shape, -1.0)


def test_every_check_is_public_and_says_what_it_stands_for():
    for name, check in all_checks().items():
        assert getattr(testing, name) is check
        assert name in testing.__all__
        assert contract_of(check).endswith(".")
        assert 20 < len(contract_of(check)) < 160
    listed = {name for name in testing.__all__ if name.startswith("check_")}
    assert listed == set(all_checks())


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        ("damping:gain-ratio", "damping"),
        ("picard(window=4)", "sampler"),
        ("secant", None),
        (Copy, "initializer"),
        (AbsoluteChange(), "stopping"),
        (paracore.sampler("picard"), "sampler"),
        (paracore.sampler("picard").composition, "sampler"),
        (paracore.sampler("chords"), "sampler"),
        (paracore.registry.find("model", "gaussian"), "model"),
        (paracore.evaluators.batched, "evaluator"),
        (lambda window=3: paracore.compose(window=window), "sampler"),
    ],
)
def test_anything_can_be_a_subject(thing, kind):
    if kind is None:  # a sampler and a Jacobian have the name
        with pytest.raises(ConfigurationError, match="write jacobian:secant or sampler:secant"):
            subject_of(thing)
        return
    subject = subject_of(thing)
    assert subject.kind == kind
    assert subject_of(subject) is subject
    assert all(inspect.isfunction(check) for check in checks_for(subject))


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(UnknownNameError, match=r"did you mean 'gain-ratio'\?"):
        subject_of("damping:gain-rato")
    with pytest.raises(ConfigurationError, match=r"unknown kind 'dampings'; did you mean 'damping'\?"):
        subject_of(Copy, "dampings")
    with pytest.raises(ConfigurationError, match="3 cannot be checked; pass a registered name"):
        subject_of(3)


def test_checks_go_by_kind():
    names = {kind: {c.__name__ for c in checks_for(kind)} for kind in ("damping:none", "stopping:change", "picard")}
    assert "check_factors_are_not_negative" in names["damping:none"]
    assert "check_tolerance_is_kept" in names["stopping:change"] - names["damping:none"]
    assert "check_never_mutates" not in names["picard"]
    assert all("check_sequential_at_tolerance_zero" in own for own in names.values())


def test_settings_reach_presets_and_compositions():
    for thing in ("picard", "picard(window=2)", paracore.sampler("picard"), lambda: paracore.compose()):
        made = subject_of(thing).sampler(window=5, tolerance=0.25)
        assert made.composition.tolerance == 0.25
        assert made.composition.window == (2 if thing == "picard(window=2)" else 5)
    assert subject_of("chords").sampler(tolerance=0.25).tolerance == 0.25


def test_a_report_names_what_was_broken():
    report = run_checks(Negative)
    (outcome,) = [o for o in report.failures if o.check == "check_factors_are_not_negative"]
    assert outcome.status == "failed"
    assert "finite numbers of at least 0 are needed" in outcome.message
    assert "Damping factors are" in outcome.contract
    assert not report.passed
    assert f"{len(report.outcomes) - len(report.failures)} of {len(report.outcomes)} checks hold" in str(report)
    assert outcome.message in str(report)


def test_expected_failures_are_strict():
    check = testing.check_factors_are_not_negative
    marks = parametrize_with_checks(
        [Negative], expected_failures={check.__name__: "a test", "check_documented": "none"}
    )
    tests = {parameter.id.split("-")[1]: parameter.values[0] for parameter in marks.args[1]}
    tests[check.__name__]()  # it fails, as expected
    with pytest.raises(testing.CheckFailure, match=r"expected to fail \(none\), and passed"):
        tests["check_documented"]()
    with pytest.raises(ConfigurationError, match="'check_nothing' is no check"):
        run_checks(Negative, expected_failures={"check_nothing": "a test"})


def test_a_plugins_own_expectations_count():
    report = run_checks("initializer:warm-start")
    assert report.passed, str(report)
    assert [o.check for o in report.outcomes if o.status == "expected"] == [
        "check_guesses_are_near",
        "check_guesses_follow_a_trend",
    ]


def test_whatever_a_part_raises_is_a_failure_of_its_own():
    class Crash(ConstantDamping):
        """It raises."""

        reference = "nobody"

        def factors(self, round, state):
            raise ZeroDivisionError("never")

    report = run_checks(Crash)
    assert "ZeroDivisionError: never" in str(report)
    with pytest.raises(testing.CheckFailure, match="no docstring of its own"):
        testing.check_documented(Undocumented)


@parametrize_with_checks(["initializer:copy"])
def test_the_mark_makes_tests(check):
    check()
