"""Several devices of one machine, in one process: a replica and a thread each."""

from __future__ import annotations

import contextlib
import copy
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch

from paracore.errors import ConfigurationError
from paracore.evaluators.batched import Batched
from paracore.evaluators.pool import TIMEOUT, Event, Pool
from paracore.evaluators.sharding import moved
from paracore.request import Denoiser, Outputs, Request

__all__ = ["Devices", "devices", "replica"]


class Devices(Pool):
    """Evaluates a request's rows on several devices at once, each with its own replica of the denoiser.

    States move to a device once per round and outputs back once. On CUDA each replica has its own stream, so that
    transfers of one overlap with the computation of others; the result is complete when :meth:`evaluate` returns.
    Worker threads take over the caller's autocast, inference mode and number of CPU threads.

    A replica whose call raises is given up, and its rows are evaluated on another; if all raise, the exception is
    raised. A call that hangs cannot be ended from outside: its thread is left behind (it does not keep the process
    alive) and its rows go elsewhere.

    Args:
        denoiser: see :class:`~paracore.Denoiser`. With a method ``to(device)`` (every ``torch.nn.Module``) it is
            copied and moved; without one a copy must follow the device of its input.
        devices: such as ``["cuda:0", "cuda:1"]``, or ``["cpu", "cpu"]``; ``None``: every CUDA device, else the CPU.
        replicas: denoisers of one's own, one per device, instead of copies.
        max_batch: most rows in one network call.
        jvp: answer tangents.
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
        places = _places(devices)
        if replicas is not None and len(replicas) != len(places):
            raise ConfigurationError(f"{len(replicas)} replicas for {len(places)} devices; one each is needed")
        super().__init__(len(places), timeout)
        Batched(denoiser, max_batch, jvp)  # its checks, before anything is copied
        made = list(replicas) if replicas is not None else _replicas(denoiser, places)
        self.devices = places
        self._jvp = jvp
        self._done: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._inboxes: list[queue.SimpleQueue[_Order | None]] = [queue.SimpleQueue() for _ in places]
        for i, place in enumerate(places):
            evaluator = Batched(made[i], max_batch, jvp)
            arguments = (i, place, evaluator, self._inboxes[i], self._done)
            threading.Thread(target=_work, args=arguments, name=f"paracore-{place}-{i}", daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self._inboxes)

    @property
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""
        return frozenset({"jvp"}) if self._jvp else frozenset()

    def describe(self, worker: int) -> str:
        """Number and device."""
        return f"worker {worker} ({self.devices[worker]})"

    def _submit(self, worker: int, ticket: int, request: Request) -> None:
        self._inboxes[worker].put(_Order(ticket, request, _Surroundings.here(request.states.device)))

    def _wait(self, seconds: float | None) -> Sequence[Event]:
        try:
            found = [self._done.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._done.empty():
            found.append(self._done.get())
        return found

    def _retire(self, worker: int) -> bool:
        self._inboxes[worker].put(None)
        return False

    def _stop(self) -> None:
        self._finalizer()


def devices(
    denoiser: Denoiser,
    devices: Sequence[str | torch.device] | None = None,
    *,
    replicas: Sequence[Denoiser] | None = None,
    max_batch: int | None = None,
    jvp: bool = False,
    timeout: float | None = TIMEOUT,
) -> Devices:
    """An evaluator on several devices of this process; see :class:`Devices`."""
    return Devices(denoiser, devices, replicas=replicas, max_batch=max_batch, jvp=jvp, timeout=timeout)


@attrs.frozen(eq=False)
class _Surroundings:
    """What torch keeps per thread, as it is where the request comes from.

    Attributes:
        threads: CPU threads; other numbers of them give other bits.
        inference: inference mode.
        autocast: ``(device type, dtype)`` where it is on.
        stream: current stream of the states' CUDA device.
        ready: recorded on it: the states are written once it has passed.
    """

    threads: int
    inference: bool
    autocast: tuple[tuple[str, torch.dtype], ...]
    stream: Any
    ready: Any

    @classmethod
    def here(cls, device: torch.device) -> _Surroundings:
        kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        on = tuple((k, torch.get_autocast_dtype(k)) for k in kinds if torch.is_autocast_enabled(k))
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        ready = None if stream is None else stream.record_event()
        return cls(torch.get_num_threads(), torch.is_inference_mode_enabled(), on, stream, ready)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for kind, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            stack.enter_context(torch.inference_mode(self.inference))
            yield


@attrs.frozen(eq=False)
class _Order:
    ticket: int
    request: Request
    surroundings: _Surroundings


def _work(
    index: int,
    place: torch.device,
    evaluator: Batched,
    inbox: queue.SimpleQueue[_Order | None],
    done: queue.SimpleQueue[Event],
) -> None:
    """A worker's thread."""
    threads, stream = 0, None
    make_stream: Any = torch.cuda.Stream
    while (order := inbox.get()) is not None:
        answer: Outputs | BaseException
        try:
            if order.surroundings.threads != threads:
                # a new thread does not take over torch.set_num_threads in all of torch's libraries
                threads = order.surroundings.threads
                torch.set_num_threads(threads)
            if place.type == "cuda" and stream is None:
                stream = make_stream(place)
            with order.surroundings.entered():
                answer = _answer(order, place, evaluator, stream)
        except BaseException as error:
            answer = error
        done.put(Event(index, order.ticket, answer))
        del order, answer  # nothing of a request is kept while waiting


