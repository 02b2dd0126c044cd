"""Seconds on one device: ``python benchmarks/device.py [--device cuda] [--size large] [--quick]``.

Rounds saved are seconds saved only where a network call with more rows costs little more than one with a single row.
Measured here, on whatever device is there:

* ``digits``: digits, 50 flow-matching steps, guidance 4, one sample at a time: the sequential sampler, the default
  sampler and Picard at several windows, and the honest rival: as many sequential evaluations as they made rounds,
  extrapolated in between (2nd order). Wall time of the whole solve, the device waited for before and after, nothing
  subtracted, median of all runs after warm-up; solver time per round from further runs in which the device is waited
  for after every network call;
* ``calls``: what one network call costs by its number of rows, for the digits network and for a transformer with
  random weights in bfloat16;
* ``transformer``: the same solves with that transformer. Its weights mean nothing, so the number of rounds is fixed;
  what counts is the cost of a round against that of a sequential step: their ratio is the speed-up in rounds at which
  parallel sampling breaks even on this device.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from rich.table import Table

import paracore
from paracore.cli.output import console, versions, write_json
from paracore.compose import DEFAULT_SAMPLER
from paracore.harness import relative_error

RESULTS = Path(__file__).parent / "results" / "device.json"
STEPS = 50
WINDOWS = (4, 8, 16)
ROWS = (1, 2, 4, 8, 16, 32, 64)
FIRST_SEED = 3100
GUIDANCE = 4.0


@attrs.frozen
class Size:
    """Of the transformer: ``tokens`` of ``channels`` numbers each are one sample."""

    hidden: int
    layers: int
    tokens: int
    channels: int = 16


SIZES = {"small": Size(128, 4, 64), "medium": Size(512, 12, 256), "large": Size(1024, 16, 256)}


class Transformer(torch.nn.Module):
    """A denoiser in the shape of a diffusion transformer, with random weights, computing in bfloat16."""

    frequencies: torch.Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(size.channels, size.hidden)
        self.place = torch.nn.Parameter(torch.randn(1, size.tokens, size.hidden) * 0.02)
        self.time = torch.nn.Sequential(
            torch.nn.Linear(256, size.hidden), torch.nn.SiLU(), torch.nn.Linear(size.hidden, size.hidden)
        )
        layer = torch.nn.TransformerEncoderLayer(
            size.hidden, size.hidden // 64, 4 * size.hidden, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.body = torch.nn.TransformerEncoder(layer, size.layers, enable_nested_tensor=False)
        self.head = torch.nn.Sequential(torch.nn.LayerNorm(size.hidden), torch.nn.Linear(size.hidden, size.channels))
        frequencies = torch.exp(torch.linspace(0.0, math.log(1000.0), 128))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: paracore.Rows | None = None) -> torch.Tensor:
        """``x (M, tokens, channels)``, ``t (M,)`` -> ``(M, tokens, channels)`` in the dtype of ``x``."""
        angle = t[:, None] * self.frequencies.to(t.dtype)  # in bfloat16 neighbouring steps would see one time
        when = self.time(torch.cat([angle.sin(), angle.cos()], dim=1).to(torch.bfloat16))
        h = self.embed(x.to(torch.bfloat16)) + self.place + when[:, None]
        out: torch.Tensor = self.head(self.body(h))
        return out.to(x.dtype)


@attrs.frozen
class Setting:
    """How much is measured.

    Attributes:
        device: where.
        seeds: samples, each solved alone.
        runs: timed runs of each.
        calls: timed calls at each number of rows.
        rows: numbers of rows.
        windows: evaluations per round.
        size: of the transformer.
        steps: N of the transformer's solves.
    """

    device: torch.device
    seeds: int
    runs: int
    calls: int
    rows: tuple[int, ...]
    windows: tuple[int, ...]
    size: Size
    steps: int

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Of one run, all of it."""
        self.wait()
        began = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - began


@attrs.frozen
class Waiting:
    """An evaluator that returns when the device is done, so that a solve's ``solver_time`` is the solver's alone."""

    inner: paracore.Evaluator
    setting: Setting

    @property
    def capabilities(self) -> frozenset[str]:
        return self.inner.capabilities

    def evaluate(self, request: paracore.Request) -> paracore.Outputs:
        self.setting.wait()
        outputs = self.inner.evaluate(request)
        self.setting.wait()
        return outputs


Case = tuple[paracore.Problem, paracore.Evaluator]
Rows = list[dict[str, Any]]


# -- whole solves -------------------------------------------------------------------------------------------------


