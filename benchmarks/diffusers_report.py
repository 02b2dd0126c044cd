"""Measures diffusers pipelines, and writes docs/diffusers.md's figures: ``python benchmarks/diffusers_report.py``.

Every tiny pipeline of the tests' catalogue (real pipeline classes, random weights) is run by itself and through
``parallelize``: exactly in float32 and bfloat16, with merged calls at tolerance 0, and with the default sampler; the
cost of recording and replaying is measured beside. Results: benchmarks/results/diffusers.json; the tables stand in
docs/diffusers.md between ``<!-- measured: diffusers-pipelines -->`` and ``<!-- /measured -->``.

``--write`` only writes the tables from the results that are there; ``--overhead`` measures the overhead alone anew.
That needs a quiet machine: it is a small difference of large times, and negative figures show how uncertain it is.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import paracore
from paracore_diffusers import UnsupportedPipelineError, parallelize
from paracore_diffusers.installation import networks_of

clock = time.process_time  # other programs on the machine do not count
ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "tests" / "adapters" / "diffusers" / "zoo.py"
RESULTS = ROOT / "benchmarks" / "results" / "diffusers.json"
PAGE = ROOT / "docs" / "diffusers.md"
BEGIN, END = "<!-- measured: diffusers-pipelines -->", "<!-- /measured -->"
STEPS, WINDOW = 6, 4
"""Of the runs that must be exact: few steps do."""
DEFAULT_STEPS, DEFAULT_WINDOW = 20, 8
OVERHEAD_STEPS, OVERHEAD_WINDOWS, REPEATS = 12, (2, 6), 3
Record = dict[str, Any]


def catalogue(path: Path) -> Any:
    """The module with the pipelines."""
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zoo"] = module
    spec.loader.exec_module(module)
    return module


# -- measuring --------------------------------------------------------------------------------------------------------


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative root-mean-square difference."""
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def measure(zoo: Any, name: str) -> Record:
    """Everything about one pipeline."""
    made = zoo.ZOO[name]()
    record: Record = {"name": name, "pipeline": type(made.pipe).__name__, "kind": made.kind}
    record["scheduler"] = type(made.pipe.scheduler).__name__
    own = zoo.run(made, STEPS)
    exact = parallelize(made.pipe, window=WINDOW, exact=True)
    try:
        record["exact_float32"] = bool(torch.equal(zoo.run(made, STEPS, through=exact), own))
    except UnsupportedPipelineError as refusal:
        record["refused"] = str(refusal)
        record["untouched"] = bool(torch.equal(zoo.run(made, STEPS), own))
        return record
    merged = parallelize(made.pipe, window=WINDOW, tolerance=0.0)
    record["merged_error"] = error(zoo.run(made, STEPS, through=merged), own)
    last = merged.last
    assert last is not None
    record |= {"nodes": last.steps, "route": last.route, "cause": last.cause, "merges": dict(last.merges)}
    many = zoo.run(made, DEFAULT_STEPS)
    default = parallelize(made.pipe, window=DEFAULT_WINDOW)
    found = zoo.run(made, DEFAULT_STEPS, through=default)
    last = default.last
    assert last is not None
    record["default"] = {
        "nodes": last.steps,
        "rounds": last.rounds,
        "evaluations": last.evaluations,
        "error": error(found, many),
        "error_estimate": last.error_estimate,
    }
    record["overhead"] = overhead(zoo, made)
    record["untouched"] = bool(torch.equal(zoo.run(made, STEPS), own))
    record["exact_bfloat16"] = exact_bfloat16(zoo, name) if made.supports_bf16 else None
    return record


def exact_bfloat16(zoo: Any, name: str) -> bool:
    """The same bits in bfloat16."""
    made = zoo.in_bfloat16(zoo.ZOO[name]())
    own = zoo.run(made, STEPS)
    exact = parallelize(made.pipe, window=WINDOW, exact=True)
    return bool(torch.equal(zoo.run(made, STEPS, through=exact), own))


class Recorded:
    """Recorded calls, made one by one: what is left beside the networks is recording and replaying."""

    inline = False

    def run(self, calls: Sequence[Any], known: Sequence[Any]) -> None:
        for call in calls:
            if not call.done:
                call.result, call.done = call.run(), True


