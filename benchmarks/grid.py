"""The benchmark grid: every registered sampler on every problem. ``python benchmarks/grid.py [--full] [--jobs 2]``.

A cell is one sampler with one window on one problem under one rule: ``target`` (every composition stops by the same
error target of 1 %) or ``own`` (the preset's defaults; the only rule of samplers that are no composition). Cells are
kept in ``benchmarks/results/grid.json`` as they are done, so that a run that was stopped goes on where it was; a cell
is measured again if the number of seeds or the sampler's settings have changed, or with ``--fresh``. Filters:
``--only picard,jacobi --problem "digits g=4" --window 8,N``. ``python benchmarks/report.py`` makes the tables. All
presets together take about an hour with two workers on two idle cores; ``--limit`` bounds a single cell.

Every cell holds the sampler against three answers: the sequential sampler's; that of the rival with as many sequential
evaluations as the sampler made rounds (second order in between); and the fine solution of the equation (the same
schedule with many more steps), from which the sequential sampler itself is a certain distance away.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

import paracore
from paracore.cli.catalogue import make_scheme
from paracore.cli.output import versions, write
from paracore.cli.problems import initial_deviation
from paracore.errors import ConfigurationError, ParacoreError
from paracore.harness import Bench, Row, relative_error
from paracore.parts import ErrorTarget
from paracore.plugins.calls import options_of

RESULTS = Path(__file__).parent / "results" / "grid.json"
FORMAT = 1
TARGET = 0.01
MISS = 3 * TARGET
WINDOWS = ("2", "4", "8", "N")
WIDTH_OPTIONS = ("window", "cores")
"""What samplers call the number of evaluations per round."""
FIRST_SEED = 5000
FINE = {"flow-euler": lambda n: 8 * n, "ddim": lambda n: 1000, "dpm-solver-pp-2m": lambda n: 8 * n}
"""Steps of the fine solution. DDIM visits every training step: with "leading" spacing 800 of 1000 start too late."""
GOOD = frozenset({"converged", "exact", "budget-completed"})
Errors = tuple[float, ...]
Tell = Callable[[dict[str, Any]], None]


@attrs.frozen
class Task:
    """A problem with its schedule.

    Attributes:
        model: registered name, or mnist-mixture.
        schedule: name of the scheme.
        steps: N.
        seeds: samples in the default grid; ``--full`` takes four times as many.
        guidance: classifier-free guidance scale.
        labelled: whether sample i is of class i, counted round.
        alone: solve every sample alone, as latency is measured; else all are one batch (decisions are per sample, so
            that rounds and errors are the same).
        extra: only with ``--full``.
    """

    model: str
    schedule: str
    steps: int
    seeds: int
    guidance: float = 1.0
    labelled: bool = False
    alone: bool = False
    extra: bool = False

    @property
    def problem(self) -> str:
        """``digits g=4``."""
        return f"{self.model} g={self.guidance:g}" if self.labelled else self.model

    @property
    def name(self) -> str:
        """``digits g=4, flow-euler 50``."""
        return f"{self.problem}, {self.schedule} {self.steps}"


def _tasks() -> list[Task]:
    schedules = (("flow-euler", 50), ("ddim", 100), ("ddpm", 100), ("dpm-solver-pp-2m", 25))
    found = [Task("digits", "flow-euler", 50, 4, g, labelled=True, alone=True) for g in (1.0, 4.0, 7.0)]
    found += [Task("mnist-mixture", s, n, 8, 4.0, labelled=True) for s, n in schedules]
    found += [Task("two-mode", s, n, 16) for s, n in schedules]  # a label would choose the mode
    found += [Task("linear", "flow-euler", 50, 8)]
    return found + [attrs.evolve(t, steps=100, extra=True) for t in found if t.schedule == "flow-euler"]


TASKS = tuple(_tasks())


@attrs.frozen
class Cell:
    """What is measured in one go.

    Attributes:
        task: the problem.
        sampler: registered name.
        width: ``2``, ``4``, ``8``, ``N``, or ``-`` for a sampler without such an option.
        rule: ``target`` or ``own``.
        seeds: samples.
        settings: the sampler in full; empty if it could not be built.
        own: whether these are the preset's defaults.
        refused: why the sampler could not be built.
    """

    task: Task
    sampler: str
    width: str
    rule: str
    seeds: int
    settings: str = ""
    own: bool = False
    refused: str | None = None

    @property
    def key(self) -> str:
        """What the cell is kept under."""
        return " | ".join((self.task.name, self.sampler, self.width, self.rule))

    @property
    def window(self) -> int | None:
        """Evaluations per round."""
        return None if self.width == "-" else self.task.steps if self.width == "N" else int(self.width)


# -- the plan -----------------------------------------------------------------------------------------------------


def plan(tasks: Sequence[Task], samplers: Sequence[str], widths: Sequence[str], seeds: int | None) -> list[Cell]:
    """All cells of these tasks, samplers and windows."""
    found: list[Cell] = []
    known: dict[tuple[str, int | None], list[Cell]] = {}
    for task in tasks:
        for name in samplers:
            own = [w for w in widths if w != "-"]
            if width_option(name) is None:
                own = ["-"] * ("-" in widths or tuple(widths) == WINDOWS)
            for width in own:
                cell = Cell(task, name, width, "own", seeds or task.seeds, own=True)
                if (name, cell.window) not in known:
                    known[name, cell.window] = list(_rules(cell))
                same = {"task": task, "width": width, "seeds": cell.seeds}
                found += [attrs.evolve(c, **same) for c in known[name, cell.window]]
    return found


def _rules(cell: Cell) -> Iterator[Cell]:
    """The cell under each of its rules."""
    try:
        own = build(cell)
    except ParacoreError as error:
        yield attrs.evolve(cell, refused=_line(error))
        return
    settings = describe(own)
    if not isinstance(own, paracore.Engine):
        yield attrs.evolve(cell, settings=settings)
        return
    common = attrs.evolve(cell, rule="target")
    target = describe(build(common))
    yield attrs.evolve(common, settings=target, own=target == settings)
    if target != settings:
        yield attrs.evolve(cell, settings=settings)


def width_option(name: str) -> str | None:
    """The sampler's option for evaluations per round."""
    known = options_of(paracore.registry.find("sampler", name).factory)
    return next((option for option in WIDTH_OPTIONS if option in known), None)


