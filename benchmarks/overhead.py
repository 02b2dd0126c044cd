"""What the solver costs beside the network: ``python benchmarks/overhead.py``.

Three figures for Picard, and the same for the default sampler, printed as JSON:

* milliseconds per round outside the network for one digit (1 x 28 x 28, window 8): each round's median of 20 solves,
  and their mean over the rounds, since those with new differences of many rows cost more;
* passes over the window per round for a state of 2 million float32 values, window 8. Every elementwise or reducing
  torch kernel that the engine runs is seen by a ``TorchDispatchMode``; one pass is one kernel that goes once over as
  many elements as the window has (P * d). Kernels on one row count 1/P. Views and scalars count nothing. The traffic
  (all operands read and written, in windows) is given beside it;
* peak memory beside the model, in windows (P * d * 4 bytes): the highest sum of live tensor storages, sampled at every
  kernel (the engine's, the request's, and the network's input and output; the network itself allocates its output
  only).
"""

from __future__ import annotations

import json
import statistics
import time
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import paracore
from paracore.compose import DEFAULT_SAMPLER

WINDOW = 8


class Counter(TorchDispatchMode):
    """Counts kernels and their traffic in elements, and follows live storages."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0.0
        self.traffic = 0.0
        self.live: dict[int, int] = {}
        self.peak = 0
        self.counting = True

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        made = [t for t in tree_flatten(out)[0] if isinstance(t, torch.Tensor)]
        shared = {t.untyped_storage().data_ptr() for t in given}
        for tensor in made:
            self._follow(tensor)
        inplace = function._schema.name.endswith("_") or "out" in (kwargs or {})
        view = all(t.untyped_storage().data_ptr() in shared for t in made) and not inplace
        if self.counting and made and not view:
            sizes = [t.numel() for t in given + made]
            self.kernels += max(sizes)
            self.traffic += sum(sizes)
        return out

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.live:
            self.live[key] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))


def milliseconds_per_round(name: str) -> float:
    """Solver time per round for one digit, the network replaced by a cheap smooth function."""

    noise = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    problem = paracore.Problem(paracore.schemes.flow_euler(50), noise)
    evaluator = paracore.evaluators.batched(lambda x, t, rows: torch.tanh(2 * x) * t[:, None, None, None])
    sampler = paracore.sampler(name, window=WINDOW)
    solves = []
    for _ in range(20):
        state, times = sampler.start(problem), []
        while (request := sampler.request(state)) is not None:
            outputs = evaluator.evaluate(request)
            began = time.perf_counter()
            state = sampler.advance(state, outputs)
            sampler.request(state)
            times.append(1000 * (time.perf_counter() - began))
        solves.append(times)
    return statistics.mean(statistics.median(of_round) for of_round in zip(*solves, strict=True))


def passes_and_memory(name: str, elements: int = 2_000_000) -> dict[str, float]:
    """Kernels and traffic per round in windows, and peak storage in windows."""
    scheme = paracore.schemes.flow_euler(50)
    problem = paracore.Problem(scheme, torch.randn(1, elements))
    sampler = paracore.sampler(name, window=WINDOW, tolerance=0.01)
    counter = Counter()
    rounds = 0
    full = 0.0
    traffic = 0.0
    with counter, torch.no_grad():
        state = sampler.start(problem)
        while True:
            kernels, moved = counter.kernels, counter.traffic
            request = sampler.request(state)
            if request is None:
                break
            counter.counting = False
            outputs = paracore.Outputs(values=request.states * -0.9, calls=len(request))
            counter.counting = True
            rows = len(request)
            del request
            state = sampler.advance(state, outputs)
            del outputs
            if rows == WINDOW and rounds > 0:
                full = max(full, (counter.kernels - kernels) / (WINDOW * elements))
                traffic = max(traffic, (counter.traffic - moved) / (WINDOW * elements))
            rounds += 1
    return {
        "passes_per_round_max": round(full, 2),
        "traffic_in_windows_per_round_max": round(traffic, 2),
        "peak_memory_in_windows": round(counter.peak / (WINDOW * elements * 4), 2),
        "rounds": rounds,
    }


def main() -> None:
    torch.set_num_threads(1)
    data: dict[str, Any] = measure("picard")
    data["default"] = {"sampler": DEFAULT_SAMPLER, **measure(DEFAULT_SAMPLER)}
    print(json.dumps(data, indent=2))


def measure(name: str) -> dict[str, Any]:
    """All figures of one preset."""
    return {"ms_per_round_one_digit": round(milliseconds_per_round(name), 3), **passes_and_memory(name)}


if __name__ == "__main__":
    main()
