"""Two workers against one process: ``python benchmarks/scaling.py [--quick] [--resume] [--report]``.

Three parts, written to benchmarks/results/scaling.json as they come; everything runs with one CPU thread per worker,
and every process keeps memory that is freed (``keep_freed_memory``), that of the sequential sampler too:

* ``wall``: digits, 50 flow-matching steps at shift 1, guidance 4, error target 1 %, window 2, 16 images at once and one
  image: seconds of a whole solve by ``picard`` and the default sampler with the evaluators ``batched`` (one process),
  ``devices`` (two replicas, a thread each), ``distributed`` (two processes, gloo) and ``ray`` (two actors), against the
  sequential sampler in one process. One evaluator after another, with no other's workers alive (idle actors take a
  tenth of a core); for each, interleaved: sequential, each method, again and again. Workers are started, and everything
  was run once, before. Of ``distributed``, the time of the slower rank from a barrier to its answer.
* ``overhead``: milliseconds of one ``evaluate`` of a network that costs next to nothing (it halves its input), for
  digits (784 numbers a row) and for 2 million numbers a row. *Overhead* is the median of the evaluator with two workers
  minus the median of ``batched`` with the rows of one worker: handing out, moving, waiting for, gathering and checking,
  and nothing that the worker computes itself. The sampler's own time is not in it.
* ``calls``: milliseconds of a guided evaluation of digits by its number of rows, by one process alone and by two
  processes at the same time, and bytes that pass the network interfaces in a round, where the system counts them.

``--report`` writes docs/scaling.md's figures from what was measured (see scaling_report.py), and measures nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import attrs
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import paracore
from paracore.cli.output import console, versions, write_json
from paracore.compose import DEFAULT_SAMPLER
from paracore.harness import relative_error

sys.path.insert(0, str(Path(__file__).parent))
import scaling_report

RESULTS = scaling_report.RESULTS
WORKERS = 2
WINDOW = 2
GUIDANCE = 4.0
TARGET = 0.01
FIRST_SEED = 5300
SAMPLERS = ("picard", DEFAULT_SAMPLER)
EVALUATORS = ("batched", "devices", "distributed", "ray")
DIGIT = (1, 28, 28)
KEY = b"scaling"
Record = dict[str, Any]


@attrs.frozen
class Setting:
    """How much is measured.

    Attributes:
        quick: a trial: its figures mean nothing.
        steps: N of the solves.
        images: numbers of images solved at once.
        runs: timed runs of each solve.
        states: shapes of a row, and how often each is evaluated.
        windows: rows of a request.
        rows: numbers of rows in one network call.
        calls: timed calls for each.
    """

    quick: bool
    steps: int
    images: tuple[int, ...]
    runs: int
    states: tuple[tuple[tuple[int, ...], int], ...]
    windows: tuple[int, ...]
    rows: tuple[int, ...]
    calls: int


FULL = Setting(
    False, 50, (16, 1), 5, ((DIGIT, 400), ((2_000_000,), 40)), (2, 8), (1, 2, 4, 8, 12, 16, 24, 32), 9
)  # 32 rows: 16 images in a window of 2
QUICK = Setting(True, 8, (2, 1), 1, ((DIGIT, 8), ((100_000,), 4)), (2, 8), (1, 2, 4), 2)


class Halving:
    """A network that costs next to nothing."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: paracore.Rows) -> torch.Tensor:
        return x * 0.5


# -- what is run, in any process --------------------------------------------------------------------------------------


def problem_of(steps: int, images: int) -> paracore.Problem:
    """Digits to be drawn."""
    generator = torch.Generator().manual_seed(FIRST_SEED)
    x0 = torch.randn(images, *DIGIT, generator=generator)
    return paracore.Problem(paracore.schemes.flow_euler(steps, shift=1.0), x0)


def digits(steps: int, images: int) -> paracore.Denoiser:
    """The guided network; the same serves fewer images."""
    model = paracore.registry.make("model", "digits")
    scheme = paracore.schemes.flow_euler(steps, shift=1.0)
    denoiser: paracore.Denoiser = model.denoiser(scheme, torch.arange(images) % model.classes, GUIDANCE)
    return denoiser


