"""Ray actors, on one machine or a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from paracore.errors import ConfigurationError, EvaluatorError
from paracore.evaluators.batched import Batched
from paracore.evaluators.crew import TIMEOUT, Event, WorkerLost
from paracore.evaluators.memory import keep_freed_memory_for
from paracore.evaluators.pool import Pool
from paracore.request import Denoiser, Outputs, Request

__all__ = ["RayActors", "ray"]


class RayActors(Pool):
    """Evaluates a request's rows on Ray actors, each with its own replica of the denoiser.

    Without a running Ray one is started in this process' name and ended by :meth:`close`. An actor that dies or hangs
    is replaced, ``max_restarts`` times in all, and its rows are evaluated elsewhere meanwhile. Actors on CPUs keep
    memory that is freed (:func:`keep_freed_memory`).

    Args:
        denoiser: see :class:`~paracore.Denoiser`; it is pickled once (cloudpickle) and must be importable there. With
            GPUs it is moved by its method ``to(device)``, if it has one.
        workers: how many actors; ``None``: one per GPU of the cluster if ``gpus`` is set, else one per ``cpus``.
        address: of a cluster (``"auto"``, ``"ray://host:10001"``); ``None``: ``RAY_ADDRESS``, the Ray that this
            process runs already, or a new one.
        gpus: GPUs per actor; fractions share one.
        cpus: CPUs per actor that Ray sets aside.
        threads: CPU threads of torch per actor; ``None``: as many as here, so that bits are the same.
        max_batch: most rows in one network call.
        jvp: answer tangents.
        timeout: seconds for one share, the start of a new actor included; ``None``: for ever.
        max_restarts: how many actors are replaced before they are given up.

    Raises:
        ConfigurationError: if Ray is missing or cannot be reached, or the denoiser cannot be pickled.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        workers: int | None = None,
        *,
        address: str | None = None,
        gpus: float = 0,
        cpus: float = 1,
        threads: int | None = None,
        max_batch: int | None = None,
        jvp: bool = False,
        timeout: float | None = TIMEOUT,
        max_restarts: int = 3,
    ) -> None:
        Batched(denoiser, max_batch, jvp)  # its checks
        for name, least, value in (("workers", 1, workers), ("threads", 1, threads), ("max_restarts", 0, max_restarts)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigurationError(f"{name} is {value!r}; an integer of at least {least} is needed")
        for name, share in (("gpus", gpus), ("cpus", cpus)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
                raise ConfigurationError(f"{name} is {share!r}; a number of at least 0 is needed")
        self._ray = _import()
        self._own = _connect(self._ray, address or os.environ.get("RAY_ADDRESS"), workers, gpus, cpus)
        count = workers or _fitting(self._ray, gpus, cpus)
        super().__init__(count, timeout)
        self._jvp = jvp
        try:
            self._denoiser = self._ray.put(denoiser)
        except Exception as error:
            self.close()
            raise ConfigurationError(
                f"the denoiser {type(denoiser).__name__} cannot be sent to Ray actors ({error}); make it picklable"
            ) from error
        settings = (max_batch, jvp, threads or torch.get_num_threads(), "cuda" if gpus else "cpu")
        actor: Any = self._ray.remote(_Replica)
        actor = actor.options(num_gpus=gpus, num_cpus=cpus, enable_task_events=False)
        self._make: Callable[[], Any] = lambda: actor.remote(self._denoiser, *settings)
        self._restarts = max_restarts
        self._pending: dict[Any, tuple[int, int, torch.device]] = {}
        self._actors = [self._make() for _ in range(count)]
        self._started()

    @property
    def capabilities(self) -> frozenset[str]:
        """``{"jvp"}`` if tangents are answered."""
        return frozenset({"jvp"}) if self._jvp else frozenset()

    @property
    def processes(self) -> list[int]:
        """Process ids of the actors that are left."""
        alive = [actor for actor, there in zip(self._actors, self._alive, strict=True) if there]
        return [int(pid) for pid in self._ray.get([actor.pid.remote() for actor in alive])]

    def describe(self, worker: int) -> str:
        """Number of the actor."""
        return f"worker {worker} (Ray actor)"

    def _started(self) -> None:
        try:
            self._ray.get([actor.pid.remote() for actor in self._actors], timeout=self._timeout)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            self.close()
            raise EvaluatorError(
                f"the {self._count} Ray actors did not start: {_first_line(cause)}; is there room for them, and can "
                "the denoiser be imported there?"
            ) from error

    def _submit(self, worker: int, ticket: int, work: Request) -> None:
        share = (
            work.nodes.numpy(),
            work.samples.numpy(),
            work.times.numpy(),
            _packed(work.states),
            None if work.tangents is None else _packed(work.tangents),
        )
        reference = self._actors[worker].evaluate.remote(share)  # one argument: each has its cost
        self._pending[reference] = (worker, ticket, work.states.device)

    def _wait(self, seconds: float | None) -> Sequence[Event]:
        if not self._pending:
            time.sleep(min(seconds or 0.01, 0.01))
            return []
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        found = []
        for reference in ready:
            worker, ticket, home = self._pending.pop(reference)
            found.append(Event(worker, ticket, self._answer(reference, home)))
        return found

    def _answer(self, reference: Any, home: torch.device) -> Outputs | BaseException:
        errors = self._ray.exceptions
        try:
            values, jvps, calls = self._ray.get(reference)
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError) as error:
            return WorkerLost(f"died ({_first_line(error)})")
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None)
            return cause if isinstance(cause, Exception) else error
        except errors.RayError as error:
            return WorkerLost(f"cannot be reached ({_first_line(error)})")
        return Outputs(_unpacked(values).to(home), None if jvps is None else _unpacked(jvps).to(home), calls)

    def _retire(self, worker: int) -> bool:
        self._pending = {r: w for r, w in self._pending.items() if w[0] != worker}
        self._ray.kill(self._actors[worker])
        if self._restarts < 1:
            return False
        self._restarts -= 1
        self._actors[worker] = self._make()
        return True

    def _stop(self) -> None:
        for actor in getattr(self, "_actors", []):
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()


