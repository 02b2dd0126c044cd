"""The cost model of rounds on several workers, and docs/scaling.md's figures.

``python benchmarks/scaling.py --report`` writes what stands in the page between ``<!-- scaling: NAME -->`` and
``<!-- /scaling -->``, from scaling.json and device.json in benchmarks/results. No figure there is typed.

The model: a round whose request has R rows takes, on k workers, ``t(ceil(R / k)) + overhead(bytes) + sampler``, with
``t(m)`` the time of a network call with m rows. A solve takes the sum over its rounds.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
DEVICE = ROOT / "benchmarks" / "results" / "device.json"
PAGE = ROOT / "docs" / "scaling.md"
COMMAND = "python benchmarks/scaling.py"
PENDING = "*Not measured yet.*"
NAMES = ("wall", "overhead", "bytes", "calls", "model", "prediction")
END = "<!-- /scaling -->"
SHARED = ("devices", "distributed", "ray")
REPORT_BYTES = 7 * 8 + 240
"""What ranks of ``distributed`` tell each other in a round: seven numbers and a message."""
NUMBER_BYTES = 3 * 8
"""Node, sample and time of a row."""
GPUS = 8
ASSUMED_GB_PER_S = 20.0
"""Between the GPUs of one box; assumed."""
ASSUMED_CALL_MS = 100.0
"""Of the network that a single row fills; assumed."""
Record = dict[str, Any]
Section = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


# -- the cost model ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Curve:
    """Straight lines through measured points; on beyond the last as between the last two, never below the first."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @classmethod
    def through(cls, points: Iterable[tuple[float, float]]) -> Curve:
        ordered = sorted(points)
        return cls(tuple(p[0] for p in ordered), tuple(p[1] for p in ordered))

    def __call__(self, x: float) -> float:
        if len(self.x) == 1 or x <= self.x[0]:
            return self.y[0]
        right = min(bisect.bisect_left(self.x, x), len(self.x) - 1)
        (x0, x1), (y0, y1) = self.x[right - 1 : right + 1], self.y[right - 1 : right + 1]
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def round_ms(call: Curve, overhead: Curve, sampler: float, rows: int, workers: int, row_bytes: int) -> float:
    """Milliseconds of one round."""
    return call(math.ceil(rows / workers)) + overhead(rows * row_bytes) + sampler


def bytes_of(evaluator: str, rows: int, row_bytes: int, workers: int) -> dict[str, int]:
    """What a round moves between workers, all of them together, from shapes alone.

    Returns:
        Bytes of ``states``, ``outputs`` and ``other`` things.
    """
    share = math.ceil(rows / workers)
    if evaluator == "distributed":  # every rank receives the shares of all others
        others = workers * (workers - 1)
        return {"states": 0, "outputs": others * share * row_bytes, "other": others * REPORT_BYTES}
    if evaluator == "devices":  # the first device is where the states are
        away = rows - share
        return {"states": away * row_bytes, "outputs": away * row_bytes, "other": 0}
    return {"states": rows * row_bytes, "outputs": rows * row_bytes, "other": rows * NUMBER_BYTES}


def curves(data: Record) -> tuple[Curve, Curve, dict[str, Curve]]:
    """Calls alone, calls while the other worker computes too, and the overheads of the evaluators by bytes."""
    rows = data["calls"]["rows"]
    alone = Curve.through((r["rows"], r["ms"]) for r in rows)
    beside = Curve.through((r["rows"], r["ms_beside_another"]) for r in rows)
    overheads = {
        name: Curve.through(
            (r["state_bytes"], max(0.0, r["overhead_ms"])) for r in data["overhead"]["rows"] if r["evaluator"] == name
        )
        for name in SHARED
    }
    return alone, beside, overheads


def modelled(data: Record) -> list[tuple[Record, float]]:
    """Each measured row and the seconds that the model gives it."""
    alone, beside, overheads = curves(data)
    found = []
    for row in data["wall"]["rows"]:
        images, name, evaluator = row["images"], row["sampler"], row["evaluator"]
        if name == "sequential":
            found.append((row, row["rounds"] * alone(images) / 1000))
            continue
        own = next(
            r["solver_ms_per_round"]
            for r in data["wall"]["rows"]
            if (r["images"], r["sampler"], r["evaluator"]) == (images, name, "batched")
        )
        call, overhead, workers = alone, Curve((0.0,), (0.0,)), 1
        if evaluator in SHARED:
            call, overhead, workers = beside, overheads[evaluator], data["workers"]
        sizes = data["wall"]["requests"][f"{name}, {images}"]
        found.append((row, sum(round_ms(call, overhead, own, rows, workers, 4 * 784) for rows in sizes) / 1000))
    return found


@attrs.frozen
class Case:
    """Something to be predicted.

    Attributes:
        title: in words.
        call: milliseconds of a network call by rows of the request.
        samples: solved at once.
        window: evaluations per round and sample.
        rounds: of the solve.
        steps: N.
        sampler_ms: the sampler's own time in a round.
        row_bytes: of a state.
        measured_s: of the solve on one such device, if it was.
    """

    title: str
    call: Curve
    samples: int
    window: int
    rounds: float
    steps: int
    sampler_ms: float
    row_bytes: int
    measured_s: float | None = None