def build(cell: Cell) -> paracore.Sampler:
    """The sampler of a cell.

    Raises:
        ParacoreError: if it refuses its options.
    """
    option = width_option(cell.sampler)
    made = paracore.sampler(cell.sampler, **({} if option is None else {option: cell.window}))
    if cell.rule == "target":
        assert isinstance(made, paracore.Engine)
        return paracore.Engine(attrs.evolve(made.composition, stopping=ErrorTarget(), tolerance=TARGET))
    return made


def describe(sampler: paracore.Sampler) -> str:
    """A sampler in full, the same text in every process."""
    text = repr(getattr(sampler, "composition", sampler))
    return type(sampler).__name__ if " at 0x" in text else text


# -- one cell -----------------------------------------------------------------------------------------------------


class TooSlowError(BaseException):
    """Raised by the alarm; no Exception, so that no part's error handling sees it."""


@attrs.define
class Prepared:
    """A task's problem and everything that its cells are held against.

    Attributes:
        bench: measures samplers.
        fine: ``(B, *event)`` fine solution, or ``None`` for stochastic schemes.
        centres: ``(2, d)`` the two modes, where the problem has two.
        rivals: known errors of the rival, against the sequential and against the fine samples.
    """

    bench: Bench
    fine: torch.Tensor | None
    centres: torch.Tensor | None
    rivals: dict[int, tuple[Errors, Errors | None]] = attrs.field(factory=dict)

    def rival(self, evaluations: int) -> tuple[Errors, Errors | None]:
        if evaluations not in self.rivals:
            samples = self.bench.fewer(evaluations)
            fine = None if self.fine is None else relative_error(samples, self.fine)
            self.rivals[evaluations] = relative_error(samples, self.bench.reference), fine
        return self.rivals[evaluations]

    def modes(self, samples: torch.Tensor) -> torch.Tensor:
        assert self.centres is not None
        return torch.cdist(samples.double().flatten(1), self.centres).argmin(1)