def sampler_of(name: str) -> paracore.Sampler:
    """With the window and the error target of all of them."""
    return paracore.sampler(name, window=WINDOW, tolerance=TARGET)


def request_of(shape: tuple[int, ...], rows: int) -> paracore.Request:
    """One round of one sample."""
    states = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(FIRST_SEED))
    node = torch.arange(rows)
    return paracore.Request(node, torch.zeros_like(node), states, torch.linspace(1.0, 0.5, rows, dtype=torch.float64))


def solved(evaluator: paracore.Evaluator, name: str, steps: int, images: int) -> Record:
    """A solve, timed whole; its sample too."""
    problem, sampler = problem_of(steps, images), sampler_of(name)
    began = time.perf_counter()
    result = paracore.solve(sampler, problem, evaluator)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "solver_s": result.solver_time,
        "rounds": result.total_rounds,
        "evaluations": int(result.evaluations.sum()),
        "incidents": len(result.incidents),
        "sample": result.sample.numpy(),  # tensors would travel as shared memory
    }


def evaluations(evaluator: paracore.Evaluator, shape: tuple[int, ...], rows: int, count: int) -> list[float]:
    """Milliseconds of each."""
    request, found = request_of(shape, rows), []
    for _ in range(count):
        began = time.perf_counter()
        evaluator.evaluate(request)
        found.append(1000 * (time.perf_counter() - began))
    return found


def call_times(denoiser: paracore.Denoiser, rows: int, count: int) -> list[float]:
    """Milliseconds of guided evaluations of ``rows`` rows."""
    request, evaluator = request_of(DIGIT, rows), paracore.evaluators.batched(denoiser)
    evaluator.evaluate(request)
    return [_milliseconds(lambda: evaluator.evaluate(request)) for _ in range(count)]


def _milliseconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - began)


# -- the processes of the evaluator 'distributed' ---------------------------------------------------------------------


def rank_main(address: str, steps: int, images: int) -> None:
    """What a rank does: it obeys the measuring process, which it is connected to, until it is told to stop."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(Client(address, authkey=KEY))
        line.send(int(os.environ["RANK"]))
        network = stack.enter_context(paracore.evaluators.distributed(digits(steps, images)))
        cheap = paracore.evaluators.distributed(Halving())
        actions: dict[str, Callable[..., Any]] = {
            "solve": lambda *given: solved(network, *given),
            "evaluate": lambda *given: evaluations(cheap, *given),
            "calls": lambda *given: call_times(digits(steps, images), *given),
        }
        while (order := line.recv()) is not None:
            torch.distributed.barrier()
            line.send(actions[order[0]](*order[1:]))


class Ranks:
    """Processes started by torchrun, each with a connection to here."""

    def __init__(self, process: subprocess.Popen[bytes], lines: list[Connection]) -> None:
        self._process, self._lines = process, lines

    def ask(self, *order: Any) -> list[Any]:
        """The same of all of them, at the same time; answers by rank."""
        for line in self._lines:
            line.send(order)
        return [line.recv() for line in self._lines]

    def stop(self) -> None:
        """And wait until they ended."""
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.send(None)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait(timeout=30)
        for line in self._lines:
            line.close()


@contextlib.contextmanager
def ranks(steps: int, images: int) -> Iterator[Ranks]:
    """As many as there are workers."""
    with (
        tempfile.TemporaryDirectory(prefix="paracore-") as folder,
        Listener(str(Path(folder) / "line"), "AF_UNIX", authkey=KEY) as door,
    ):
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={WORKERS}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", __file__]
        command += ["--rank-of", str(door.address), "--rank-work", f"{steps},{images}"]
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        made = Ranks(process, [])
        try:
            door._listener._socket.settimeout(120)  # type: ignore[attr-defined]  # a rank that dies never connects
            found = {}
            for _ in range(WORKERS):
                line = door.accept()
                found[line.recv()] = line
            made = Ranks(process, [found[rank] for rank in range(WORKERS)])
            yield made
        finally:
            if not made._lines:
                process.terminate()
            made.stop()


# -- the three parts --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def evaluators(denoiser: paracore.Denoiser) -> Iterator[dict[str, paracore.Evaluator]]:
    """All that live in this process, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(started(name, denoiser)) for name in EVALUATORS if name != "distributed"}


