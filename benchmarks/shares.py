"""The default sampler with other constants, on many seeds: ``python benchmarks/shares.py --window 4 stopping.row=8``.

Digits, flow-matching Euler. Each ``PART.OPTION=VALUE`` (parts: stopping, selection, jacobian, initializer) replaces an
option of the default sampler at that window; without any it is the default sampler itself. Seeds are solved in sets of
32, as many as the figures of one measurement rest on: printed is how the whole and how the sets fare, since one sample
that ends far off makes a set's mean.

    python benchmarks/shares.py --window 8 --first 160000
    python benchmarks/shares.py --window 8 --first 160000 selection.reach=14 stopping.row=10 stopping.total=4
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import attrs
import numpy as np
import torch
from digits_seeds import digits_seeds

import paracore
from paracore.harness import relative_error

SET = 32
PARTS = ("stopping", "selection", "jacobian", "initializer")
Changes = dict[str, dict[str, float | str]]
Setting = tuple[int, float, int, float]
"""Window, guidance, N, target."""


def changes(asked: list[str]) -> Changes:
    """``["stopping.row=8"]`` by part and option; whole numbers stay whole, what is no number stays a word."""
    found: Changes = {}
    for text in asked:
        name, _, value = text.partition("=")
        part, _, option = name.partition(".")
        if part not in PARTS or not option or not value:
            raise SystemExit(f"shares: {text!r} is none of PART.OPTION=VALUE; parts: {', '.join(PARTS)}")
        found.setdefault(part, {})[option] = _read(value)
    return found


def _read(value: str) -> float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def sampler(window: int, target: float, changed: Changes) -> paracore.Engine:
    """The default sampler with these options."""
    composition = paracore.sampler(window=window, tolerance=target).composition
    parts = {}
    for name, options in changed.items():
        part = getattr(composition, name)
        known = [field.name for field in attrs.fields(type(part))]
        if unknown := [option for option in options if option not in known]:
            raise SystemExit(f"shares: {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
        try:
            parts[name] = attrs.evolve(part, **options)
        except paracore.errors.ConfigurationError as error:
            raise SystemExit(f"shares: {error}") from None
    return paracore.Engine(attrs.evolve(composition, **parts))


def measure(setting: Setting, changed: Changes, first: int) -> dict[str, Any]:
    """One set of seeds: rounds, evaluations and errors, ``(32,)`` each."""
    window, guidance, steps, target = setting
    torch.set_num_threads(1)
    problem, evaluator = digits_seeds(range(first, first + SET), guidance, steps)
    result = paracore.solve(sampler(window, target, changed), problem, evaluator)
    errors = np.asarray(relative_error(result.sample, paracore.sequential(problem, evaluator)), dtype=float)
    return {"rounds": np.asarray(result.rounds), "evaluations": np.asarray(result.evaluations), "errors": errors}


def told(rounds: Any, errors: Any, steps: int) -> str:
    """Speed-up and errors in words."""
    return (
        f"{steps / rounds.mean():.2f}x, error mean {errors.mean():.2%}, median {np.median(errors):.2%}, "
        f"95th percentile {np.quantile(errors, 0.95):.2%}, largest {errors.max():.1%}"
    )


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("change", nargs="*", help="PART.OPTION=VALUE")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--target", type=float, default=0.01)
    parser.add_argument("--first", type=int, default=200000, help="first seed")
    parser.add_argument("--seeds", type=int, default=256, help="rounded up to whole sets")
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    setting = asked.window, asked.guidance, asked.steps, asked.target
    changed = changes(asked.change)
    sampler(asked.window, asked.target, changed)  # unknown options are refused before anything is measured
    work = functools.partial(measure, setting, changed)
    with ProcessPoolExecutor(asked.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        sets = list(pool.map(work, range(asked.first, asked.first + asked.seeds, SET)))
    for at, one in enumerate(sets):
        print(f"seeds from {asked.first + SET * at}: {told(one['rounds'], one['errors'], asked.steps)}")
    rounds, evaluations, errors = (
        np.concatenate([one[name] for one in sets]) for name in ("rounds", "evaluations", "errors")
    )
    kept = sum(one["errors"].mean() <= asked.target for one in sets)
    far = (errors > 5 * asked.target).sum()
    print(
        f"all {len(errors)}: {told(rounds, errors, asked.steps)}; {evaluations.mean() / asked.steps:.2f} N evaluated; "
        f"{far} above five targets; mean within the target in {kept} of {len(sets)} sets"
    )


if __name__ == "__main__":
    main()