@functools.lru_cache(maxsize=2)
def prepare(task: Task, seeds: int) -> Prepared:
    """The problem, its sequential samples, its fine solution."""
    torch.set_num_threads(1)
    paracore.registry.entries()  # now: plugins must not be loaded under the time limit
    if task.model == "mnist-mixture":
        from mnist_mixture import fitted

        model: paracore.Model = fitted()
    else:
        model = paracore.registry.make("model", task.model)
    labels = torch.arange(seeds) % model.classes if task.labelled else None
    scheme = make_scheme(task.schedule, task.steps)
    generators = [torch.Generator().manual_seed(FIRST_SEED + i) for i in range(seeds)]
    x0 = torch.stack([torch.randn(model.shape, generator=g) for g in generators]) * initial_deviation(scheme)

    def case(scheme: paracore.schemes.Scheme) -> tuple[paracore.Problem, paracore.Evaluator]:
        evaluator = paracore.evaluators.batched(model.denoiser(scheme, labels, task.guidance), max_batch=64, jvp=True)
        return paracore.Problem(scheme, x0, generators if scheme.stochastic else None), evaluator

    fine = None
    if task.schedule in FINE:
        fine = paracore.sequential(*case(make_scheme(task.schedule, FINE[task.schedule](task.steps))))
    centres = getattr(model, "means", None) if task.model == "two-mode" else None
    return Prepared(Bench(*case(scheme), one_at_a_time=task.alone), fine, centres)


def measure(cell: Cell, limit: float) -> dict[str, Any]:
    """The record of a cell; what a sampler does wrong is noted in it."""
    began = time.process_time()
    record: dict[str, Any] = {
        "key": cell.key,
        "problem": cell.task.problem,
        "schedule": cell.task.schedule,
        "steps": cell.task.steps,
        "sampler": cell.sampler,
        "width": cell.width,
        "window": cell.window,
        "rule": cell.rule,
        "own": cell.own,
        "seeds": cell.seeds,
        "settings": cell.settings,
        "refused": cell.refused,
        "failure": None,
    }
    if cell.refused is None:
        try:
            ready = prepare(cell.task, cell.seeds)
            with_limit(limit, lambda: record.update(_figures(ready, cell)))
        except ConfigurationError as error:
            record["refused"] = _line(error)
        except TooSlowError:
            record["failure"] = f"stopped after {limit:g} s of one core"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            record["failure"] = f"{type(error).__name__}: {_line(error)} ({Path(place.filename).name}, {place.name})"
    record["cpu_s"] = time.process_time() - began
    rounded: dict[str, Any] = _rounded(record)
    return rounded


def _figures(ready: Prepared, cell: Cell) -> dict[str, Any]:
    row = ready.bench.measure(cell.sampler, build(cell))
    if row.failure is not None:
        return {"failure": row.failure}
    there = [e for e in row.errors if e is not None]
    ended = [r for r, s in zip(row.rounds, row.status, strict=True) if s in GOOD]
    rounds = float(np.mean(ended)) if ended else None
    judged = [(s, e) for s, e in zip(row.status, row.errors, strict=True) if s in ("converged", "exact")]
    evaluations = None if rounds is None else min(max(round(rounds), 1), cell.task.steps)
    return {
        "rounds_mean": rounds,
        "rounds": list(row.rounds),
        "speedup": cell.task.steps / rounds if rounds else None,
        "evaluations": float(np.mean(row.evaluations)),
        "work": row.work,
        "jvps": row.jvps / cell.seeds,
        "network_calls": row.network_calls / cell.seeds,
        "wall_time_s": None if row.seconds is None else row.seconds / cell.seeds,
        "sequential_wall_time_s": (ready.bench.sequential.seconds or 0.0) / cell.seeds,
        **_summary("error", there),
        "errors": list(row.errors),
        "converged": len(judged),
        "misses": sum(e is not None and e > MISS for _, e in judged),
        "status": {s: row.status.count(s) for s in sorted(set(row.status))},
        "failed": row.failed,
        "same_mode": _same_mode(ready, row),
        "rival": None
        if evaluations is None
        else {"evaluations": evaluations, **_summary("error", ready.rival(evaluations)[0])},
        "fine": _fine(ready, row, evaluations),
    }