def solves(setting: Setting, cases: list[Case], samplers: list[tuple[str, int, paracore.Sampler]], rival: bool) -> Rows:
    """A row for the sequential sampler, and one for each sampler, with its rival's figures."""
    steps = cases[0][0].scheme.steps
    references = [paracore.sequential(problem, evaluator) for problem, evaluator in cases]  # and warm-up
    walls = _walls(setting, [partial(paracore.sequential, *case) for case in cases])
    one = {"sampler": "sequential", "window": 1, "rounds": float(steps), "evaluations": float(steps), "error": 0.0}
    rows: Rows = [{**one, **_timing(walls, steps, None), "solver_ms_per_round": None, "rival": None}]
    for name, window, sampler in samplers:
        results = [paracore.solve(sampler, problem, evaluator) for problem, evaluator in cases]
        walls = _walls(setting, [partial(paracore.solve, sampler, *case) for case in cases])
        own = [paracore.solve(sampler, problem, Waiting(evaluator, setting)) for problem, evaluator in cases]
        errors = [relative_error(r.sample, x)[0] for r, x in zip(results, references, strict=True)]
        rounds = statistics.mean(r.total_rounds for r in results)
        row = {
            "sampler": name,
            "window": window,
            "rounds": rounds,
            "evaluations": statistics.mean(float(r.evaluations.sum()) for r in results),
            "error": statistics.mean(errors),
            **_timing(walls, rounds, rows[0]),
            "solver_ms_per_round": 1000 * statistics.median(r.solver_time / r.total_rounds for r in own),
            "rival": _rival(setting, cases, references, rounds) if rival else None,
        }
        rows.append(row)
    return rows


def _walls(setting: Setting, runs: list[Callable[[], Any]]) -> list[float]:
    """Seconds of all runs; in turn, so that a slow moment of the machine meets all cases."""
    return [setting.seconds(run) for _ in range(setting.runs) for run in runs]


def _timing(walls: list[float], rounds: float, sequential: dict[str, Any] | None) -> dict[str, Any]:
    """Median, extremes, and the cost of a round against that of a sequential step."""
    wall = statistics.median(walls)
    each = 1000 * wall / rounds
    return {
        "wall_s": wall,
        "wall_s_least": min(walls),
        "wall_s_most": max(walls),
        "ms_per_round": each,
        "speedup_wall": 1.0 if sequential is None else sequential["wall_s"] / wall,
        "speedup_rounds": 1.0 if sequential is None else sequential["rounds"] / rounds,
        "round_over_step": 1.0 if sequential is None else each / sequential["ms_per_round"],
    }


def _rival(setting: Setting, cases: list[Case], references: list[torch.Tensor], rounds: float) -> dict[str, Any]:
    """As many evaluations in a row as there were rounds."""
    count = round(rounds)
    found = [paracore.skipping(problem, evaluator, count) for problem, evaluator in cases]
    walls = _walls(setting, [partial(paracore.skipping, *case, count) for case in cases])
    errors = [relative_error(x, y)[0] for x, y in zip(found, references, strict=True)]
    return {"evaluations": count, "wall_s": statistics.median(walls), "error": statistics.mean(errors)}


def digits(setting: Setting) -> Rows:
    """Sequential, default and Picard on digits."""
    model, scheme = paracore.registry.make("model", "digits"), paracore.schemes.flow_euler(STEPS)
    cases: list[Case] = []
    for seed in range(setting.seeds):
        generator = torch.Generator().manual_seed(FIRST_SEED + seed)
        x0 = torch.randn(1, *model.shape, generator=generator).to(setting.device)
        label = torch.tensor([seed % model.classes])
        evaluator = paracore.evaluators.batched(model.denoiser(scheme, label, GUIDANCE))
        cases.append((paracore.Problem(scheme, x0), evaluator))
    names = (DEFAULT_SAMPLER, "picard")
    samplers = [(name, w, paracore.sampler(name, window=w)) for name in names for w in setting.windows]
    return solves(setting, cases, samplers, rival=True)


def transformer_solves(setting: Setting, network: Transformer) -> Rows:
    """Sequential, and Picard and the default sampler with ``3 N / (2 window)`` rounds: about 1.5 N evaluations."""
    scheme = paracore.schemes.flow_euler(setting.steps)
    shape = (1, setting.size.tokens, setting.size.channels)
    x0 = torch.randn(shape, generator=torch.Generator().manual_seed(FIRST_SEED)).to(setting.device)
    case = (paracore.Problem(scheme, x0), paracore.evaluators.batched(network))
    samplers = []
    for name in ("picard", DEFAULT_SAMPLER):
        for window in setting.windows:
            rule = f"fixed-rounds(rounds={-(-3 * setting.steps // (2 * window))})"
            samplers.append((name, window, paracore.sampler(name, window=window, stopping=rule)))
    return solves(setting, [case], samplers, rival=False)


# -- single calls -------------------------------------------------------------------------------------------------


@torch.no_grad()
def calls(setting: Setting, call: Callable[[int], Any]) -> Rows:
    """Median milliseconds of one network call by its number of rows."""
    found: Rows = []
    for rows in setting.rows:
        for _ in range(2 if setting.device.type == "cpu" else 5):
            call(rows)
        times = [1000 * setting.seconds(partial(call, rows)) for _ in range(setting.calls)]
        each = statistics.median(times)
        one = each if not found else found[0]["ms"]
        found.append({"rows": rows, "ms": each, "over_one_row": each / one, "ms_per_row": each / rows})
    return found