@contextlib.contextmanager
def started(name: str, denoiser: paracore.Denoiser) -> Iterator[paracore.Evaluator]:
    """One that lives in this process, with its workers, closed at the end."""
    with contextlib.ExitStack() as stack:
        if name == "devices":
            yield stack.enter_context(paracore.evaluators.devices(denoiser, ["cpu"] * WORKERS))
        elif name == "ray":
            yield stack.enter_context(paracore.evaluators.ray(denoiser, WORKERS))
        else:
            yield paracore.evaluators.batched(denoiser)


Save = Callable[[], None]
Tick = Callable[[str], None]
Solve = Callable[[str, int], Record]


@contextlib.contextmanager
def solver_on(evaluator: str, denoiser: paracore.Denoiser, steps: int, most: int) -> Iterator[Solve]:
    """Timed solves of up to ``most`` images by one evaluator, whose workers are the only ones that live."""
    if evaluator != "distributed":
        with started(evaluator, denoiser) as local:
            yield lambda name, images: solved(local, name, steps, images)
        return
    with ranks(steps, most) as group:

        def slower(name: str, images: int) -> Record:
            answers = group.ask("solve", name, steps, images)
            return {**answers[0], "seconds": max(answer["seconds"] for answer in answers)}

        yield slower


def measure_wall(setting: Setting, found: Record, tick: Tick, save: Save) -> None:
    """Seconds of whole solves; ``found`` grows evaluator by evaluator."""
    denoiser = digits(setting.steps, max(setting.images))
    alone_on = paracore.evaluators.batched(denoiser)
    cases: dict[tuple[int, str, str], list[Record]] = {}
    alone: dict[tuple[int, str], list[float]] = {}
    exact: dict[int, torch.Tensor] = {}
    for evaluator in EVALUATORS:
        with solver_on(evaluator, denoiser, setting.steps, max(setting.images)) as solve:
            for run in range(-1, setting.runs):  # run -1 warms up
                for images in setting.images:
                    about = f"{evaluator}, {'warm-up' if run < 0 else f'run {run + 1}'}, {images} images"
                    tick(f"{about}: sequential")
                    problem = problem_of(setting.steps, images)
                    began = time.perf_counter()
                    exact[images] = paracore.sequential(problem, alone_on)
                    seconds = time.perf_counter() - began
                    if run >= 0:
                        alone.setdefault((images, evaluator), []).append(seconds)
                    for name in SAMPLERS:
                        tick(f"{about}: {name}")
                        answer = solve(name, images)
                        if run >= 0:
                            cases.setdefault((images, evaluator, name), []).append(answer)
        found["rows"] = [
            *(_sequential_row(n, setting.steps, alone) for n in setting.images),
            *(_wall_row(case, cases, alone, exact) for case in sorted(cases, key=_place(setting))),
        ]
        found["runs"] = setting.runs
        save()
    found["requests"] = {
        f"{name}, {images}": _request_sizes(denoiser, name, setting.steps, images)
        for images in setting.images
        for name in SAMPLERS
    }
    save()


def _place(setting: Setting) -> Callable[[tuple[int, str, str]], tuple[int, int, int]]:
    return lambda case: (setting.images.index(case[0]), EVALUATORS.index(case[1]), SAMPLERS.index(case[2]))


def _sequential_row(images: int, steps: int, alone: dict[tuple[int, str], list[float]]) -> Record:
    walls = [seconds for (of, _), each in alone.items() if of == images for seconds in each]
    return {
        "images": images,
        "evaluator": "batched",
        "sampler": "sequential",
        "rounds": steps,
        "evaluations": steps * images,
        "wall_s": statistics.median(walls),
        "walls_s": walls,
        "speedup": 1.0,
        "speedups": [1.0] * len(walls),
        "solver_ms_per_round": None,
        "error": 0.0,
        "difference_to_batched": None,
        "incidents": 0,
    }