ray = RayActors
"""An evaluator on Ray actors."""

Packed = tuple[str, tuple[int, ...], Any]
"""dtype, shape and bytes of a tensor: Ray passes numpy arrays on without copies, and numpy knows no bfloat16."""


class _Replica:
    """What runs in an actor."""

    def __init__(self, denoiser: Any, max_batch: int | None, jvp: bool, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        keep_freed_memory_for(self._device)
        if callable(getattr(denoiser, "to", None)):
            denoiser = denoiser.to(self._device)
        self._evaluator = Batched(denoiser, max_batch, jvp)

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    def evaluate(self, share: tuple[Any, Any, Any, Packed, Packed | None]) -> tuple[Packed, Packed | None, int]:
        """A share of a request: nodes, samples, times, states, tangents."""
        nodes, samples, times, states, tangents = share
        found = self._evaluator.evaluate(
            Request(
                torch.tensor(nodes),
                torch.tensor(samples),
                _unpacked(states).to(self._device),
                torch.tensor(times),
                None if tangents is None else _unpacked(tangents).to(self._device),
            )
        )
        return _packed(found.values), None if found.jvps is None else _packed(found.jvps), found.calls


def _packed(tensor: torch.Tensor) -> Packed:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), flat.view(torch.uint8).numpy()


def _unpacked(packed: Packed) -> torch.Tensor:
    dtype, shape, data = packed
    own = torch.from_numpy(np.array(data))  # what Ray hands out is read-only
    return own.view(getattr(torch, dtype)).reshape(shape)


def _import() -> Any:
    try:
        import ray as module
    except ImportError as error:
        raise ConfigurationError("Ray is not installed; pip install 'paracore[ray]'") from error
    return module


def _connect(module: Any, address: str | None, workers: int | None, gpus: float, cpus: float) -> bool:
    """Make sure that Ray runs. Returns whether it was started here."""
    if module.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:  # room for the actors that were asked for, whatever the machine has
        quiet |= {"include_dashboard": False}
        if workers is not None:
            quiet["num_cpus"] = max(int(workers * cpus + 0.999), os.cpu_count() or 1)
    else:
        quiet["address"] = address
    try:
        module.init(**quiet)
    except Exception as error:
        raise ConfigurationError(
            f"Ray at {address or 'this machine'} cannot be reached: {_first_line(error)}"
        ) from error
    return True


def _fitting(module: Any, gpus: float, cpus: float) -> int:
    there = module.cluster_resources()
    share, kind = (gpus, "GPU") if gpus else (cpus, "CPU")
    count = int(there.get(kind, 0) / share) if share else 1
    if count < 1:
        raise ConfigurationError(f"the cluster has {there.get(kind, 0):g} {kind}s, an actor needs {share:g}")
    return count


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
