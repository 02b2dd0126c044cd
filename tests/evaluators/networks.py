"""Networks for tests of evaluators: importable, so that other processes can have them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import torch

from paracore import Rows


class Smooth:
    """``tanh(2 x + t) + sample / 10``: each row by itself, and different for each node and sample."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        shape = (-1, *[1] * (x.ndim - 1))
        return torch.tanh(2 * x + t.reshape(shape).to(x)) + rows.sample.reshape(shape).to(x) / 10


class Matrix(torch.nn.Module):
    """A layer whose bits depend on how many rows are evaluated together."""

    def __init__(self, size: int = 48) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(size, size, generator=generator) / size**0.5)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        return torch.tanh(x @ self.weight + t[:, None].to(x))


class Failing(Smooth):
    """Misbehaves in one call: the ``when``-th of those that ``marker`` lets it see.

    ``marker`` is a file that is made when it happens: it happens once among all processes and replicas.
    """

    def __init__(self, marker: Path | str, when: int, how: str) -> None:
        self.marker, self.when, self.how = str(marker), when, how
        self.calls = 0

    def __deepcopy__(self, memo: object) -> Failing:
        return Failing(self.marker, self.when, self.how)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.when and self._first():
            if self.how == "raise":
                raise RuntimeError("the device fell off the bus")
            if self.how == "hang":
                time.sleep(60)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "nan":
                return torch.full_like(x, float("nan"))
        return super().__call__(x, t, rows)

    def _first(self) -> bool:
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


class Recording(Smooth):
    """Notes the row counts of its calls, and the thread."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.threads: set[str] = set()

    def __deepcopy__(self, memo: object) -> Recording:
        return self

    def __call__(self, x: torch.Tensor, t: torch.Tensor, rows: Rows) -> torch.Tensor:
        self.sizes.append(len(x))
        self.threads.add(threading.current_thread().name)
        return super().__call__(x, t, rows)