def _wall_row(
    case: tuple[int, str, str],
    cases: dict[tuple[int, str, str], list[Record]],
    alone: dict[tuple[int, str], list[float]],
    exact: dict[int, torch.Tensor],
) -> Record:
    images, evaluator, name = case
    answers, beside_them = cases[case], alone[images, evaluator]
    walls = [answer["seconds"] for answer in answers]
    last = answers[-1]
    sample, beside = (torch.from_numpy(a["sample"]) for a in (last, cases[images, "batched", name][-1]))
    return {
        "images": images,
        "evaluator": evaluator,
        "sampler": name,
        "rounds": last["rounds"],
        "evaluations": last["evaluations"],
        "wall_s": statistics.median(walls),
        "walls_s": walls,
        "speedup": statistics.median(beside_them) / statistics.median(walls),
        "speedups": [one / many for one, many in zip(beside_them, walls, strict=True)],
        "solver_ms_per_round": 1000 * statistics.median(a["solver_s"] / a["rounds"] for a in answers),
        "error": statistics.mean(relative_error(sample, exact[images])),
        "difference_to_batched": max(relative_error(sample, beside)),
        "incidents": sum(a["incidents"] for a in answers),
    }


@attrs.define
class _Sizes:
    """An evaluator that notes the rows of each request."""

    inner: paracore.Evaluator
    rows: list[int] = attrs.field(factory=list)

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities

    def evaluate(self, request: paracore.Request) -> paracore.Outputs:
        self.rows.append(len(request))
        return self.inner.evaluate(request)


def _request_sizes(denoiser: paracore.Denoiser, name: str, steps: int, images: int) -> list[int]:
    noting = _Sizes(paracore.evaluators.batched(denoiser))
    paracore.solve(sampler_of(name), problem_of(steps, images), noting)
    return noting.rows


