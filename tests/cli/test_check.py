"""``paracore check``: what it reports, and how it ends."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import paracore
from paracore.cli.checking import owned
from paracore.testing.kit import all_checks, checks_for, contract_of
from plugins.distributions import BROKEN, install


def in_pairs(denoiser: paracore.Denoiser, *, rows: int = 2) -> paracore.Evaluator:
    """Few rows in a network call.

    Args:
        rows: how many.
    """
    print("made")  # what is checked may print
    return paracore.evaluators.batched(denoiser, max_batch=rows)


class Backwards:
    """Answers in another order than it was asked.

    Attributes:
        denoiser: any.
    """

    capabilities: frozenset[str] = frozenset()

    def __init__(self, denoiser: paracore.Denoiser) -> None:
        self.inner = paracore.evaluators.batched(denoiser)

    def evaluate(self, request: paracore.Request) -> paracore.Outputs:
        answer = self.inner.evaluate(request)
        return paracore.Outputs(answer.values.flip(0), calls=answer.calls)


WHY = "two answers wait for each other"


class Mixed:
    """A plugin with a good evaluator, a bad one, and one whose faults are declared."""

    @paracore.hookimpl
    def paracore_evaluators(self) -> dict[str, Any]:
        return {"in-pairs": in_pairs, "backwards": Backwards, "declared": Backwards}

    @paracore.hookimpl
    def paracore_conformance(self) -> dict[str, paracore.Conformance]:
        broken = ("check_evaluator_keeps_rows", "check_evaluator_drives_a_solve", "check_evaluator_counts_calls")
        found = ("check_evaluator_raises_what_the_network_raises", "check_evaluator_hands_on_nonfinite")
        reasons = dict.fromkeys([*broken, *found], WHY)
        return {
            "in-pairs": paracore.Conformance(examples=({}, {"rows": 3})),
            "declared": paracore.Conformance(expected_failures=reasons),
        }


@pytest.fixture(autouse=True)
def _mixed() -> Iterator[None]:
    paracore.registry.register(Mixed(), "mixed")
    yield
    paracore.registry.unregister("mixed")


def statuses(told: str) -> dict[str, dict[str, str]]:
    found = json.loads(told)
    return {s["subject"]: {o["check"]: o["status"] for o in s["outcomes"]} for s in found["subjects"]}


def test_a_name_that_keeps_its_contracts(run):
    done = run("check", "in-pairs")
    assert done.exit_code == 0, done.output
    checks = checks_for("in-pairs")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith(f"evaluator in-pairs: {len(checks)} of {len(checks)} checks hold")
    assert any(line.startswith("evaluator in-pairs(rows=3): ") for line in lines), "each example is checked"
    for check in checks:
        at = [i for i, line in enumerate(lines) if re.fullmatch(rf"passed \d+\.\d s {check.__name__}", line)]
        assert len(at) == 2
        assert lines[at[0] + 1].startswith(contract_of(check).replace("``", "")[:40])
    assert lines[-1] == f"All contracts hold: {2 * len(checks)} checks."
    assert "made" not in done.stdout


def test_options_given_here_replace_the_examples(run):
    done = run("check", "evaluator:in-pairs(rows=5)", "--json")
    assert list(statuses(done.stdout)) == ["evaluator in-pairs(rows=5)"]


def test_a_broken_contract_is_named_and_the_exit_code_is_1(run):
    done = run("check", "backwards")
    assert done.exit_code == 1
    text = " ".join(done.stdout.split())
    assert re.search(r"failed \d+\.\d s check_evaluator_keeps_rows", text)
    assert "outputs differ from those of the rows one by one" in text
    assert "evaluator backwards: check_evaluator_keeps_rows" in text.split("checks broken:")[1]


def test_expected_failures_are_strict(run):
    done = run("check", "declared", "--json")
    assert done.exit_code == 1, "one that was expected to fail passes"
    found = statuses(done.stdout)["evaluator declared"]
    assert found["check_evaluator_keeps_rows"] == "expected"
    assert found["check_evaluator_counts_calls"] == "unexpected"
    assert json.loads(done.stdout)["passed"] is False


def test_everything_of_a_plugin_or_a_distribution(run):
    by_plugin = run("check", "--plugin", "mixed", "--json")
    assert by_plugin.exit_code == 1
    mine = list(statuses(by_plugin.stdout))
    names = ("in-pairs", "in-pairs(rows=3)", "backwards", "declared")
    assert mine == [f"evaluator {name}" for name in names]
    everything = {subject.label for subject in owned("distribution", "this process")}
    assert set(mine) < everything
    assert "model stub" in everything, "another plugin of the same distribution"
    for outcomes in json.loads(by_plugin.stdout)["subjects"]:
        for outcome in outcomes["outcomes"]:
            assert outcome["contract"] == contract_of(all_checks()[outcome["check"]])
            assert outcome["seconds"] >= 0
            assert bool(outcome["message"]) == (outcome["status"] != "passed")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["in-pair"], "unknown name 'in-pair'; did you mean 'in-pairs'"),
        (["damping:in-pairs"], "unknown damping 'in-pairs'; 'in-pairs' is a evaluator"),
        (["in-pairs(rows=two)"], "option rows is 'two'; int is needed"),
        (["--plugin", "mixd"], "unknown plugin 'mixd'; did you mean 'mixed'?"),
        (["--distribution", "nobody"], "unknown distribution 'nobody'"),
        ([], "nothing to check: give NAME..., --plugin NAME or --distribution NAME"),
    ],
)
def test_what_cannot_be_checked_is_one_line_and_exit_code_2(run, words, said):
    done = run("check", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_plugin_is_named_with_its_cause(run, monkeypatch, tmp_path):
    broken = BROKEN[0]
    install(tmp_path, broken)
    (dist,) = importlib.metadata.distributions(name=broken.name, path=[str(tmp_path)])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: list(dist.entry_points))
    paracore.registry.reset()
    for words in (("--plugin", broken.name), ("--distribution", broken.name), ("no-such-name",)):
        done = run("check", *words)
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert broken.origin in done.stderr
        assert broken.cause in done.stderr
