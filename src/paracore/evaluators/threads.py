"""A thread per device, in the surroundings of the thread that asks."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
import torch

from paracore.evaluators.crew import Event

__all__ = ["DeviceThreads", "OnThreads", "Surroundings"]


@attrs.frozen(eq=False)
class Surroundings:
    """What torch keeps per thread, as it is where work comes from.

    Attributes:
        threads: CPU threads; other numbers of them give other bits.
        inference: inference mode.
        autocast: ``(device type, dtype)`` where it is on.
        stream: current stream of the CUDA device that tensors lie on.
        ready: recorded on it: the tensors are written once it has passed.
    """

    threads: int
    inference: bool
    autocast: tuple[tuple[str, torch.dtype], ...]
    stream: Any
    ready: Any

    @classmethod
    def here(cls, device: torch.device) -> Surroundings:
        """Those of this thread; ``device``: where the tensors of the work lie."""
        kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        on = tuple((k, torch.get_autocast_dtype(k)) for k in kinds if torch.is_autocast_enabled(k))
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        ready = None if stream is None else stream.record_event()
        return cls(torch.get_num_threads(), torch.is_inference_mode_enabled(), on, stream, ready)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Autocast and inference mode in this thread."""
        with contextlib.ExitStack() as stack:
            for kind, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype))
            stack.enter_context(torch.inference_mode(self.inference))
            yield


class OnThreads:
    """A crew (mixed into it) whose workers are threads. A thread that was given up is not replaced."""

    _threads: DeviceThreads

    def _wait(self, seconds: float | None) -> Sequence[Event]:
        return self._threads.wait(seconds)

    def _retire(self, worker: int) -> bool:
        self._threads.retire(worker)
        return False

    def _stop(self) -> None:
        self._threads.stop()


@attrs.frozen(eq=False)
class _Order:
    ticket: int
    function: Callable[[], Any]
    tensors: Callable[[Any], Iterable[torch.Tensor]]
    around: Surroundings


class DeviceThreads:
    """A daemon thread per device that runs functions there, on a stream of its own on CUDA.

    Threads that hang are left behind and do not keep the process alive; all end when this object is dropped.
    """

    def __init__(self, places: Sequence[torch.device]) -> None:
        self._done: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._inboxes: list[queue.SimpleQueue[_Order | None]] = [queue.SimpleQueue() for _ in places]
        for i, place in enumerate(places):
            arguments = (i, place, self._inboxes[i], self._done)
            threading.Thread(target=_work, args=arguments, name=f"paracore-{place}-{i}", daemon=True).start()
        self._finalizer = weakref.finalize(self, _end, self._inboxes)

    def submit(
        self,
        worker: int,
        ticket: int,
        function: Callable[[], Any],
        home: torch.device,
        tensors: Callable[[Any], Iterable[torch.Tensor]],
    ) -> None:
        """Run a function in a worker's thread; its answer, or what it raised, comes out of :meth:`wait`.

        Args:
            worker: which.
            ticket: of the answer.
            function: its tensors may lie on any device; what it reads was written in this thread's current stream.
            home: device of its inputs, and of the tensors of its answer.
            tensors: those of its answer: complete when it comes.
        """
        self._inboxes[worker].put(_Order(ticket, function, tensors, Surroundings.here(home)))

    def wait(self, seconds: float | None) -> Sequence[Event]:
        """Answers that came; none if the time is over."""
        try:
            found = [self._done.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._done.empty():
            found.append(self._done.get())
        return found

    def retire(self, worker: int) -> None:
        """End one thread, once it has done what it is doing."""
        self._inboxes[worker].put(None)

    def stop(self) -> None:
        """End all."""
        self._finalizer()


def _work(
    index: int, place: torch.device, inbox: queue.SimpleQueue[_Order | None], done: queue.SimpleQueue[Event]
) -> None:
    """A worker's thread."""
    threads, stream = 0, None
    make_stream: Any = torch.cuda.Stream
    while (order := inbox.get()) is not None:
        answer: Any
        try:
            if order.around.threads != threads:
                # a new thread does not take over torch.set_num_threads in all of torch's libraries
                threads = order.around.threads
                torch.set_num_threads(threads)
            if place.type == "cuda" and stream is None:
                stream = make_stream(place)
            with order.around.entered():
                answer = _answer(order, place, stream)
        except BaseException as error:
            answer = error
        done.put(Event(index, order.ticket, answer))
        del order, answer  # nothing of it is kept while waiting


def _answer(order: _Order, place: torch.device, stream: Any) -> Any:
    around = order.around
    if stream is None:
        if around.ready is not None:
            around.ready.synchronize()
        return order.function()
    with torch.cuda.device(place), torch.cuda.stream(stream):
        if around.ready is not None:
            stream.wait_event(around.ready)
        found = order.function()
        stream.synchronize()
    if around.stream is not None:  # the memory is this stream's; it must not be reused while the caller reads it
        for tensor in order.tensors(found):
            tensor.record_stream(around.stream)
    return found


def _end(inboxes: list[queue.SimpleQueue[_Order | None]]) -> None:
    for inbox in inboxes:
        inbox.put(None)