def measure_overhead(setting: Setting, found: Record, tick: Tick, save: Save) -> None:
    """Milliseconds of one ``evaluate``, in several turns of all evaluators."""
    turns = 2 if setting.quick else 4
    found["rows"] = []
    with evaluators(Halving()) as local, ranks(setting.steps, max(setting.images)) as group:
        for shape, count in setting.states:
            for window in setting.windows:
                times: dict[str, list[float]] = {name: [] for name in ("share", *EVALUATORS)}
                passed: dict[str, list[float]] = {name: [] for name in EVALUATORS}
                share = -(-window // WORKERS)
                for turn in range(turns + 1):  # turn 0 warms up
                    tick(f"overhead: {shape}, window {window}, {'warm-up' if not turn else f'turn {turn}'}")
                    each = max(1, count // turns) if turn else 2
                    for name in ("share", *EVALUATORS):
                        before = interface_bytes()
                        if name == "distributed":
                            fresh = group.ask("evaluate", shape, window, each)[0]
                        elif name == "share":
                            fresh = evaluations(local["batched"], shape, share, each)
                        else:
                            fresh = evaluations(local[name], shape, window, each)
                        after = interface_bytes()
                        if turn:
                            times[name] += fresh
                            if name != "share" and before is not None and after is not None:
                                passed[name].append((after - before) / each)
                own = statistics.median(times["share"])
                for name in EVALUATORS:
                    middle = statistics.median(times[name])
                    found["rows"].append(
                        {
                            "evaluator": name,
                            "shape": list(shape),
                            "window": window,
                            "evaluations": len(times[name]),
                            "ms": middle,
                            "ms_mean": statistics.mean(times[name]),
                            "ms_p90": sorted(times[name])[int(0.9 * len(times[name]))],
                            "share_ms": own,
                            "overhead_ms": None if name == "batched" else middle - own,
                            "over_batched_ms": middle - statistics.median(times["batched"]),
                            "state_bytes": 4 * window * _numel(shape),
                            "interface_bytes": statistics.median(passed[name]) if passed[name] else None,
                        }
                    )
                save()


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def interface_bytes() -> int | None:
    """Bytes received on all network interfaces since the machine started, the local one included; Linux counts them."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    except OSError:
        return None
    return sum(int(line.split(":")[1].split()[0]) for line in lines)


def measure_calls(setting: Setting, found: Record, tick: Tick, save: Save) -> None:
    """Milliseconds of a guided evaluation by its number of rows."""
    denoiser = digits(setting.steps, max(setting.images))
    alone: dict[int, list[float]] = {rows: [] for rows in setting.rows}
    beside: dict[int, list[float]] = {rows: [] for rows in setting.rows}
    each = max(1, setting.calls // 3)
    with ranks(setting.steps, max(setting.images)) as group:
        for turn in range(3):
            for rows in setting.rows:
                tick(f"calls: {rows} rows, turn {turn + 1}")
                alone[rows] += call_times(denoiser, rows, each)
                beside[rows] += [max(pair) for pair in zip(*group.ask("calls", rows, each), strict=True)]
    found["rows"] = [
        {"rows": r, "ms": statistics.median(alone[r]), "ms_beside_another": statistics.median(beside[r])}
        for r in setting.rows
    ]
    save()


PARTS = {"wall": measure_wall, "overhead": measure_overhead, "calls": measure_calls}


def ticks(setting: Setting) -> dict[str, int]:
    """How often each part reports."""
    solves = (setting.runs + 1) * len(setting.images) * len(EVALUATORS) * (1 + len(SAMPLERS))
    turns = 3 if setting.quick else 5
    return {
        "wall": solves,
        "overhead": len(setting.states) * len(setting.windows) * turns,
        "calls": 3 * len(setting.rows),
    }


def measure(setting: Setting, out: Path, only: list[str], resume: bool) -> Record:
    """The parts asked for; with ``resume`` those that are there with the same settings stay."""
    same = json.loads(json.dumps(attrs.asdict(setting)))
    data: Record = {"setting": same}
    if resume and out.exists():
        before = json.loads(out.read_text())
        if before.get("setting") == same:
            data = before
    told = versions()
    told.pop("platform")
    data |= {
        "steps": setting.steps,
        "guidance": GUIDANCE,
        "target": TARGET,
        "window": WINDOW,
        "workers": WORKERS,
        "default_sampler": DEFAULT_SAMPLER,
        "samplers": list(SAMPLERS),
        "versions": told,
    }
    missing = [part for part in PARTS if part in only and not (resume and data.get(part, {}).get("complete"))]
    out.parent.mkdir(parents=True, exist_ok=True)
    counts = ticks(setting)
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console()) as progress:
        task = progress.add_task("starting", total=sum(counts[part] for part in missing))
        for part in missing:
            data[part] = {"complete": False}

            def tick(text: str) -> None:
                progress.update(task, advance=1, description=text)

            began = time.perf_counter()
            PARTS[part](setting, data[part], tick, lambda: write_json(out, data))
            data[part] |= {"complete": True, "seconds": time.perf_counter() - began}
            write_json(out, data)
        progress.update(task, description="done")
    return data


# -- output -----------------------------------------------------------------------------------------------------------


def tables(data: Record) -> Iterator[Table]:
    """For a terminal: the same as in docs/scaling.md."""
    for title, heads, rows in scaling_report.sections(data):
        table = Table(title=title, title_justify="left")
        for i, head in enumerate(heads):
            table.add_column(head.replace("`", ""), justify="right" if i else "left")
        for row in rows:
            table.add_row(*(cell.replace("`", "") for cell in row))
        yield table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=int, help="timed runs of each solve; 5")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--resume", action="store_true", help="keep the parts that are complete")
    parser.add_argument("--quick", action="store_true", help="a trial; give --out, its figures mean nothing")
    parser.add_argument("--report", action="store_true", help="write docs/scaling.md's figures, measure nothing")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    parser.add_argument("--rank-work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        rank_main(options.rank_of, *map(int, options.rank_work.split(",")))
        return
    if options.report:
        scaling_report.write(options.out)
        return
    if options.quick and options.out == RESULTS:
        parser.error("--quick needs --out FILE: its figures must not replace those of the full run")
    only = options.only.split(",")
    if unknown := set(only) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    paracore.evaluators.keep_freed_memory()  # of the sequential sampler too
    os.environ["OMP_NUM_THREADS"] = "1"
    setting = QUICK if options.quick else FULL
    if options.runs:
        setting = attrs.evolve(setting, runs=options.runs)
    data = measure(setting, options.out, only, options.resume)
    out = console()
    for table in tables(data):
        out.print(table)
    out.print(f"-> {options.out}; python benchmarks/scaling.py --report writes docs/scaling.md")


if __name__ == "__main__":
    main()
