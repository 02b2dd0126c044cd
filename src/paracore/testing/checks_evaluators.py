"""Checks of evaluators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import paracore
from paracore.evaluators import Batched
from paracore.problem import Problem
from paracore.request import Evaluator, Outputs, Request, Rows
from paracore.schemes import flow_euler
from paracore.sequential import sequential
from paracore.testing.drive import CheckFailure
from paracore.testing.problems import mixed_request
from paracore.testing.subject import Subject, subject_of

__all__ = [
    "check_evaluator_counts_calls",
    "check_evaluator_drives_a_solve",
    "check_evaluator_keeps_rows",
    "check_evaluator_products",
    "check_evaluator_raises_what_the_network_raises",
]

SIZES = (1, 2, 3, 5, 8)


class Picture:
    """A network whose rows do not depend on each other, and which knows its node, time and sample apart."""

    calls_per_evaluation = 1

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        by = (t.to(x) + 0.37 * rows.node.to(x) + 3.1 * rows.sample.to(x)).reshape(-1, *[1] * (x.ndim - 1))
        return torch.sin(x + by) * (1.0 + by)


class Guided(Picture):
    """It says that an evaluation costs two calls."""

    calls_per_evaluation = 2


class Hollow(Picture):
    """Some of its numbers are not finite."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        values = super().__call__(x, t, rows)
        return torch.where(x > 0.5, torch.full_like(values, float("nan")), values)


class Broken(Picture):
    """It raises for one node."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        if bool((rows.node == 7).any()):
            raise ZeroDivisionError("no schedule for node 7")
        return super().__call__(x, t, rows)


@contextmanager
def _open(subject: Subject, network: Any) -> Iterator[Evaluator]:
    made = subject.evaluator(network)
    try:
        yield made
    finally:
        close = getattr(made, "close", None)
        if close is not None:
            close()
            close()  # a second call does nothing


def _request(rows: int, seed: int, *, tangents: bool = False, dtype: torch.dtype = torch.float32) -> Request:
    """No row at node 7, where one of the networks raises."""
    return mixed_request(rows, seed, nodes=7, tangents=tangents, dtype=dtype)


def _same(left: torch.Tensor, right: torch.Tensor, what: str, most: float = 1e-6) -> None:
    if left.shape != right.shape or left.dtype != right.dtype:
        raise CheckFailure(f"{what}: {tuple(left.shape)} {left.dtype}; {tuple(right.shape)} {right.dtype} is needed")
    off = float((left.double() - right.double()).abs().max()) if left.numel() else 0.0
    if not off <= most * (1.0 + float(right.double().abs().max())):
        raise CheckFailure(f"{what}: outputs differ from those of the rows one by one by {off:.2g}")


def check_evaluator_keeps_rows(thing: Any) -> None:
    """Answers come in the request's order, for any number of rows, each as if it were alone."""
    subject = subject_of(thing, "evaluator")
    alone = Batched(Picture(), max_batch=1)
    with _open(subject, Picture()) as evaluator:
        if not isinstance(evaluator.capabilities, frozenset):
            raise CheckFailure(f"{subject.label}: capabilities is {type(evaluator.capabilities).__name__}; a frozenset")
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            most = 2e-2 if dtype == torch.bfloat16 else 1e-6
            for size in (*SIZES, *reversed(SIZES)):
                request = _request(size, size, dtype=dtype)
                before = [t.clone() for t in (request.states, request.nodes, request.samples, request.times)]
                found = evaluator.evaluate(request)
                where = f"{subject.label}: {size} rows of {dtype}"
                if not isinstance(found, Outputs):
                    raise CheckFailure(f"{where}: gives {type(found).__name__}; Outputs are needed")
                _same(found.values, alone.evaluate(request).values, where, most)
                after = (request.states, request.nodes, request.samples, request.times)
                if not all(map(torch.equal, before, after)):
                    raise CheckFailure(f"{where}: writes into the request")
                again = evaluator.evaluate(request)
                if not torch.equal(again.values, found.values):
                    raise CheckFailure(f"{where}: asked twice, it gives two answers")
                if again.values.data_ptr() == found.values.data_ptr():
                    raise CheckFailure(f"{where}: gives the same buffer again; a new tensor is needed each time")
                if found.jvps is not None:
                    raise CheckFailure(f"{where}: gives products that were not asked for")