class Timed(paracore.Sampler):
    """A sampler, and the seconds that it takes."""

    def __init__(self, inner: paracore.Sampler) -> None:
        self.inner, self.seconds = inner, 0.0

    def _clocked(self, call: Any, *args: Any, **options: Any) -> Any:
        began = clock()
        try:
            return call(*args, **options)
        finally:
            self.seconds += clock() - began

    def start(self, *args: Any, **options: Any) -> Any:
        return self._clocked(self.inner.start, *args, **options)

    def request(self, state: Any) -> Any:
        return self._clocked(self.inner.request, state)

    def advance(self, state: Any, outputs: Any) -> Any:
        return self._clocked(self.inner.advance, state, outputs)

    def result(self, *args: Any, **options: Any) -> Any:
        return self._clocked(self.inner.result, *args, **options)

    def plain(self, state: Any) -> Any:
        return self.inner.plain(state)

    def restore(self, problem: Any, data: Any) -> Any:
        return self.inner.restore(problem, data)


@contextmanager
def network_time(pipe: Any) -> Iterator[list[float]]:
    """Seconds inside the networks."""
    spent: list[float] = [0.0]
    began: list[float] = []

    def before(*_: Any) -> None:
        began.append(clock())

    def after(*_: Any) -> None:
        seconds = clock() - began.pop()
        spent[0] += 0.0 if began else seconds  # a network inside another one is counted already

    parts = networks_of(pipe).values()
    handles = [part.register_forward_pre_hook(before) for part in parts]
    handles += [part.register_forward_hook(after) for part in parts]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def overhead(zoo: Any, made: Any) -> Record:
    """Milliseconds of processor time beside networks and sampler: per evaluation, and once per call.

    Per evaluation: the difference of two widths at tolerance 0, which make the same steps with different numbers of
    evaluations, less what an iteration of the pipeline costs beside its network. Once: the scheduler's table, mostly.
    """
    more = {"output_type": "latent"} if made.pipe.components.get("vae") is not None and made.kind != "audio" else {}
    samplers = [Timed(paracore.sampler(window=w, tolerance=0.0)) for w in OVERHEAD_WINDOWS]
    fast = [parallelize(made.pipe, sampler, execution=Recorded()) for sampler in samplers]

    def beside(through: Any, steps: int = OVERHEAD_STEPS) -> float:
        for sampler in samplers:
            sampler.seconds = 0.0
        with network_time(made.pipe) as spent:
            began = clock()
            zoo.run(made, steps, through=through, **more)
            return 1e3 * (clock() - began - spent[0] - sum(sampler.seconds for sampler in samplers))

    costs: list[list[float]] = [[], [], [], []]
    for _ in range(REPEATS):
        costs[0].append(beside(made.pipe))
        costs[1].append(beside(made.pipe, 2 * OVERHEAD_STEPS))
        costs[2].append(beside(fast[0]))
        costs[3].append(beside(fast[1]))
    short, long, narrow, wide = (min(values) for values in costs)
    few, many = (one.last.evaluations for one in fast if one.last is not None)
    own = (long - short) / OVERHEAD_STEPS
    each = (wide - narrow) / max(many - few, 1)
    return {
        "ms_per_evaluation": each - own,
        "ms_own_iteration": own,
        "ms_once": narrow - each * few - (short - own * OVERHEAD_STEPS),
    }


def versions() -> dict[str, str]:
    names = ("paracore", "diffusers", "transformers", "torch")
    return {name: importlib.metadata.version(name) for name in names}


def measured(zoo: Any, names: Sequence[str]) -> Record:
    """All of them."""
    torch.set_num_threads(1)
    records = []
    for name in names:
        began = time.perf_counter()
        records.append(measure(zoo, name))
        print(f"{name}: {time.perf_counter() - began:.1f} s, {verdict(records[-1])}", file=sys.stderr, flush=True)
    settings = {
        "steps": STEPS,
        "window": WINDOW,
        "default_steps": DEFAULT_STEPS,
        "default_window": DEFAULT_WINDOW,
        "overhead_steps": OVERHEAD_STEPS,
        "overhead_windows": list(OVERHEAD_WINDOWS),
    }
    return {"versions": versions(), "settings": settings, "pipelines": records}


# -- the page ---------------------------------------------------------------------------------------------------------


def verdict(record: Record) -> str:
    """In a word."""
    if "refused" in record:
        return "refused"
    return "supported" if record["exact_float32"] and record["exact_bfloat16"] is not False else "WRONG"


