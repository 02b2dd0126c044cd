"""Putting the stand-ins into a pipeline for the time of one call, and taking them out again whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from paracore.errors import ConfigurationError
from paracore_diffusers.errors import UnsupportedPipelineError
from paracore_diffusers.proxies import (
    Enumerating,
    NetworkProxy,
    guard_scheduler,
    proxy_scheduler,
    release_scheduler,
)
from paracore_diffusers.session import Session

__all__ = ["check_network", "installed", "networks_of"]

RELIED_ON = (
    "ModelMixin.is_cache_enabled",
    "HookRegistry.hooks",
    "ModelHook._is_stateful",
    "Module._diffusers_hook",
    "DiffusionPipeline._interrupt",
)
"""Names of diffusers that this module relies on."""

_RUNNING: set[int] = set()
_LOCK = threading.Lock()


def networks_of(pipe: Any) -> dict[str, Any]:
    """The components that may be called in the loop: networks that are neither text encoders nor decoders."""
    found = {}
    for name, part in _components(pipe).items():
        if not isinstance(part, torch.nn.Module) or hasattr(part, "decode"):
            continue
        home = type(getattr(part, "_orig_mod", part)).__module__
        if not home.startswith("transformers."):
            found[name] = part
    return found


def _components(pipe: Any) -> dict[str, Any]:
    components = getattr(pipe, "components", None)
    return dict(components) if isinstance(components, dict) else {}


def check_network(module: Any) -> None:
    """Refuse a network whose answers depend on earlier calls.

    Raises:
        UnsupportedPipelineError: naming the cache or the setting, and what to do.
    """
    name = type(module).__name__
    if getattr(module, "is_cache_enabled", False):
        raise UnsupportedPipelineError(
            f"{name} has a cache switched on (enable_cache): it reuses answers of earlier steps, and steps are "
            "evaluated together here; call disable_cache() first"
        )
    for part in module.modules():
        registry = part.__dict__.get("_diffusers_hook")
        for title, hook in getattr(registry, "hooks", {}).items():
            if getattr(hook, "_is_stateful", False):
                raise UnsupportedPipelineError(
                    f"{name} has the stateful hook {title!r} (a cache over steps): steps are evaluated together here; "
                    "remove it first"
                )
    noisy = [p for p in module.modules() if isinstance(p, torch.nn.modules.dropout._DropoutNd) and p.p > 0]
    if any(p.training for p in noisy):
        raise UnsupportedPipelineError(f"{name} is in training mode with dropout: call .eval() first")


@contextmanager
def installed(pipe: Any, session: Session) -> Iterator[None]:
    """The pipeline with stand-ins, for one call.

    Raises:
        UnsupportedPipelineError: if it has no scheduler with ``step`` and timesteps.
        ConfigurationError: if a run of the same pipeline is under way.
    """
    scheduler = session.scheduler
    if scheduler is None or not hasattr(scheduler, "step") or not hasattr(scheduler, "set_timesteps"):
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} has no scheduler with step() and set_timesteps(): {type(scheduler).__name__}"
        )
    own = vars(pipe)
    held: dict[str, Any] = {}
    proxy = proxy_scheduler(scheduler, session)

    def replace(name: str, value: Any) -> None:
        held.setdefault(name, own.get(name, _MISSING))
        own[name] = value

    def put_back(names: Iterable[str]) -> None:
        for name in names:
            value = held.pop(name)
            if value is _MISSING:
                own.pop(name, None)
            else:
                own[name] = value

    flag = _Interrupt(pipe)
    bars = _Bars(pipe, session)

    def ended() -> None:
        flag.put_back()
        # What comes after the loop (offloading, say) meets the networks themselves.
        put_back([n for n in held if type(own.get(n)) is NetworkProxy])

    session.interrupted, session.ended, session.progressed = flag.raised, ended, bars.moved
    kept = dict(vars(scheduler))
    done = False
    with _LOCK:
        if id(pipe) in _RUNNING:
            release_scheduler(proxy)
            raise ConfigurationError("this pipeline is running in parallel already; wait, or use another instance")
        _RUNNING.add(id(pipe))
    try:
        checked: set[int] = set()

        def check(module: Any) -> None:
            if id(module) not in checked:
                check_network(module)
                checked.add(id(module))

        session.calls.check = check
        for name, part in _components(pipe).items():
            if part is scheduler:
                replace(name, proxy)
            elif hasattr(part, "set_timesteps") and hasattr(type(part), "step"):
                replace(name, guard_scheduler(part, lambda: session.inside, name))
        replace("scheduler", proxy)
        for name, part in networks_of(pipe).items():
            replace(name, NetworkProxy(part, session))
        if callable(getattr(pipe, "progress_bar", None)):
            replace("progress_bar", bars.make)
        with Enumerating(pipe):
            yield
        done = True
    finally:
        put_back(list(held))
        release_scheduler(proxy)
        flag.put_back()
        try:
            bars.close()
            session.close()
        finally:
            if not done:
                vars(scheduler).clear()
                vars(scheduler).update(kept)
            with _LOCK:
                _RUNNING.discard(id(pipe))


class _Missing:
    pass


_MISSING = _Missing()


class _Interrupt:
    """``pipe.interrupt``: noted, and hidden from the pipeline until its loop has ended."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._noted = False

    def raised(self) -> bool:
        """Whether the user interrupts."""
        if vars(self._pipe).get("_interrupt"):
            self._noted = True
            self._pipe._interrupt = False
        return self._noted

    def put_back(self) -> None:
        """Let the pipeline see it."""
        if self._noted:
            self._pipe._interrupt = True
            self._noted = False


class _Bars:
    """The pipeline's progress bar, moved by accepted nodes."""

    def __init__(self, pipe: Any, session: Session) -> None:
        self._make = getattr(pipe, "progress_bar", None)
        self._session = session
        self._bar: Any = None
        self._shown = 0

    def make(self, iterable: Any = None, total: int | None = None) -> Any:
        """In place of ``pipe.progress_bar``."""
        assert self._make is not None
        if self._bar is not None:
            return self._make(iterable=iterable) if total is None else self._make(total=total)
        self._bar = self._make(total=total if iterable is None else len(iterable))
        return _Bar(self._bar, iterable)

    def moved(self, front: int) -> None:
        """Nodes were accepted."""
        if self._bar is not None and front > self._shown:
            whole = int(self._bar.total or self._session.total)
            at = front * whole // max(self._session.total, 1)  # a scheduler may make several steps of one
            self._bar.update(at - self._bar.n)
            self._shown = front

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class _Bar:
    """A bar whose own ``update`` does nothing."""

    paracore_loop = True

    def __init__(self, bar: Any, iterable: Any) -> None:
        self._bar, self._iterable = bar, iterable

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __iter__(self) -> Any:
        return iter(self._iterable)

    def __len__(self) -> int:
        return len(self._iterable)

    def update(self, count: int = 1) -> None:
        """Accepted nodes move the bar, not iterations."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)