def _answer(order: _Order, place: torch.device, evaluator: Batched, stream: Any) -> Outputs:
    home, around = order.request.states.device, order.surroundings
    if stream is None:
        if around.ready is not None:
            around.ready.synchronize()
        found = evaluator.evaluate(moved(order.request, place))
        return _back(found, home)
    with torch.cuda.device(place), torch.cuda.stream(stream):
        if around.ready is not None:
            stream.wait_event(around.ready)
        found = _back(evaluator.evaluate(moved(order.request, place)), home)
        stream.synchronize()
    if around.stream is not None:  # the memory is this stream's; it must not be reused while the caller reads it
        for tensor in (found.values, found.jvps):
            if tensor is not None:
                tensor.record_stream(around.stream)
    return found


def _back(outputs: Outputs, home: torch.device) -> Outputs:
    if outputs.values.device == home:
        return outputs
    jvps = None if outputs.jvps is None else outputs.jvps.to(home)
    return attrs.evolve(outputs, values=outputs.values.to(home), jvps=jvps)


def _end(inboxes: list[queue.SimpleQueue[_Order | None]]) -> None:
    for inbox in inboxes:
        inbox.put(None)


def _places(given: Sequence[str | torch.device] | None) -> list[torch.device]:
    if given is None:
        count = torch.cuda.device_count()
        return [torch.device("cuda", i) for i in range(count)] or [torch.device("cpu")]
    if isinstance(given, str) or not len(given):
        raise ConfigurationError(f"devices is {given!r}; a list of at least one device is needed, like ['cpu', 'cpu']")
    places = []
    for name in given:
        try:
            place = torch.device(name)
            if place.type == "cuda" and place.index is None:
                place = torch.device("cuda", torch.cuda.current_device())
            torch.zeros(1, device=place)
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise ConfigurationError(f"devices names {name!r}, which cannot be used: {first}") from error
        places.append(place)
    return places


def _replicas(denoiser: Denoiser, places: list[torch.device]) -> list[Denoiser]:
    """The denoiser itself for the first device if it is there already, copies for the others."""
    own = _device_of(denoiser)
    first = own is None or own == places[0]
    return [denoiser if first and i == 0 else replica(denoiser, place) for i, place in enumerate(places)]


def replica(denoiser: Denoiser, place: torch.device) -> Denoiser:
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


def _device_of(denoiser: Any) -> torch.device | None:
    if isinstance(denoiser, torch.nn.Module):
        for tensor in (*denoiser.parameters(), *denoiser.buffers()):
            return tensor.device
    return None