def _same_mode(ready: Prepared, row: Row) -> float | None:
    """Share of the samples that end in the sequential sampler's mode."""
    if ready.centres is None or row.samples is None:
        return None
    same = ready.modes(row.samples) == ready.modes(ready.bench.reference)
    good = torch.tensor([s in GOOD for s in row.status])
    return float((same & good).double().mean())


def _fine(ready: Prepared, row: Row, evaluations: int | None) -> dict[str, float | None] | None:
    """Mean errors against the fine solution: of the sampler, the rival, and the sequential sampler."""
    if ready.fine is None or row.samples is None or evaluations is None:
        return None
    errors = relative_error(row.samples, ready.fine)
    rival = ready.rival(evaluations)[1]
    own = [e for e, s in zip(errors, row.status, strict=True) if s in GOOD]
    return {
        "sampler": float(np.mean(own)) if own else None,
        "rival": None if rival is None else float(np.mean(rival)),
        "sequential": float(np.mean(relative_error(ready.bench.reference, ready.fine))),
    }


def _summary(name: str, errors: Sequence[float]) -> dict[str, float | None]:
    if not errors:
        return {f"{name}_mean": None, f"{name}_p95": None, f"{name}_max": None}
    return {
        f"{name}_mean": float(np.mean(errors)),
        f"{name}_p95": float(np.quantile(errors, 0.95)),
        f"{name}_max": float(max(errors)),
    }


def with_limit(seconds: float, run: Callable[[], None]) -> None:
    """Run it, and for no more seconds of processor time than that (on a busy machine clocks say little).

    Raises:
        TooSlowError: if it takes longer.
    """

    def stop(number: int, frame: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.2)  # again and again: an error in a finalizer or a callback is lost
    try:
        run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _rounded(value: Any) -> Any:
    """Five digits, and ``None`` for what is no number: results are read by people too."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


# -- all cells ----------------------------------------------------------------------------------------------------


class Store:
    """Records by key, in a file that is always whole.

    Raises:
        ConfigurationError: for a file that is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                data = json.loads(path.read_text())
                found = data["format"], {record["key"]: record for record in data["cells"]}
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(f"{path} is no grid: move it away, or give another --out") from error
            if found[0] != FORMAT:
                raise ConfigurationError(f"{path} has format {found[0]}, not {FORMAT}: move it away")
            self.records = found[1]
        self._lines = {key: json.dumps(record, allow_nan=False) for key, record in self.records.items()}

    def has(self, cell: Cell) -> bool:
        """Whether the cell was measured with these seeds and settings."""
        known = self.records.get(cell.key)
        wanted = (cell.seeds, cell.settings, cell.own)
        return known is not None and (known["seeds"], known["settings"], known["own"]) == wanted

    def prune(self, cells: Sequence[Cell], samplers: Sequence[str]) -> None:
        """Forget the rules that these cells no longer have, and samplers that are not registered."""
        keys, planned = {c.key for c in cells}, {_without_rule(c.key) for c in cells}
        for key, record in list(self.records.items()):
            if record["sampler"] not in samplers or (_without_rule(key) in planned and key not in keys):
                del self.records[key], self._lines[key]

    def put(self, record: dict[str, Any]) -> None:
        """Keep a record, and write all."""
        self.records[record["key"]] = record
        self._lines[record["key"]] = json.dumps(record, allow_nan=False)
        self.write()

    def write(self) -> None:
        """All records, one on a line, in order."""
        head = json.dumps({"format": FORMAT, "target": TARGET, "miss": MISS, "versions": versions()})[:-1]
        lines = ",\n".join(self._lines[key] for key in sorted(self._lines))
        write(self.path, f'{head}, "cells": [\n{lines}\n]}}\n'.encode())


def _without_rule(key: str) -> str:
    return key.rpartition(" | ")[0]


