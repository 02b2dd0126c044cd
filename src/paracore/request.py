"""What a sampler asks of an evaluator, and what comes back."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import attrs
import torch

__all__ = ["Denoiser", "Evaluator", "Outputs", "Request", "Rows"]


@attrs.frozen(eq=False)
class Rows:
    """Which node and sample each row of a network call belongs to.

    Attributes:
        node: ``(M,)`` int64, node of each row, 0 .. N-1.
        sample: ``(M,)`` int64, index of each row's sample in the problem's batch: pick per-sample conditions with it.
    """

    node: torch.Tensor
    sample: torch.Tensor


@attrs.frozen(eq=False)
class Request:
    """Evaluate the network at these nodes, for these samples, at these states.

    Attributes:
        nodes: ``(M,)`` int64 on the CPU.
        samples: ``(M,)`` int64 on the CPU.
        states: ``(M, *event)`` in the problem's dtype, on its device. Read-only.
        times: ``(M,)`` float64 on the CPU, the scheme's time of each row.
        tangents: ``(M, *event)`` directions for Jacobian-vector products, or ``None``.
    """

    nodes: torch.Tensor
    samples: torch.Tensor
    states: torch.Tensor
    times: torch.Tensor
    tangents: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.nodes)


@attrs.frozen(eq=False)
class Outputs:
    """The answer to a :class:`Request`.

    Attributes:
        values: ``(M, *event)`` network outputs, rows in the request's order.
        jvps: ``(M, *event)`` Jacobian-vector products, if tangents were given.
        calls: raw network calls made, counted in rows: a guided evaluation makes two.
        incidents: what went wrong and was mended on the way (a worker that died, say), one sentence each.
    """

    values: torch.Tensor
    jvps: torch.Tensor | None = None
    calls: int = 0
    incidents: tuple[str, ...] = ()


class Denoiser(Protocol):
    """Any callable ``denoiser(x, t, rows)``: ``x (M, *event)``, ``t (M,)`` -> ``(M, *event)``.

    It must return a new tensor each time, not a buffer that it writes again. An attribute ``calls_per_evaluation``
    (int, default 1) says how many raw network rows one evaluation costs.
    """

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows, /) -> torch.Tensor: ...


@runtime_checkable
class Evaluator(Protocol):
    """Answers requests. ``capabilities`` is a set of names; ``"jvp"`` means that tangents are answered.

    Optional: ``begin(problem) -> Problem`` is called once before a solve starts (an evaluator over several processes
    makes them agree on the problem there), ``broadcast(data)`` gives all of these processes the first one's plain data,
    ``main`` says whether this one writes files, and ``close()`` ends workers.
    """

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do beyond values."""
        ...

    def evaluate(self, request: Request) -> Outputs:
        """Evaluate all rows; the answer's rows are in the request's order."""
        ...
