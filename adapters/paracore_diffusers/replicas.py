"""Copies of the networks on several devices of this process, a thread each."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch

from paracore.evaluators.crew import TIMEOUT, Crew, Job
from paracore.evaluators.devices import places_of
from paracore.evaluators.threads import DeviceThreads, OnThreads
from paracore_diffusers.calls import Call, mapped, tensors
from paracore_diffusers.sharing import shares_of, words

__all__ = ["Replicas"]


class Replicas(OnThreads, Crew[list[Call], list[Any]]):
    """Copies of the networks on several devices, each making its share of the calls.

    Only the networks that the loop calls are copied, text encoders and decoder stay where they are. Worker threads take
    over the caller's autocast, inference mode and number of CPU threads, and have a CUDA stream each.

    A replica whose call raises is given up, and its calls are made on another; if all raise, the exception is raised.
    One that gives no answer in time is given up, too: its thread is left behind, and does not keep the process alive.

    Args:
        devices: where; the first may be the pipeline's own.
        each: makes a device's share: :class:`~paracore_diffusers.execution.OneByOne` or
            :class:`~paracore_diffusers.execution.Merged`.
        timeout: seconds for one share; ``None``: for ever.

    Attributes:
        incidents: what happened to replicas, in words.

    Raises:
        ConfigurationError: for devices that cannot be used.
    """

    inline = False

    def __init__(
        self, devices: Sequence[str | torch.device], each: Callable[[], Any], timeout: float | None = TIMEOUT
    ) -> None:
        self.devices = places_of(devices if devices is not None else ())
        super().__init__(len(self.devices), timeout)
        self.incidents: list[str] = []
        self._each = [each() for _ in self.devices]
        self._copies: dict[int, tuple[Any, Any, list[Any]]] = {}
        self._known: Sequence[Call] | None = None
        self._checks: list[dict[int, Call]] = []
        self._threads = DeviceThreads(self.devices)

    @property
    def verdicts(self) -> dict[str, str]:
        """What was found about merging on the first device that is left."""
        first = next((i for i in range(self.workers) if self.is_alive(i)), 0)
        return dict(getattr(self._each[first], "verdicts", {}))

    def describe(self, worker: int) -> str:
        """Number and device."""
        return f"replica {worker} ({self.devices[worker]})"

    def run(self, calls: Sequence[Call], known: Sequence[Call]) -> None:
        """Make the calls, split over the devices in even runs.

        Raises:
            EvaluatorError: if no replica is left.
            Exception: what a network raised, if it did so on every replica that could be asked.
        """
        todo = [call for call in calls if not call.done]
        if known is not self._known:  # another run of the pipeline: its networks may have changed
            self._known = known
            self._copies = {i: kept for i, kept in self._copies.items() if kept[1] == _fingerprint(kept[0])}
            self._checks = [{} for _ in self.devices]
        for call in todo:
            self._replicas(call.module)
        shares = [share for share in shares_of(todo, self.workers) if share]
        jobs = [Job(i, share, words(share)) for i, share in enumerate(shares)]
        answers, _ = self._answers(jobs, self.incidents)
        for share, results in zip(shares, answers, strict=True):
            for call, result in zip(share, results, strict=True):
                call.result, call.done = result, True

    # -- workers ----------------------------------------------------------------------------------------------------

    def _submit(self, worker: int, ticket: int, work: list[Call]) -> None:
        known, checks = [c for c in self._known or () if id(c.module) in self._copies], self._checks[worker]
        home = next((t.device for c in work for t in tensors((c.args, c.kwargs))), self.devices[worker])
        self._threads.submit(worker, ticket, lambda: self._share(worker, work, known, checks), home, tensors)

    def _stop(self) -> None:
        super()._stop()
        self._copies.clear()

    @torch.no_grad()
    def _share(self, worker: int, share: list[Call], known: list[Call], checks: dict[int, Call]) -> list[Any]:
        """In the worker's thread: the answers to a share; ``checks``: the known calls there, moved once per run."""
        device = self.devices[worker]
        for call in known:
            if id(call) not in checks:
                checks[id(call)] = check = self._moved(call, worker, device)
                check.result, check.done = mapped(call.result, lambda t: t.to(device)), True
        there = [self._moved(call, worker, device) for call in share]
        self._each[worker].run(there, list(checks.values()))
        homes = [next((t.device for t in tensors((call.args, call.kwargs))), device) for call in share]
        return [mapped(c.result, operator.methodcaller("to", home)) for c, home in zip(there, homes, strict=True)]

    def _moved(self, call: Call, worker: int, device: torch.device) -> Call:
        args = mapped(call.args, lambda t: t.to(device))
        kwargs = mapped(call.kwargs, lambda t: t.to(device))
        return Call(self._copies[id(call.module)][2][worker], args, kwargs, call.ordinal, call.node)

    def _replicas(self, module: Any) -> None:
        kept = self._copies.get(id(module))
        if kept is None or kept[0] is not module:
            copies = [copy.deepcopy(module).to(d) if self.is_alive(i) else None for i, d in enumerate(self.devices)]
            for device in {d for d in self.devices if d.type == "cuda"}:
                torch.cuda.synchronize(device)  # workers read them on streams of their own
            self._copies[id(module)] = module, _fingerprint(module), copies


def _fingerprint(module: Any) -> Any:
    """Changes when weights are written to, layers exchanged, or plain settings of layers set."""
    held = (*module.parameters(), *module.buffers())
    weights = [(id(t), -1 if t.is_inference() else t._version) for t in held]
    kinds = (int, float, str, dict)
    settings = [
        [(k, repr(v)) for k, v in vars(p).items() if isinstance(v, kinds) and k[0] != "_"] for p in module.modules()
    ]
    return weights, settings