def cases(device: Record) -> list[Case]:
    """With the calls, rounds and sampler times measured on a GPU."""

    def solve(part: str) -> Record:
        found: Record = next(r for r in device[part] if (r["sampler"], r["window"]) == ("picard", 8))
        return found

    digits, transformer, size = solve("digits"), solve("transformer"), device["transformer_size"]
    guided = Curve.through((r["rows"] / 2, r["ms"]) for r in device["calls"]["digits"] if r["rows"] > 1)
    dit = Curve.through((r["rows"], r["ms"]) for r in device["calls"]["transformer"])
    name = f"transformer, {size['parameters'] / 1e6:.0f} M"
    row_bytes, own = 4 * size["tokens"] * size["channels"], transformer["solver_ms_per_round"]
    steps, rounds = size["steps"], transformer["rounds"]
    full = Curve((1.0, 2.0), (ASSUMED_CALL_MS, 2 * ASSUMED_CALL_MS))
    return [
        Case(
            "digits, guided, 1 image",
            guided,
            1,
            8,
            digits["rounds"],
            device["steps"],
            digits["solver_ms_per_round"],
            4 * 784,
            digits["wall_s"],
        ),
        Case(f"{name}, 1 sample", dit, 1, 8, rounds, steps, own, row_bytes, transformer["wall_s"]),
        *(Case(f"{name}, {n} samples", dit, n, 8, rounds, steps, own, row_bytes) for n in (4, 16, 64)),
        Case(
            f"one row fills the device ({ASSUMED_CALL_MS:g} ms a row, assumed), 1 sample",
            full,
            1,
            8,
            rounds,
            steps,
            own,
            4 * 2_000_000,
        ),
    ]


def predicted(case: Case, latency_ms: float) -> dict[str, float]:
    """Seconds: sequential on one device, samples shared out over all, and the windows on one and on all devices."""
    rows, nothing = case.samples * case.window, Curve((0.0,), (0.0,))
    received = bytes_of("distributed", rows, case.row_bytes, GPUS)["outputs"] / GPUS
    moving = Curve((0.0,), (latency_ms * math.log2(GPUS) + received / (ASSUMED_GB_PER_S * 1e6),))
    one = case.rounds * round_ms(case.call, nothing, case.sampler_ms, rows, 1, case.row_bytes)
    many = case.rounds * round_ms(case.call, moving, case.sampler_ms, rows, GPUS, case.row_bytes)
    return {
        "sequential": case.steps * case.call(case.samples) / 1000,
        "shared": case.steps * case.call(math.ceil(case.samples / GPUS)) / 1000,
        "one": one / 1000,
        "many": many / 1000,
    }


# -- the page ---------------------------------------------------------------------------------------------------------


def _size(count: float | None) -> str:
    if count is None:
        return "-"
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.0f} B"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.995 else f"{1000 * value:.0f} ms"


def _state(row: Record) -> str:
    count = math.prod(row["shape"])
    return f"{count / 1e6:.3g} M" if count >= 1e5 else str(count)


def wall_section(data: Record) -> Section:
    heads = ("sampler", "evaluator", "images", "rounds", "wall time", "speed-up", "least", "most", "error")
    rows = []
    for r in data["wall"]["rows"]:
        rows.append(
            (
                f"`{r['sampler']}`",
                "one process" if r["sampler"] == "sequential" else f"`{r['evaluator']}`",
                str(r["images"]),
                str(r["rounds"]),
                _seconds(r["wall_s"]),
                f"{r['speedup']:.2f}x",
                f"{min(r['speedups']):.2f}x",
                f"{max(r['speedups']):.2f}x",
                f"{100 * r['error']:.2f} %",
            )
        )
    return "Wall time", heads, rows


def overhead_section(data: Record) -> Section:
    heads = ("evaluator", "numbers in a row", "window", "evaluate", "mean", "one worker's rows, alone", "overhead")
    rows = [
        (
            f"`{r['evaluator']}`",
            _state(r),
            str(r["window"]),
            f"{r['ms']:.2f} ms",
            f"{r['ms_mean']:.2f} ms",
            f"{r['share_ms']:.2f} ms",
            "-" if r["overhead_ms"] is None else f"{r['overhead_ms']:.2f} ms",
        )
        for r in data["overhead"]["rows"]
    ]
    return "One round of a network that costs next to nothing", heads, rows


def bytes_section(data: Record) -> Section:
    heads = ("evaluator", "numbers in a row", "window", "states", "outputs", "other", "counted at the interfaces")
    rows = []
    for r in data["overhead"]["rows"]:
        if r["evaluator"] == "batched":
            continue
        moved = bytes_of(r["evaluator"], r["window"], 4 * math.prod(r["shape"]), data["workers"])
        sizes = (moved["states"], moved["outputs"], moved["other"], r["interface_bytes"])
        rows.append((f"`{r['evaluator']}`", _state(r), str(r["window"]), *map(_size, sizes)))
    return "Bytes of a round, 2 workers", heads, rows