def run(cells: Sequence[Cell], store: Store, *, jobs: int, limit: float, tell: Tell) -> None:
    """Measure cells and keep each as it is done."""
    if jobs == 1 or len(cells) < 2:
        for cell in cells:
            record = measure(cell, limit)
            store.put(record)
            tell(record)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet)
    try:
        for done in as_completed([pool.submit(measure, cell, limit) for cell in cells]):
            store.put(done.result())
            tell(done.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _quiet() -> None:
    """Ctrl-C is the parent's business; it cancels what has not begun."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def main(words: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="four times the seeds, and flow matching with 100 steps")
    parser.add_argument("--only", help="samplers, separated by commas")
    parser.add_argument("--problem", help="only problems whose name contains this: 'digits g=4', 'two-mode, ddim'")
    parser.add_argument("--window", help="2, 4, 8, N, or - for samplers without windows; separated by commas")
    parser.add_argument("--seeds", type=int, help="samples per cell; default: 4 digits, 8 to 16 others")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes of one thread each")
    parser.add_argument("--limit", type=float, default=120.0, help="processor seconds after which a cell is given up")
    parser.add_argument("--fresh", action="store_true", help="measure again what the filters leave")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(words)
    try:
        cells = _chosen(asked)
        store = Store(asked.out)
    except ParacoreError as error:
        print(f"grid: {_line(error)}", file=sys.stderr)
        return 2
    store.prune(cells, _registered())
    missing = [cell for cell in cells if asked.fresh or not store.has(cell)]
    print(f"{len(cells)} cells, {len(cells) - len(missing)} known, {len(missing)} to measure", flush=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    done: list[dict[str, Any]] = []
    try:
        with _bar(len(missing)) as tell:

            def note(record: dict[str, Any]) -> None:
                done.append(record)
                tell(record)

            run(missing, store, jobs=asked.jobs, limit=asked.limit, tell=note)
    except KeyboardInterrupt:
        print(f"stopped; {len(done)} cells were kept: the same command goes on")
        return 130
    store.write()
    refused, failed = sum(bool(r["refused"]) for r in done), sum(bool(r["failure"]) for r in done)
    wall, cpu = time.perf_counter() - began, sum(r["cpu_s"] for r in done)
    print(
        f"{len(done)} cells in {wall:.0f} s ({cpu:.0f} s of processor time); "
        f"{refused} refused, {failed} failed; written: {asked.out}"
    )
    return 0


def _registered() -> list[str]:
    return [entry.name for entry in paracore.registry.entries("sampler")]


def _chosen(asked: argparse.Namespace) -> list[Cell]:
    if asked.seeds is not None and asked.seeds < 1:
        raise ConfigurationError(f"seeds is {asked.seeds}; at least 1 is needed")
    if asked.jobs < 1:
        raise ConfigurationError(f"jobs is {asked.jobs}; at least 1 is needed")
    names = _registered()
    if asked.only:
        names = [paracore.registry.find("sampler", name.strip()).name for name in asked.only.split(",")]
    tasks = [t for t in TASKS if (asked.full or not t.extra) and (asked.problem or "") in t.name]
    if not tasks:
        known = "; ".join(t.name for t in TASKS)
        raise ConfigurationError(f"no problem's name contains {asked.problem!r}; known: {known}")
    if asked.full:
        tasks = [attrs.evolve(t, seeds=4 * t.seeds) for t in tasks]
    widths = asked.window.split(",") if asked.window else WINDOWS
    wrong = [w for w in widths if w not in ("N", "-") and not (w.isdecimal() and int(w) > 0)]
    if wrong:
        raise ConfigurationError(f"window {wrong[0]!r} is unknown; write 2, 4, 8, N or -")
    return plan(tasks, names, widths, asked.seeds)


class _bar:  # noqa: N801
    """Cells done, on stderr: a bar if a person is looking, else a line for each."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._looking, self._total, self._done = console.is_terminal, total, 0
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Tell:
        self._progress.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _tell(self, record: dict[str, Any]) -> None:
        self._done += 1
        what = record["refused"] or record["failure"] or ""
        self._progress.update(self._task, completed=self._done, description=record["key"])
        if not self._looking:
            said = f": {what}" if what else f" ({record['cpu_s']:.1f} s)"
            print(f"[{self._done}/{self._total}] {record['key']}{said}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