def check_evaluator_counts_calls(thing: Any) -> None:
    """``calls`` counts raw network rows: as many as the request has, times what one evaluation costs."""
    subject = subject_of(thing, "evaluator")
    for network in (Picture(), Guided()):
        with _open(subject, network) as evaluator:
            for size in SIZES:
                found, needed = evaluator.evaluate(_request(size, 1)).calls, size * network.calls_per_evaluation
                if found != needed:
                    raise CheckFailure(f"{subject.label}: {found} calls for {size} rows; {needed} were made")


def check_evaluator_products(thing: Any) -> None:
    """With ``"jvp"`` among its capabilities it answers tangents with Jacobian-vector products of the same rows."""
    subject = subject_of(thing, "evaluator")
    alone = Batched(Picture(), max_batch=1, jvp=True)
    with _open(subject, Picture()) as evaluator:
        if "jvp" not in evaluator.capabilities:
            return
        for size in SIZES:
            request = _request(size, size, tangents=True, dtype=torch.float64)
            found, expected = evaluator.evaluate(request), alone.evaluate(request)
            if found.jvps is None or expected.jvps is None:
                raise CheckFailure(f"{subject.label}: gives no products, though it says that it can")
            _same(found.values, expected.values, f"{subject.label}: {size} rows with tangents")
            _same(found.jvps, expected.jvps, f"{subject.label}: {size} products", 1e-3)


def check_evaluator_raises_what_the_network_raises(thing: Any) -> None:
    """What the network raises comes through, and the evaluator can be asked again."""
    subject = subject_of(thing, "evaluator")
    with _open(subject, Broken()) as evaluator:
        request = _request(5, 2)
        request.nodes[3] = 7
        try:
            evaluator.evaluate(request)
        except ZeroDivisionError as error:
            if "node 7" not in str(error):
                raise CheckFailure(f"{subject.label}: the network's message is lost: {error}") from error
        except Exception as error:
            if "node 7" not in str(error) and "ZeroDivisionError" not in repr(error):
                raise CheckFailure(f"{subject.label}: a ZeroDivisionError became {error!r}") from error
        else:
            raise CheckFailure(f"{subject.label}: the network raised, and the evaluator gave an answer")
        fine = _request(4, 3)
        _same(
            evaluator.evaluate(fine).values, Batched(Picture()).evaluate(fine).values, f"{subject.label}: asked again"
        )


def check_evaluator_drives_a_solve(thing: Any) -> None:
    """A solve gives what it gives with rows one by one; at tolerance 0, the sequential sampler's answer."""
    subject = subject_of(thing, "evaluator")
    generator = torch.Generator().manual_seed(3)
    problem = Problem(flow_euler(8), torch.randn(3, 4, generator=generator, dtype=torch.float64))
    alone = Batched(Picture(), max_batch=1)
    with _open(subject, Picture()) as evaluator:
        for tolerance in (0.0, 1e-3):
            method = paracore.sampler("picard", window=4, tolerance=tolerance)
            found = paracore.solve(method, problem, evaluator)
            expected = paracore.solve(method, problem, alone)
            _same(found.sample, expected.sample, f"{subject.label}: a solve at tolerance {tolerance:g}")
            if found.total_rounds != expected.total_rounds:
                raise CheckFailure(f"{subject.label}: {found.total_rounds} rounds, not {expected.total_rounds}")
            if tolerance == 0:
                _same(found.sample, sequential(problem, alone), f"{subject.label}: at tolerance 0")


def check_evaluator_hands_on_nonfinite(thing: Any) -> None:
    """Numbers that are not finite are handed on where the network gave them, and nowhere else."""
    subject = subject_of(thing, "evaluator")
    with _open(subject, Hollow()) as evaluator:
        for size in (2, 5):
            request = _request(size, 4)
            found, expected = evaluator.evaluate(request).values, Batched(Hollow()).evaluate(request).values
            if not torch.equal(found.isnan(), expected.isnan()):
                raise CheckFailure(f"{subject.label}: the network gave NaN in other places than the evaluator")