def calls_section(data: Record) -> Section:
    heads = ("rows", "alone", "while the other worker computes", "over one row")
    found = data["calls"]["rows"]
    rows = [
        (
            str(r["rows"]),
            f"{r['ms']:.1f} ms",
            f"{r['ms_beside_another']:.1f} ms",
            f"{r['ms'] / found[0]['ms']:.2f}",
        )
        for r in found
    ]
    return "One guided evaluation of digits by its number of rows", heads, rows


def model_section(data: Record) -> Section:
    heads = ("sampler", "evaluator", "images", "measured", "model", "model / measured")
    rows = [
        (
            f"`{row['sampler']}`",
            "one process" if row["sampler"] == "sequential" else f"`{row['evaluator']}`",
            str(row["images"]),
            _seconds(row["wall_s"]),
            _seconds(seconds),
            f"{seconds / row['wall_s']:.2f}",
        )
        for row, seconds in modelled(data)
    ]
    return "The model against the measurement", heads, rows


def prediction_section(data: Record, device: Record) -> Section:
    heads = (
        "case",
        "rounds",
        "sequential, 1 GPU",
        f"samples shared out, {GPUS} GPUs",
        "window, 1 GPU",
        "measured there",
        f"window, {GPUS} GPUs",
        "against sequential",
        "against shared out",
    )
    rows = []
    for case in cases(device):
        found = predicted(case, latency(data))
        rows.append(
            (
                case.title,
                f"{case.rounds:g} of {case.steps}",
                _seconds(found["sequential"]),
                _seconds(found["shared"]),
                _seconds(found["one"]),
                "-" if case.measured_s is None else _seconds(case.measured_s),
                _seconds(found["many"]),
                f"{found['sequential'] / found['many']:.2f}x",
                f"{found['shared'] / found['many']:.2f}x",
            )
        )
    return f"Predicted, not measured: {GPUS} x {device['device']}", heads, rows


def latency(data: Record) -> float:
    """Milliseconds that a round of the smallest state costs with ``distributed`` and 2 workers."""
    first = min(
        (r for r in data["overhead"]["rows"] if r["evaluator"] == "distributed"), key=lambda r: r["state_bytes"]
    )
    return max(0.0, float(first["overhead_ms"]))


def complete(data: Record | None, *parts: str) -> bool:
    """Whether these parts were measured to their end."""
    return data is not None and all(data.get(part, {}).get("complete") for part in parts)


def sections(data: Record) -> list[Section]:
    """All that can be told from what was measured."""
    found = []
    if complete(data, "wall"):
        found.append(wall_section(data))
    if complete(data, "overhead"):
        found += [overhead_section(data), bytes_section(data)]
    if complete(data, "calls"):
        found.append(calls_section(data))
    if complete(data, "wall", "overhead", "calls"):
        found.append(model_section(data))
    if complete(data, "overhead"):
        found.append(prediction_section(data, json.loads(DEVICE.read_text())))
    return found


def texts(data: Record | None, device: Record) -> dict[str, str]:
    """What goes between the markers."""
    found = dict.fromkeys(NAMES, PENDING)
    if data is None:
        return found
    about = f"torch {data['versions']['torch']}, one thread per worker"
    if complete(data, "wall"):
        intro = (
            f"`{COMMAND}` ({about}; medians of {data['wall']['runs']} runs; *least*, *most*: speed-ups of single runs)"
        )
        found["wall"] = f"{intro}:\n\n{markdown(wall_section(data))}"
    if complete(data, "overhead"):
        found["overhead"] = markdown(overhead_section(data))
        found["bytes"] = markdown(bytes_section(data))
        title, heads, rows = prediction_section(data, device)
        found["prediction"] = (
            f"**{title}**, `picard`, window 8. Assumed: {latency(data) * math.log2(GPUS):.2f} ms of overhead per round "
            f"(log2({GPUS}) times what 2 gloo ranks take above) and {ASSUMED_GB_PER_S:g} GB/s between GPUs.\n\n"
            f"{markdown((title, heads, rows))}"
        )
    if complete(data, "calls"):
        found["calls"] = markdown(calls_section(data))
    if complete(data, "wall", "overhead", "calls"):
        found["model"] = markdown(model_section(data))
    return found


def markdown(section: Section) -> str:
    """A table."""
    _, heads, rows = section
    lines = [_line(heads), "|" + "---|" * len(heads), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(page: str, data: Record | None, device: Record) -> str:
    """The page with its figures.

    Raises:
        ValueError: if it lacks a pair of markers.
    """
    for name, text in texts(data, device).items():
        head, begin, rest = page.partition(f"<!-- scaling: {name} -->")
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"the page lacks <!-- scaling: {name} --> or {END}")
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


def write(results: Path = RESULTS) -> None:
    """docs/scaling.md from the results that are there."""
    data = json.loads(results.read_text()) if results.exists() else None
    PAGE.write_text(filled(PAGE.read_text(), data, json.loads(DEVICE.read_text())))
