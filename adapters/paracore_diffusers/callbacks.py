"""The user's step callbacks: called once for every accepted step, in order, with the accepted state."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from paracore.errors import ConfigurationError
from paracore_diffusers.errors import UnsupportedPipelineError
from paracore_diffusers.session import Accepted, Session

__all__ = ["Callbacks"]

NEW, OLD, EVERY = "callback_on_step_end", "callback", "callback_steps"
INPUTS = "callback_on_step_end_tensor_inputs"


class Callbacks:
    """The call's arguments with the user's callback replaced by one of ours.

    The pipeline calls it in every iteration with the tensors that the user asked for; the user's own is called from it,
    once for each step that was accepted meanwhile, with those tensors and the accepted latents.

    Attributes:
        args, kwargs: what to call the pipeline with.
        session: the run.
    """

    def __init__(
        self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any], own: Any, old: Any, every: int
    ) -> None:
        self.pipe, self.args, self.kwargs = pipe, args, kwargs
        self.session: Session | None = None
        self._own, self._old, self._every = own, old, every
        self._told = 0
        self._names: list[str] = []

    @property
    def wanted(self) -> bool:
        """Whether there is a callback."""
        return self._own is not None or self._old is not None

    @classmethod
    def taken(cls, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callbacks:
        """Take the callbacks out of a call.

        Raises:
            ConfigurationError: if the arguments do not fit the pipeline, or the callback is given by position.
        """
        try:
            bound = inspect.signature(pipe.__call__).bind_partial(*args, **kwargs).arguments
        except (TypeError, ValueError):
            bound = dict(kwargs)  # the pipeline will say what is wrong
        bound = {**bound, **kwargs}  # some are taken from a pipeline's free keyword arguments
        own, old = bound.get(NEW), bound.get(OLD)
        if own is None and old is None:
            return cls(pipe, args, dict(kwargs), None, None, 1)
        for name, value in ((NEW, own), (OLD, old)):
            if value is not None and name not in kwargs:
                raise ConfigurationError(f"{name} was given by position; give it by name")
        made = cls(pipe, args, dict(kwargs), own, old, int(bound.get(EVERY) or 1))
        if own is not None:
            names = list(getattr(own, "tensor_inputs", None) or bound.get(INPUTS) or ["latents"])
            made.kwargs[NEW] = made._new
            made.kwargs[INPUTS] = names if "latents" in names else [*names, "latents"]
            made._names = names
        if old is not None:
            made.kwargs[OLD], made.kwargs[EVERY] = made._older, 1
        return made

    def _pending(self) -> Iterator[Accepted]:
        assert self.session is not None
        while self._told < len(self.session.accepted):
            self._told += 1
            yield self.session.accepted[self._told - 1]

    def _new(self, pipe: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        for done in self._pending():
            offered = {name: given[name] for name in self._names if name in given}
            if "latents" in offered:
                offered["latents"] = done.state
            with self._outside(offered, done.node, NEW) as before:
                back = self._own(self.pipe, done.node, done.time, dict(offered)) or {}
            for name, value in back.items():
                reference = before["latents"] if name == "latents" and "latents" in before else given.get(name)
                if isinstance(value, torch.Tensor) and isinstance(reference, torch.Tensor):
                    same = value.shape == reference.shape and torch.equal(value, reference)
                else:
                    same = value is reference
                if not same:
                    raise UnsupportedPipelineError(_changed(NEW, name, done.node))
            if self._stops(done.node):
                return {"latents": done.state.clone()} if self.session and self.session.finished else {}
        return {}

    def _older(self, step: int, time: Any, latents: torch.Tensor) -> None:
        for done in self._pending():
            if done.node % self._every == 0:
                with self._outside({"latents": done.state}, done.node, OLD):
                    self._old(done.node, done.time, done.state)
                if self._stops(done.node):
                    return

    @contextmanager
    def _outside(self, offered: dict[str, Any], node: int, name: str) -> Iterator[dict[str, torch.Tensor]]:
        """The user's own code: its network calls and random numbers are not the loop's, and it must change nothing."""
        assert self.session is not None
        session, mode = self.session, self.session.calls.mode
        settings = _plain(self.pipe)
        held = {k: v.clone() for k, v in offered.items() if isinstance(v, torch.Tensor)}
        session.calls.mode = "outside"
        try:
            yield held
        finally:
            session.calls.mode = mode
        session.random.settle()
        changed = [k for k, v in _plain(self.pipe).items() if k != "_interrupt" and settings.get(k, v) != v]
        if changed:
            raise UnsupportedPipelineError(_changed(name, f"the pipeline's {', '.join(changed)}", node))
        for key, before in held.items():
            if not torch.equal(offered[key], before):
                raise UnsupportedPipelineError(_changed(name, key, node))

    def _stops(self, node: int) -> bool:
        """Whether the user asked the pipeline to stop: no later step is told, its state is the one after this step."""
        assert self.session is not None
        if self.session.stop_at is None and vars(self.pipe).get("_interrupt"):
            self.session.stop_at = node
        if self.session.stop_at is None:
            return False
        self._told = sys.maxsize
        return True


def _changed(callback: str, what: str, node: int) -> str:
    return (
        f"{callback} changes {what} at step {node}: later steps were evaluated already, so changes cannot be honoured; "
        "run the pipeline itself for that"
    )


def _plain(pipe: Any) -> dict[str, Any]:
    """The pipeline's settings that steer a run."""
    return {k: v for k, v in vars(pipe).items() if isinstance(v, int | float | bool | str)}