def digits_call(setting: Setting) -> Callable[[int], Any]:
    """The digits network, without guidance: a guided evaluation is two rows."""
    network = paracore.registry.make("model", "digits").network(torch.float32, setting.device)
    given = {
        n: (
            torch.randn(n, 1, 28, 28).to(setting.device),
            torch.linspace(0.1, 1.0, n).to(setting.device),
            (torch.arange(n) % 10).to(setting.device),
        )
        for n in setting.rows
    }
    return lambda n: network(*given[n])


def transformer_call(setting: Setting, network: Transformer) -> Callable[[int], Any]:
    """The transformer."""
    shape = (setting.size.tokens, setting.size.channels)
    given = {
        n: (torch.randn(n, *shape).to(setting.device), torch.linspace(0.1, 1.0, n).to(setting.device))
        for n in setting.rows
    }
    return lambda n: network(*given[n])


# -- output -------------------------------------------------------------------------------------------------------


def solve_table(title: str, rows: Rows) -> Table:
    """Solves for a terminal."""
    table = Table(title=title, title_justify="left")
    heads = ("window", "rounds", "evals", "wall ms", "speed-up", "in rounds", "ms/round", "round/step", "solver ms")
    table.add_column("sampler")
    for head in (*heads, "error", "rival ms", "rival error"):
        table.add_column(head, justify="right")
    for row in rows:
        rival, own = row["rival"], row["solver_ms_per_round"]
        table.add_row(
            row["sampler"],
            str(row["window"]),
            f"{row['rounds']:.1f}",
            f"{row['evaluations']:.0f}",
            f"{1000 * row['wall_s']:.1f}",
            f"{row['speedup_wall']:.2f}x",
            f"{row['speedup_rounds']:.2f}x",
            f"{row['ms_per_round']:.2f}",
            f"{row['round_over_step']:.2f}",
            "-" if own is None else f"{own:.2f}",
            f"{100 * row['error']:.2f} %",
            "-" if rival is None else f"{1000 * rival['wall_s']:.1f}",
            "-" if rival is None else f"{100 * rival['error']:.2f} %",
        )
    return table


def call_table(found: dict[str, Rows]) -> Table:
    """Single calls for a terminal."""
    table = Table(title="One network call by its number of rows: ms (over one row)", title_justify="left")
    table.add_column("network")
    for row in next(iter(found.values())):
        table.add_column(str(row["rows"]), justify="right")
    for name, rows in found.items():
        table.add_row(name, *(f"{r['ms']:.2f} ({r['over_one_row']:.2f})" for r in rows))
    return table


def device_name(device: torch.device) -> str:
    """What the device is called; of a processor only the kind is known."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measure(setting: Setting) -> dict[str, Any]:
    """Everything, ready for JSON."""
    torch.manual_seed(FIRST_SEED)
    torch.backends.mha.set_fastpath_enabled(False)  # the path that training and compilers use
    network = Transformer(setting.size).to(setting.device, torch.bfloat16).eval().requires_grad_(False)
    return {
        "device": device_name(setting.device),
        "cuda": torch.version.cuda,
        "versions": versions(),
        "steps": STEPS,
        "guidance": GUIDANCE,
        "seeds": setting.seeds,
        "runs": setting.runs,
        "transformer_size": {
            **attrs.asdict(setting.size),
            "parameters": sum(p.numel() for p in network.parameters()),
            "dtype": "bfloat16",
            "steps": setting.steps,
        },
        "digits": digits(setting),
        "calls": {
            "digits": calls(setting, digits_call(setting)),
            "transformer": calls(setting, transformer_call(setting, network)),
        },
        "transformer": transformer_solves(setting, network),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=sorted(SIZES), help="of the transformer; large, or small with --quick")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="fewer seeds, runs and rows, a small transformer")
    options = parser.parse_args()
    size = SIZES[options.size or ("small" if options.quick else "large")]
    device = torch.device(options.device)
    if options.quick:
        setting = Setting(device, 1, 2, 5, ROWS[:5], WINDOWS[:2], size, 16)
    else:
        setting = Setting(device, 4, 3, 20, ROWS, WINDOWS, size, STEPS)
    began = time.perf_counter()
    data = measure(setting)
    data["seconds"] = time.perf_counter() - began
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, data)
    out = console()
    out.print(f"{data['device']}, torch {data['versions']['torch']}, {data['seconds']:.0f} s -> {options.out}")
    out.print(solve_table(f"Digits, N = {STEPS}, guidance {GUIDANCE:g}, {setting.seeds} seed(s)", data["digits"]))
    out.print(call_table(data["calls"]))
    many = data["transformer_size"]["parameters"] / 1e6
    title = f"Transformer, {many:.0f} M random weights, bfloat16, N = {setting.steps}, rounds fixed"
    out.print(solve_table(title, data["transformer"]))


if __name__ == "__main__":
    main()
