"""The survey: every scheduler of the installed diffusers, run by itself and by paracore, and what came of it."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import attrs

from paracore_diffusers.errors import NonFiniteSchedulerError, UnsupportedSchedulerError
from paracore_diffusers.stepper import Rehearsal, Stepper
from paracore_diffusers.survey_cases import Case, cases, classes, unavailable
from paracore_diffusers.survey_runs import finite, replay_equal, table_error
from paracore_diffusers.table import first_rehearsal, prepared, small_signal_table, table_of

__all__ = ["SurveyRecord", "survey", "survey_case", "survey_markdown"]

Verdict = Literal["exact", "replayed", "refused", "wrong"]

LIMIT = 1e-6
"""Largest relative error, over the whole free-running trajectory, of a table that counts as exact."""


@attrs.frozen
class SurveyRecord:
    """What came of one configuration.

    Attributes:
        name: of the scheduler.
        options: that differ from its defaults, as text.
        steps: number of inference steps asked.
        nodes: N, network evaluations; 0 if it was refused.
        memory: past nodes that the table reads.
        draws: noise draws over all nodes.
        verdict: ``"exact"``: the table reproduces the scheduler; ``"replayed"``: not linear, the real step is called
            and its bits agree; ``"refused"``: cannot be run from outside; ``"wrong"``: none of these (a defect).
        error: the table's error against the real run, relative to the largest number of the trajectory.
        prediction: the form of the network's output, where known.
        levels: noise levels are known.
        cause: why it is not exact.
        seconds: for the table.
    """

    name: str
    options: str
    steps: int
    verdict: Verdict
    cause: str = ""
    nodes: int = 0
    memory: int = 0
    draws: int = 0
    error: float | None = None
    prediction: str | None = None
    levels: bool = False
    seconds: float = 0.0


def survey(num_inference_steps: Sequence[int] = (12, 50), *, only: Sequence[str] | None = None) -> list[SurveyRecord]:
    """Try every scheduler class that the installed diffusers exports, by introspection.

    Args:
        num_inference_steps: what ``set_timesteps`` is called with, one after the other.
        only: names of classes, if not all.
    """
    import diffusers

    verbosity = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated options are surveyed as well
            records = _survey(num_inference_steps, only)
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)
    return records


def _survey(num_inference_steps: Sequence[int], only: Sequence[str] | None) -> list[SurveyRecord]:
    records = []
    for kind in classes():
        if only is not None and kind.__name__ not in only:
            continue
        for case in cases(kind):
            records += [survey_case(case, steps) for steps in num_inference_steps]
    for name, cause in unavailable().items():
        if only is None or name in only:
            records += [SurveyRecord(name, "default", steps, "refused", cause) for steps in num_inference_steps]
    return records


def survey_case(case: Case, steps: int) -> SurveyRecord:
    """One configuration at one number of steps."""
    try:
        if case.broken:
            raise UnsupportedSchedulerError(case.broken)
        if not case.steppable:
            raise UnsupportedSchedulerError(f"{case.name} has no set_timesteps")
        ready = prepared(case.scheduler, steps, **case.arguments())
        stepper, rehearsal, ndim, note = _running(ready)
    except UnsupportedSchedulerError as error:
        return SurveyRecord(case.name, case.label, steps, "refused", str(error))
    start = time.perf_counter()
    cause, table = note, None
    try:
        table = table_of(stepper, rehearsal, ndim=ndim)
    except NonFiniteSchedulerError as error:
        if not finite(ready, stepper, ndim):
            return SurveyRecord(case.name, case.label, steps, "refused", str(error))
        cause = str(error)
    except UnsupportedSchedulerError as error:
        cause = str(error)
    seconds = time.perf_counter() - start
    misfit: float | None = None
    verdict: Verdict = "replayed"
    try:
        if table is not None:
            misfit = table_error(ready, table, ndim)
            verdict = "exact" if misfit <= LIMIT else "wrong"
        if not replay_equal(ready, stepper, table, ndim):
            verdict, cause = "wrong", f"the replay has other bits than the real run. {cause}"
    except UnsupportedSchedulerError as refusal:
        verdict, cause = "refused", str(refusal)
    known = table or small_signal_table(stepper, rehearsal, ndim=ndim)
    return SurveyRecord(
        name=case.name,
        options=case.label,
        steps=steps,
        verdict=verdict,
        cause=cause,
        nodes=stepper.nodes,
        memory=known.scheme.memory,
        draws=int(known.scheme.draws.sum()),
        error=misfit,
        prediction=known.scheme.prediction,
        levels=known.scheme.levels is not None,
        seconds=seconds,
    )


def _running(ready: Any) -> tuple[Stepper, Rehearsal, int, str]:
    """A stepper that runs, if need be without a last timestep that only ends the schedule."""
    try:
        return *first_rehearsal(ready, ready.timesteps), ""
    except UnsupportedSchedulerError as error:
        try:
            found = first_rehearsal(ready, ready.timesteps[:-1])
        except (UnsupportedSchedulerError, TypeError):
            raise error from None
        return *found, "without its last timestep, at which step fails (it only ends the schedule)"


def survey_markdown(records: Iterable[SurveyRecord]) -> str:
    """The survey as a page."""
    import diffusers

    records = list(records)
    counts = Counter(r.verdict for r in records)
    errors = [r.error for r in records if r.verdict == "exact" and r.error is not None]
    configurations = len({(r.name, r.options) for r in records})
    lines = [
        "# diffusers schedulers",
        "",
        "Which schedulers of diffusers paracore can run in parallel, and how. Generated with "
        f"diffusers {diffusers.__version__} by",
        "",
        "    paracore diffusers schedulers --markdown",
        "",
        "- **exact**: the scheduler's step is linear in states, outputs and noise; its table, found with unit "
        "impulses, reproduces a real run. *error* is the largest difference over a free-running trajectory of a smooth "
        "random denoiser in float64, relative to the trajectory's largest number, over all numbers of steps.",
        "- **replayed**: the step is not linear (clipping, thresholding); the scheduler's own step is called, and its "
        "bits agree with a real run in float32. (So they do for every exact one.)",
        "- **refused**: it cannot be run from outside; the cause is the message that a user gets.",
        "",
        f"{configurations} configurations of {len({r.name for r in records})} classes, {len(records)} runs: "
        + ", ".join(f"{counts[v]} {v}" for v in ("exact", "replayed", "refused", "wrong") if counts[v])
        + (f"; largest error of an exact one {max(errors):.1e}." if errors else "."),
        "",
        "| scheduler | options | nodes | memory | draws | verdict | error | output | cause |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    together: dict[tuple[str, str], list[SurveyRecord]] = {}
    for r in records:
        together.setdefault((r.name, r.options), []).append(r)
    return "\n".join([*lines, *(_row(group) for group in together.values())]) + "\n"


def _row(group: Sequence[SurveyRecord]) -> str:
    """One configuration at all its numbers of steps: numbers that differ are separated by slashes."""

    def joined(values: Iterable[object]) -> str:
        return " / ".join(dict.fromkeys(str(value) for value in values))

    ran = [r for r in group if r.nodes]
    errors = [r.error for r in group if r.error is not None]
    output = joined(r.prediction or "(levels known)" for r in ran if r.prediction or r.levels)
    cells = [
        group[0].name,
        f"`{group[0].options}`",
        *(joined(getattr(r, name) for r in ran) for name in ("nodes", "memory", "draws")),
        joined(r.verdict for r in group),
        f"{max(errors):.1e}" if errors else "",
        output,
        next((r.cause for r in group if r.cause), "").replace("|", "\\|").replace("\n", " "),
    ]
    return "| " + " | ".join(cells) + " |"
