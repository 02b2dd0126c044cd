"""What stands in for a pipeline's parts while it runs in parallel. Nothing of the pipeline is changed but its
instance's own attributes, and those are put back.

* the scheduler: an instance of a subclass of its class with the same attributes; ``timesteps`` and ``step`` lead to us;
* the networks: objects that pass everything on to the network, and calls to us;
* ``enumerate`` in the pipeline's module: tells the node of an iteration as its index;
* the progress bar: moves by accepted nodes.
"""

from __future__ import annotations

import builtins
import copy
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from paracore_diffusers.errors import UnsupportedPipelineError

__all__ = ["Enumerating", "LoopDriver", "NetworkProxy", "StepOutput", "Timesteps", "guard_scheduler", "proxy_scheduler"]

RELIED_ON = (
    "SchedulerMixin._step_index",
    "DiffusionPipeline.progress_bar",
    "DiffusionPipeline.components",
    "ModularPipelineBlocks.sub_blocks",
)
"""Names of diffusers, private ones among them, that this module relies on."""


class LoopDriver(Protocol):
    """The session, as the proxies see it.

    Attributes:
        inside: whether the pipeline is in its denoising loop.
    """

    inside: bool

    def begin_loop(self, times: torch.Tensor) -> Iterator[torch.Tensor]:
        """The times to visit."""
        ...

    def on_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a step."""
        ...

    def on_scale(self, sample: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """The answer to ``scale_model_input``."""
        ...

    def on_call(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a network call."""
        ...


class Timesteps(torch.Tensor):
    """The scheduler's timesteps; iterating visits the nodes that the sampler asks for. All else is as usual."""

    driver: LoopDriver | None = None
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def wrap(times: torch.Tensor, driver: LoopDriver) -> Timesteps:
        """The same numbers, iterated by a driver."""
        wrapped = times.as_subclass(Timesteps)
        wrapped.driver = driver
        return wrapped

    def plain(self) -> torch.Tensor:
        """An ordinary tensor."""
        return self.as_subclass(torch.Tensor)

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.driver is None:
            return iter(self.plain())
        _check_caller()
        return self.driver.begin_loop(self.plain())

    def __getitem__(self, index: Any) -> Any:
        found = self.plain()[index]
        return Timesteps.wrap(found, self.driver) if isinstance(index, slice) and self.driver is not None else found

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As a tensor's."""
        moved = self.plain().to(*args, **kwargs)
        return moved if self.driver is None else Timesteps.wrap(moved, self.driver)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.plain().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain: Any = self.plain()
        return plain.__reduce_ex__(protocol)


class StepOutput(tuple[Any, ...]):
    """What ``step`` gives, as a tuple and by name."""

    @property
    def prev_sample(self) -> torch.Tensor:
        """The next state."""
        state: torch.Tensor = self[0]
        return state

    @property
    def pred_original_sample(self) -> torch.Tensor:
        """Refused.

        Raises:
            UnsupportedPipelineError: always: the data predicted at a node is known only to the sampler.
        """
        raise UnsupportedPipelineError("the pipeline reads pred_original_sample of a step; that is not served")


class Beside:
    """What a step returns beside the state. A pipeline may hand it back to ``step``, and do nothing else with it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedPipelineError(
            f"the pipeline reads what its scheduler's step returns beside the state ({name})"
        )


_PROXIES: dict[type, type] = {}


def proxy_scheduler(scheduler: Any, driver: LoopDriver) -> Any:
    """An object with the scheduler's attributes whose ``timesteps`` and ``step`` lead to a driver."""
    kind = type(scheduler)
    if kind not in _PROXIES:
        _PROXIES[kind] = _proxy_class(kind)
    proxy: Any = object.__new__(_PROXIES[kind])
    proxy.__dict__ = scheduler.__dict__
    _DRIVERS[id(proxy)] = driver
    return proxy


_DRIVERS: dict[int, LoopDriver] = {}
"""By proxy, not among its attributes: those are the scheduler's own."""


def release_scheduler(proxy: Any) -> None:
    """Forget a proxy's driver: it is an ordinary scheduler from then on."""
    _DRIVERS.pop(id(proxy), None)


