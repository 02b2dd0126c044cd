"""Wrong parts of one mistake each are caught, the correct ones behind them are not flagged.

``mutants_a`` and ``mutants_b`` were written from the contracts alone, by people who had not seen the kit; later came
"undeclared-growth" with ``reads_growth``.
``caught.json`` holds which checks catch which of them, quickest first; ``PYTHONPATH=tests python -m kit.test_mutants``
writes it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from kit import mutants_a, mutants_b
from paracore.testing import run_checks, subject_of
from paracore.testing.kit import all_checks, outcome_of

TABLE = Path(__file__).with_name("caught.json")
CAUGHT: dict[str, list[str]] = json.loads(TABLE.read_text()) if TABLE.exists() else {}
MUTANTS = {f"a {m.name}": m for m in mutants_a.MUTANTS} | {f"b {m.name}": m for m in mutants_b.MUTANTS}
ORIGINALS = {f"a {m.name}": m for m in mutants_a.ORIGINALS} | {f"b {m.name}": m for m in mutants_b.ORIGINALS}

MISSED = {
    "a residual:unaligned": "a look-ahead at the wrong node is a worse look-ahead, no wrong one",
    "a stopping:unaligned": "a count at the wrong node accepts a little sooner or later; nothing else tells",
    "a selection:unaligned": "other rows are evaluated, none is wrong",
    "a stopping:unknown-is-zero": "its other two conditions keep the contract without the one that is broken",
    "b stopping:passed by the row after": "shows only where a row is far and the next one near",
    "b initializer:first column of the table alone": "a rougher guess, still better than a copy",
    "b sampler:second core taken for exact": "its second core is exact to the last bit on the kit's problems",
}
"""What the kit does not catch, and why. No mutant was taken out for it."""

QUICK = random.Random(0).sample(sorted(MUTANTS.keys() - MISSED.keys()), 40)
"""In the default suite; the others are slow."""


def marks(quick: bool) -> list[Any]:
    return [] if quick else [pytest.mark.slow]


@pytest.mark.parametrize(
    "name", [pytest.param(n, id=n, marks=marks(n in QUICK)) for n in sorted(MUTANTS.keys() - MISSED.keys())]
)
def test_a_mutant_is_caught(name):
    mutant = MUTANTS[name]
    check = all_checks()[CAUGHT[name][0]]
    outcome = outcome_of(check, subject_of(mutant.make(), mutant.kind), {})
    assert outcome.status == "failed", f"{check.__name__} lets pass: {mutant.contract}"
    assert outcome.contract
    assert len(outcome.message) > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MISSED))
def test_what_is_missed_is_missed(name):
    """If this fails, take it out of the list: the kit has got better."""
    assert run_checks(MUTANTS[name].make(), MUTANTS[name].kind).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ORIGINALS))
def test_a_correct_part_is_not_flagged(name):
    report = run_checks(ORIGINALS[name].make(), ORIGINALS[name].kind)
    assert report.passed, str(report)


def test_most_are_caught():
    """The page says how many: 135 of 142."""
    assert len(CAUGHT.keys() & MUTANTS.keys()) + len(MISSED) == len(MUTANTS) == 142
    assert len(CAUGHT) == 135
    kinds = {m.kind for m in MUTANTS.values()}
    assert len(kinds) == 10


def write() -> None:
    """Run everything on every mutant: about ten minutes on one core."""
    table = {}
    for name, mutant in sorted(MUTANTS.items()):
        failures = sorted(run_checks(mutant.make(), mutant.kind).failures, key=lambda outcome: outcome.seconds)
        if failures:
            table[name] = [outcome.check for outcome in failures]
        print(name, *table.get(name, ["missed"]), flush=True)
    TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    write()