def tables(data: Record) -> str:
    """What stands between the markers."""
    settings, all_ = data["settings"], data["pipelines"]
    ran = [r for r in all_ if "refused" not in r]
    half = [r for r in ran if r["exact_bfloat16"] is not None]
    merged = [r for r in ran if any(v == "merged" for v in r["merges"].values())]
    costs, once, own = (
        [r["overhead"][key] for r in ran] for key in ("ms_per_evaluation", "ms_once", "ms_own_iteration")
    )
    used = ", ".join(f"{name} {version.split('+')[0]}" for name, version in data["versions"].items())
    classes = len({r["pipeline"] for r in all_})
    exact = sum(r["exact_float32"] for r in ran), sum(r["exact_bfloat16"] for r in half)
    most = max(r["merged_error"] for r in ran)
    same = sum(r["untouched"] for r in all_)
    return "\n".join(
        [
            f"Written by `python benchmarks/diffusers_report.py` on a CPU with {used}.",
            "",
            f"{len(all_)} tiny pipelines of {classes} classes (random weights): {len(ran)} run, "
            f"{len(all_) - len(ran)} are refused. {same} of {len(all_)} gave their own bits again afterwards.",
            "",
            f"* Bit-identical in exact mode: {exact[0]} of {len(ran)} in float32, {exact[1]} of {len(half)} in "
            f"bfloat16 ({len(ran) - len(half)} cannot run in bfloat16 by themselves).",
            f"* Calls are merged in {len(merged)} of {len(ran)}; the largest error at tolerance 0 is {most:.1e}.",
            f"* Recording and replaying costs {statistics.median(costs):.2f} ms of processor time per evaluation "
            f"(median; at most {max(costs):.2f}), beside the {statistics.median(own):.2f} ms that an iteration of the "
            f"pipelines takes outside the network anyway; and {statistics.median(once):.0f} ms once per call, "
            f"mostly for the scheduler's table (N = {settings['overhead_steps']}). The sampler is not counted. "
            "The figure is a difference of large times: negative ones in the table show its uncertainty.",
            "",
            "*merged*: relative error of the output with merged calls at tolerance 0. *rounds*, *calls / N* "
            f"(evaluations), *error*: the default sampler's with window {settings['default_window']} for "
            f"{settings['default_steps']} inference steps; with random weights, so real networks differ (for a trained "
            "one see the [benchmarks](benchmarks.md)). *ms*: recording and replaying, per evaluation.",
            "",
            "| pipeline | scheduler | route | exact fp32 | exact bf16 | merged | rounds | calls / N | error | ms |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *(_row(r) for r in ran),
            "",
            "Refused, with the cause:",
            "",
            "| pipeline | cause |",
            "|---|---|",
            *(f"| {r['pipeline']} (`{r['name']}`) | {r['refused']} |" for r in all_ if "refused" in r),
        ]
    )


def _row(r: Record) -> str:
    def sign(value: bool | None) -> str:
        return "-" if value is None else "yes" if value else "**no**"

    d = r["default"]
    kept = [v for v in r["merges"].values() if v != "merged"]
    cells = [
        f"{r['pipeline']} (`{r['name']}`)",
        r["scheduler"].removesuffix("Scheduler"),
        r["route"],
        sign(r["exact_float32"]),
        sign(r["exact_bfloat16"]),
        f"{r['merged_error']:.1e}" + (" (one by one)" if kept and len(kept) == len(r["merges"]) else ""),
        f"{d['rounds']} of {d['nodes']}",
        f"{d['evaluations'] / d['nodes']:.2f}",
        f"{100 * d['error']:.2f} %",
        f"{r['overhead']['ms_per_evaluation']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def filled(page: str, data: Record) -> str:
    """The page with the tables between its markers.

    Raises:
        ValueError: if the markers are missing.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return f"{head}{BEGIN}\n{tables(data)}\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure diffusers pipelines.")
    parser.add_argument("--zoo", type=Path, default=CATALOGUE, help="the module with the pipelines")
    parser.add_argument("--only", help="names separated by commas: measured and printed, nothing is written")
    parser.add_argument("--write", action="store_true", help="write the page from the results that are there")
    parser.add_argument("--overhead", action="store_true", help="measure the overhead anew, keep everything else")
    options = parser.parse_args(arguments)
    if options.only:
        zoo = catalogue(options.zoo)
        print(json.dumps(measured(zoo, options.only.split(",")), indent=2))
        return
    if options.overhead:
        torch.set_num_threads(1)
        zoo, data = catalogue(options.zoo), json.loads(RESULTS.read_text())
        for record in data["pipelines"]:
            if "refused" not in record:
                record["overhead"] = overhead(zoo, zoo.ZOO[record["name"]]())
        RESULTS.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    elif not options.write:
        zoo = catalogue(options.zoo)
        data = measured(zoo, zoo.NAMES)
        RESULTS.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n")
    PAGE.write_text(filled(PAGE.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