def _proxy_class(kind: type) -> type:
    def timesteps(self: Any) -> Any:
        times = self.__dict__.get("timesteps")
        driver = _DRIVERS.get(id(self))
        if driver is None or not isinstance(times, torch.Tensor):
            return times
        return Timesteps.wrap(times, driver)

    def set_timesteps(self: Any, value: Any) -> None:
        self.__dict__["timesteps"] = value.plain() if isinstance(value, Timesteps) else value

    step = kind.step  # type: ignore[attr-defined]

    @functools.wraps(step)
    def served(self: Any, *args: Any, **kwargs: Any) -> Any:
        driver = _DRIVERS.get(id(self))
        if driver is None:
            raise UnsupportedPipelineError(
                "the pipeline steps a copy of its scheduler; two schedulers in one loop are not supported"
            )
        return driver.on_step(args, kwargs)

    body: dict[str, Any] = {"timesteps": property(timesteps, set_timesteps), "step": served, "__deepcopy__": _copied}
    scale = getattr(kind, "scale_model_input", None)
    if scale is not None:

        @functools.wraps(scale)
        def scaled(self: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            driver = _DRIVERS.get(id(self))
            return scale(self, sample, *args, **kwargs) if driver is None else driver.on_scale(sample, args, kwargs)

        body["scale_model_input"] = scaled
    return type(kind.__name__, (kind,), body)


def _copied(self: Any, memo: dict[int, Any]) -> Any:
    """A copy of the proxy: its ``step`` is refused, all else works."""
    new = object.__new__(type(self))
    memo[id(self)] = new
    new.__dict__ = copy.deepcopy(self.__dict__, memo)
    return new


def guard_scheduler(scheduler: Any, inside: Callable[[], bool], name: str) -> Any:
    """Another scheduler of the pipeline: stepping it inside the loop is refused."""
    kind = type(scheduler)

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if inside():
            raise UnsupportedPipelineError(
                f"the pipeline steps a second scheduler ({name}) in its loop; two joint trajectories are not supported"
            )
        return kind.step(self, *args, **kwargs)

    guarded: Any = object.__new__(type(kind.__name__, (kind,), {"step": functools.wraps(kind.step)(step)}))
    guarded.__dict__ = scheduler.__dict__
    return guarded


class NetworkProxy:
    """Passes everything on to a network, and calls to a driver."""

    def __init__(self, module: Any, driver: LoopDriver) -> None:
        object.__setattr__(self, "_paracore_module", module)
        object.__setattr__(self, "_paracore_driver", driver)
        object.__setattr__(self, "_paracore_dtype", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._paracore_driver.on_call(self._paracore_module, args, kwargs)

    @property
    def forward(self) -> Any:
        """A call without hooks, inside the loop served like one with them."""
        return self if self._paracore_driver.inside else self._paracore_module.forward

    @property
    def dtype(self) -> Any:
        """The network's, asked once per loop: it goes through all its parameters to find it."""
        if not self._paracore_driver.inside:
            return self._paracore_module.dtype
        if self._paracore_dtype is None:
            object.__setattr__(self, "_paracore_dtype", self._paracore_module.dtype)
        return self._paracore_dtype

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._paracore_module)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_paracore_module"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._paracore_module, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._paracore_module, name)

    def __getitem__(self, index: Any) -> Any:
        return self._paracore_module[index]

    def __len__(self) -> int:
        return len(self._paracore_module)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._paracore_module)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return repr(self._paracore_module)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._paracore_module, memo)


class Enumerating:
    """``enumerate`` in a pipeline's modules, while sessions run: the index of an iteration is its node.

    Everything that no session serves goes to the built-in one.
    """

    _lock = threading.Lock()
    _users: dict[int, tuple[dict[str, Any], int, Any]] = {}  # noqa: RUF012

    def __init__(self, pipe: Any) -> None:
        """The modules in which the classes of a pipeline, or of the blocks it is made of, have their methods."""
        found: dict[int, dict[str, Any]] = {}
        for base in {base: None for kind in _kinds(pipe) for base in kind.__mro__}:
            if base.__module__.partition(".")[0] in ("builtins", "torch"):
                continue
            for member in vars(base).values():
                space = getattr(inspect.unwrap(member) if callable(member) else None, "__globals__", None)
                if isinstance(space, dict):
                    found[id(space)] = space
        self._modules = list(found.values())

    def __enter__(self) -> None:
        with self._lock:
            for module in self._modules:
                where, count, before = self._users.get(id(module), (module, 0, module.get("enumerate")))
                if count == 0:
                    module["enumerate"] = functools.partial(_enumerated, before or builtins.enumerate)
                self._users[id(module)] = where, count + 1, before

    def __exit__(self, *error: object) -> None:
        with self._lock:
            for module in self._modules:
                where, count, before = self._users[id(module)]
                if count > 1:
                    self._users[id(module)] = where, count - 1, before
                    continue
                del self._users[id(module)]
                if before is None:
                    del module["enumerate"]
                else:
                    module["enumerate"] = before


def _kinds(pipe: Any) -> Iterator[type]:
    yield type(pipe)
    waiting = [v for v in vars(pipe).values() if hasattr(v, "sub_blocks")]
    while waiting:
        block = waiting.pop()
        yield type(block)
        waiting += getattr(block, "sub_blocks", {}).values()


def _check_caller() -> None:
    """Refuse a loop over timesteps in a module whose ``enumerate`` counts iterations instead of nodes."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("paracore_diffusers."):
        frame = frame.f_back
    served = frame.f_globals.get("enumerate")
    if "enumerate" in frame.f_code.co_names and getattr(served, "func", None) is not _enumerated:
        raise UnsupportedPipelineError(
            f"the pipeline's loop lies in another module ({frame.f_globals.get('__name__')}) than its class and bases; "
            "the index of its iterations cannot be served there"
        )


def _enumerated(plain: Any, iterable: Any, start: int = 0) -> Any:
    direct = isinstance(iterable, Timesteps) or hasattr(iterable, "paracore_loop")
    if direct:
        loop = iter(iterable)
        return ((start + loop.node, time) for time in loop) if hasattr(loop, "node") else plain(loop, start)
    return _Indexed(plain, iterable, start)


class _Indexed:
    """What ``enumerate`` gives of anything else: should it iterate over timesteps inside (a bar of its own around them,
    say), the index is the node too."""

    def __init__(self, plain: Any, iterable: Any, start: int) -> None:
        self._pairs, self._start = plain(iterable, start), start

    def __iter__(self) -> _Indexed:
        return self

    def __next__(self) -> tuple[int, Any]:
        index, value = next(self._pairs)
        node = getattr(value, "paracore_node", None)
        if node is None and isinstance(value, tuple):
            node = next((n for v in value if (n := getattr(v, "paracore_node", None)) is not None), None)
        return (index if node is None else self._start + node), value
