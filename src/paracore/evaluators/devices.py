"""Several devices of one machine, in one process: a replica and a thread each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import attrs
import torch

from paracore.errors import ConfigurationError
from paracore.evaluators.batched import Batched
from paracore.evaluators.crew import TIMEOUT
from paracore.evaluators.memory import device_of, keep_freed_memory_for
from paracore.evaluators.pool import Pool
from paracore.evaluators.sharding import moved
from paracore.evaluators.threads import DeviceThreads, OnThreads
from paracore.request import Denoiser, Outputs, Request

__all__ = ["Devices", "devices", "places_of", "usable_device"]


class Devices(OnThreads, Pool):
    """Evaluates a request's rows on several devices at once, each with its own replica of the denoiser.

    States move to a device once per round and outputs back once. On CUDA each replica has its own stream, so that
    transfers of one overlap with the computation of others; the result is complete when :meth:`evaluate` returns.
    Worker threads take over the caller's autocast, inference mode and number of CPU threads. With a CPU among the
    devices the process keeps memory that is freed (:func:`keep_freed_memory`).

    A replica whose call raises is given up, and its rows are evaluated on another; if all raise, the exception is
    raised. A call that hangs cannot be ended from outside: its thread is left behind (it does not keep the process
    alive) and its rows go elsewhere.

    Args:
        denoiser: see :class:`~paracore.Denoiser`. With a method ``to(device)`` (every ``torch.nn.Module``) it is
            copied and moved; without one a copy must follow the device of its input.
        devices: such as ``["cuda:0", "cuda:1"]``, or ``["cpu", "cpu"]``; ``None``: every CUDA device, else the CPU.
        replicas: denoisers of one's own, one per device, instead of copies.
        max_batch: most rows in one network call.
        jvp: answer tangents; these calls are made one at a time, since torch's forward mode is not per thread.
        timeout: seconds for one share; ``None``: for ever.

    Raises:
        ConfigurationError: for devices that cannot be used, or a denoiser that cannot be copied.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        devices: Sequence[str | torch.device] | None = None,
        *,
        replicas: Sequence[Denoiser] | None = None,
        max_batch: int | None = None,
        jvp: bool = False,
        timeout: float | None = TIMEOUT,
    ) -> None:
        places = places_of(devices)
        if replicas is not None and len(replicas) != len(places):
            raise ConfigurationError(f"{len(replicas)} replicas for {len(places)} devices; one each is needed")
        super().__init__(len(places), timeout)
        Batched(denoiser, max_batch, jvp)  # its checks, before anything is copied
        for place in places:
            keep_freed_memory_for(place)
        made = list(replicas) if replicas is not None else _replicas(denoiser, places)
        self.devices = places
        self._jvp = jvp
        self._replicas = [Batched(one, max_batch, jvp) for one in made]
        self._threads = DeviceThreads(places)

    @property
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""
        return frozenset({"jvp"}) if self._jvp else frozenset()

    def describe(self, worker: int) -> str:
        """Number and device."""
        return f"worker {worker} ({self.devices[worker]})"

    def _submit(self, worker: int, ticket: int, work: Request) -> None:
        home, place, replica = work.states.device, self.devices[worker], self._replicas[worker]

        def answer() -> Outputs:
            return _back(replica.evaluate(moved(work, place)), home)

        self._threads.submit(worker, ticket, answer, home, _tensors)


devices = Devices
"""An evaluator on several devices of this process."""


def _back(outputs: Outputs, home: torch.device) -> Outputs:
    if outputs.values.device == home:
        return outputs
    jvps = None if outputs.jvps is None else outputs.jvps.to(home)
    return attrs.evolve(outputs, values=outputs.values.to(home), jvps=jvps)


def _tensors(outputs: Outputs) -> list[torch.Tensor]:
    return [t for t in (outputs.values, outputs.jvps) if t is not None]


def places_of(given: Sequence[str | torch.device] | None) -> list[torch.device]:
    """Devices by name, each tried; ``None``: every CUDA device, else the CPU.

    Raises:
        ConfigurationError: for an empty list, or a device that cannot be used.
    """
    if given is None:
        count = torch.cuda.device_count()
        return [torch.device("cuda", i) for i in range(count)] or [torch.device("cpu")]
    if isinstance(given, str) or not len(given):
        raise ConfigurationError(f"devices is {given!r}; a list of at least one device is needed, like ['cpu', 'cpu']")
    places = []
    for name in given:
        place = usable_device(name)
        if place.type == "cuda" and place.index is None:
            place = torch.device("cuda", torch.cuda.current_device())
        places.append(place)
    return places


def usable_device(name: str | torch.device) -> torch.device:
    """A device by name, tried.

    Raises:
        ConfigurationError: if it is none, or cannot be used here.
    """
    try:
        place = torch.device(name)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # unknown, not built, meta, no name
        raise ConfigurationError(f"device {str(name)!r} cannot be used: {str(error).splitlines()[0]}") from error
    return place


def _replicas(denoiser: Denoiser, places: list[torch.device]) -> list[Denoiser]:
    """The denoiser itself for the first device if it is there already, copies for the others."""
    own = device_of(denoiser)
    first = own is None or own == places[0]
    return [denoiser if first and i == 0 else _replica(denoiser, place) for i, place in enumerate(places)]


def _replica(denoiser: Denoiser, place: torch.device) -> Denoiser:
    """A copy on a device.

    Raises:
        ConfigurationError: if it cannot be copied.
    """
    try:
        made: Any = copy.deepcopy(denoiser)
    except Exception as error:
        raise ConfigurationError(
            f"the denoiser {type(denoiser).__name__} cannot be copied ({error}); pass replicas=, one per device"
        ) from error
    there: Denoiser = made.to(place) if callable(getattr(made, "to", None)) else made
    return there
