"""Everything that paracore itself registers passes the kit that third parties are given."""

from __future__ import annotations

import pytest

from paracore import registry
from paracore.testing import run_checks
from paracore.testing.subject import Subject, subjects_of_entry

ELSEWHERE = {"distributed"}  # it needs ranks: tests/evaluators/test_distributed.py runs the kit on two
QUICK = {"look-ahead", "secant", "error-target", "gain-ratio", "hold", "every-kth", "ropa", "chords", "batched"}
QUICK |= {"gaussian", "mixture", "digits", "linear", "devices"}
"""A few of each kind; the others are three times as many, and slow."""


def subjects() -> list[Subject]:
    return [s for entry in registry.entries() if entry.name not in ELSEWHERE for s in subjects_of_entry(entry)]


@pytest.mark.parametrize(
    "subject",
    [pytest.param(s, id=s.label, marks=[] if set(s.label.split()) & QUICK else [pytest.mark.slow]) for s in subjects()],
)
def test_what_we_register_passes(subject):
    report = run_checks(subject)
    assert report.passed, str(report)
    assert len(report.outcomes) >= 5


def test_every_kind_is_checked():
    assert {s.kind for s in subjects()} == {e.kind for e in registry.entries()}
