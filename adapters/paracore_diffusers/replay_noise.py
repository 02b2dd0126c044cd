"""The scheduler's own noise, drawn ahead in its own order, with the numbers that a sequential run would draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from paracore.errors import CheckpointError, ProblemError
from paracore_diffusers.errors import UnsupportedSchedulerError
from paracore_diffusers.stepper import Dtypes, Rehearsal, Stepper
from paracore_diffusers.stepper_noise import Answer

__all__ = ["RELIED_ON", "RawNoise"]

RELIED_ON = ("diffusers.utils.torch_utils.randn_tensor",)
"""Names of diffusers that this module calls."""

Generators = torch.Generator | Sequence[torch.Generator] | None


class RawNoise:
    """Standard normal draws of a scheduler, node after node, as ``randn_tensor`` makes them.

    Drawn from copies: the user's generators stay as they are until :meth:`advance`.
    """

    def __init__(
        self, generator: Generators, shape: Sequence[int], device: torch.device | str, rehearsal: Rehearsal, name: str
    ) -> None:
        """Take copies of the generators as they are now: after the initial state was drawn, before the first step.

        Args:
            generator: what the pipeline was given: one, a list with one per sample, or ``None`` for the global state.
            shape: ``(B, *event)`` of the states.
            device: where the states are.
            rehearsal: what the scheduler asks for, rehearsed in the pipeline's dtypes on this device.
            name: of the scheduler, for messages.

        Raises:
            UnsupportedSchedulerError: if it draws noise of another shape than the state's.
        """
        self.shape = tuple(shape)
        self.device = torch.device(device)
        self._given = generator
        self._name = name
        self.again(rehearsal)

    def again(self, rehearsal: Rehearsal) -> None:
        """Draw anew from the start, as another rehearsal says: in other dtypes, say. Errors as above."""
        self._asks = rehearsal.asks
        for node, asks in enumerate(self._asks):
            for ask in asks:
                if ask.shape != rehearsal.shape:
                    raise UnsupportedSchedulerError(
                        f"{self._name} draws noise of shape {ask.shape} at node {node} for a state of shape "
                        f"{rehearsal.shape}; only noise of the state's shape can be drawn ahead"
                    )
        self._globals: dict[str, torch.Generator] = {}
        self._copies = self._copied(self._given)
        self._next = 0
        self._rows: dict[int, list[torch.Tensor]] = {}

    @classmethod
    def create(
        cls, stepper: Stepper, generator: Generators, shape: Sequence[int], dtypes: Dtypes, device: torch.device | str
    ) -> RawNoise:
        """Rehearse the scheduler in the pipeline's dtypes, then as above."""
        rehearsal = stepper.rehearse(dtypes, device, (4,) * (len(shape) - 1))
        return cls(generator, shape, device, rehearsal, stepper.name)

    def row(self, node: int) -> list[torch.Tensor]:
        """All draws of a node, in order, each ``(B, *event)`` in the dtype that the scheduler asks.

        Raises:
            ProblemError: if they were freed.
        """
        while self._next <= node:
            self._rows[self._next] = [self._drawn(ask) for ask in self._asks[self._next]]
            self._next += 1
        try:
            return self._rows[node]
        except KeyError:
            raise ProblemError(f"the noise of node {node} was freed already") from None

    def at(self, node: int) -> Answer:
        """The answer to a node's draws, for :meth:`~paracore_diffusers.stepper.Run.step`."""

        def answer(k: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
            row = self.row(node)
            if k >= len(row) or shape != self.shape or row[k].dtype != dtype:
                there = f"{tuple(row[k].shape)} {row[k].dtype}" if k < len(row) else "none"
                raise UnsupportedSchedulerError(
                    f"{self._name} asks at node {node} for draw {k} of shape {shape} {dtype}; rehearsed was {there}: "
                    "what it draws depends on its numbers, so it cannot be replayed"
                )
            return row[k].to(device)

        return answer

    def free(self, below: int) -> None:
        """Forget the draws of nodes before ``below``; the order of drawing is kept."""
        for node in [n for n in self._rows if n < below]:
            del self._rows[node]

    def final_states(self) -> list[torch.Tensor]:
        """States of the generators after all N nodes, one per generator given (or the device's global one).

        Draws what is left (a solve that is finished has drawn nearly all).
        """
        while self._next < len(self._asks):
            node, self._next = self._next, self._next + 1
            self._rows[node] = [self._drawn(ask) for ask in self._asks[node]]
        if self._copies is None:
            return [self._global(self.device).get_state()]
        copies = [self._copies] if isinstance(self._copies, torch.Generator) else self._copies
        return [copy.get_state() for copy in copies]

    def advance(self) -> None:
        """Leave the user's generators, or the global random state, as a sequential run would leave them."""
        states = self.final_states()
        if self._given is not None:
            given = [self._given] if isinstance(self._given, torch.Generator) else list(self._given)
            for generator, state in zip(given, states, strict=True):
                generator.set_state(state)
        for key, copy in self._globals.items():
            device = torch.device(key)
            if device.type == "cpu":
                torch.set_rng_state(copy.get_state())
            else:
                torch.get_device_module(device).set_rng_state(copy.get_state(), device)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        rows = {node: [z.clone() for z in row] for node, row in self._rows.items()}
        return {"next": self._next, "rows": rows, "generators": [g.get_state() for g in self._all()]}

    def restore(self, data: dict[str, Any]) -> None:
        """Continue from :meth:`plain`.

        Raises:
            CheckpointError: if the data has another number of generators.
        """
        if len(data["generators"]) != len(self._all()):
            raise CheckpointError(
                f"checkpoint has {len(data['generators'])} noise generators, this run {len(self._all())}"
            )
        self._next = int(data["next"])
        self._rows = {int(n): [z.to(self.device) for z in row] for n, row in data["rows"].items()}
        for generator, state in zip(self._all(), data["generators"], strict=True):
            generator.set_state(state)

    def _all(self) -> list[torch.Generator]:
        own = self._copies
        listed = [] if own is None else [own] if isinstance(own, torch.Generator) else list(own)
        return listed + list(self._globals.values())

    def _copied(self, generator: Generators) -> torch.Generator | list[torch.Generator] | None:
        if any(not ask.own or generator is None for asks in self._asks for ask in asks):
            for device in {self.device, *(ask.device for asks in self._asks for ask in asks)}:
                self._global(device)
        if generator is None:
            return None
        if isinstance(generator, torch.Generator):
            return _copy(generator)
        copies: dict[int, torch.Generator] = {}  # one generator listed twice draws twice
        return [copies.setdefault(id(g), _copy(g)) for g in generator]

    def _global(self, device: torch.device) -> torch.Generator:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        key = str(device)
        if key not in self._globals:
            copy = torch.Generator(device=device)
            on_cpu = device.type == "cpu"
            copy.set_state(torch.get_rng_state() if on_cpu else torch.get_device_module(device).get_rng_state(device))
            self._globals[key] = copy
        return self._globals[key]

    def _drawn(self, ask: Any) -> torch.Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        generator = self._copies if ask.own else None
        if generator is None:
            generator = self._global(ask.device)
        noise: torch.Tensor = randn_tensor(self.shape, generator=generator, device=ask.device, dtype=ask.dtype)
        return noise


def _copy(generator: torch.Generator) -> torch.Generator:
    copy = torch.Generator(device=generator.device)
    copy.set_state(generator.get_state())
    return copy
