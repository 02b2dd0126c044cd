"""The user's step callbacks: called once for every accepted step, in order, with the accepted state."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from paracore.errors import ConfigurationError
from paracore_diffusers.errors import UnsupportedPipelineError
from paracore_diffusers.session import Session

__all__ = ["Callbacks"]

NEW, OLD, EVERY = "callback_on_step_end", "callback", "callback_steps"
INPUTS = "callback_on_step_end_tensor_inputs"


class Callbacks:
    """The call's arguments with the user's callback replaced by one of ours.

    The pipeline calls it in every iteration with the tensors that the user asked for; the user's own is called from it,
    once for each step that was accepted meanwhile, with those tensors and the accepted latents.

    Attributes:
        args, kwargs: what to call the pipeline with.
        wanted: whether there is a callback.
        session: the run.
    """

    def __init__(
        self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any], own: Any, old: Any, every: int
    ) -> None:
        self.pipe, self.args, self.kwargs = pipe, args, kwargs
        self.session: Session | None = None
        self._own, self._old, self._every = own, old, every
        self._told = 0
        self._rest: dict[str, Any] | None = None

    @property
    def wanted(self) -> bool:
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
        own, old = bound.get(NEW), bound.get(OLD)
        if own is None and old is None:
            return cls(pipe, args, dict(kwargs), None, None, 1)
        for name, value in ((NEW, own), (OLD, old)):
            if value is not None and name not in kwargs:
                raise ConfigurationError(f"{name} was given by position; give it by name")
        made = cls(pipe, args, dict(kwargs), own, old, int(bound.get(EVERY) or 1))
        if own is not None:
            names = list(bound.get(INPUTS) or getattr(own, "tensor_inputs", None) or ["latents"])
            made.kwargs[NEW] = made._new
            made.kwargs[INPUTS] = names if "latents" in names else [*names, "latents"]
            made._names = names
        if old is not None:
            made.kwargs[OLD], made.kwargs[EVERY] = made._older, 1
        return made

    _names: list[str]

    def _pending(self) -> list[Any]:
        assert self.session is not None
        new = self.session.accepted[self._told :]
        self._told += len(new)
        return new

    def _new(self, pipe: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        for step_done in self._pending():
            offered = {name: given[name] for name in self._names if name in given}
            if "latents" in offered:
                offered["latents"] = step_done.state
            before = _plain(pipe)
            held = step_done.state.clone()
            back = self._own(self.pipe, step_done.node, step_done.time, dict(offered)) or {}
            for name, value in back.items():
                reference = held if name == "latents" else given.get(name)
                if isinstance(value, torch.Tensor) and isinstance(reference, torch.Tensor):
                    same = value.shape == reference.shape and torch.equal(value, reference)
                else:
                    same = value is reference
                if not same:
                    raise UnsupportedPipelineError(
                        f"{NEW} changes {name} at step {step_done.node}: later steps were evaluated already, so "
                        "changes cannot be honoured; run the pipeline itself for that"
                    )
            changed = [k for k, v in _plain(pipe).items() if k not in ("_interrupt",) and before.get(k, v) != v]
            if changed:
                raise UnsupportedPipelineError(
                    f"{NEW} changes the pipeline's {', '.join(changed)} at step {step_done.node}: later steps were "
                    "evaluated already, so changes cannot be honoured; run the pipeline itself for that"
                )
        return {}

    def _older(self, step: int, time: Any, latents: torch.Tensor) -> None:
        for step_done in self._pending():
            if step_done.node % self._every == 0:
                self._old(step_done.node, step_done.time, step_done.state)


def _plain(pipe: Any) -> dict[str, Any]:
    """The pipeline's settings that steer a run."""
    return {k: v for k, v in vars(pipe).items() if isinstance(v, int | float | bool | str)}
