"""A scheme whose step is the real scheduler's: exact in bits for any scheduler, linear or not."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from paracore.schemes import Scheme
from paracore_diffusers.replay_noise import RawNoise
from paracore_diffusers.stepper import Dtypes, Run, Stepper

__all__ = ["Lineage", "ReplayScheme"]

HELD = 2
"""Newest results per node that are kept alive, for a caller that copies them."""
SWEEPS = 16
"""Starts of this many last sweeps are remembered: nodes before all of them are forgotten."""


class Lineage:
    """Which run of the scheduler made which state.

    A state is found by identity as long as it lives, else by its numbers among the newest at its node.

    Attributes:
        near: steps made from a state that no run made: from the newest run at that node.
        lost: steps for which there was no run at all: the table's own.
    """

    def __init__(self) -> None:
        self.near = 0
        self.lost = 0
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], Run]] = {}
        self._newest: dict[int, deque[tuple[torch.Tensor, Run]]] = {}
        self._starts: deque[int] = deque(maxlen=SWEEPS)
        self._last = -1

    def remember(self, state: torch.Tensor, run: Run) -> None:
        """Note which run made a state."""
        key, known = id(state), self._known

        def gone(reference: weakref.ref[torch.Tensor]) -> None:
            if key in known and known[key][0] is reference:
                del known[key]

        known[key] = weakref.ref(state, gone), run
        self._newest.setdefault(run.node, deque(maxlen=HELD)).append((state, run))

    def find(self, node: int, state: torch.Tensor) -> Run | None:
        """The run that made a state; else the newest at its node; ``None`` if there is none. Not to be stepped."""
        known = self._known.get(id(state))
        if known is not None and known[0]() is state and known[1].node == node:
            return known[1]
        newest = None
        for candidate, run in self._candidates(node):
            newest = newest or run
            if candidate.shape == state.shape and candidate.dtype == state.dtype and torch.equal(candidate, state):
                return run
        if newest is None:
            self.lost += 1
        else:
            self.near += 1
        return newest

    def stepping(self, node: int) -> None:
        """Note a step; a step at or before the last one starts a sweep. Nodes before the last sweeps are forgotten."""
        if node <= self._last or not self._starts:
            self._starts.append(node)
            if len(self._starts) == SWEEPS:
                self.forget(min(self._starts))
        self._last = node

    def recast(self, dtypes: Dtypes) -> None:
        """Step with other dtypes from now on: a pipeline's own casts show only at its second step."""
        object.__setattr__(self, "dtypes", dtypes)

    def forget(self, below: int) -> None:
        """Keep no run of nodes before ``below`` alive (a state that the caller keeps still finds its run)."""
        for node in [n for n in self._newest if n < below]:
            del self._newest[node]

    def held(self) -> int:
        """How many runs are kept alive."""
        return len({id(run) for _, run in self._known.values()})

    def _candidates(self, node: int) -> Iterator[tuple[torch.Tensor, Run]]:
        """Living states at a node, newest first."""
        held = list(reversed(self._newest.get(node, ())))
        yield from held
        seen = {id(state) for state, _ in held}
        for reference, run in reversed(list(self._known.values())):
            state = reference()
            if run.node == node and state is not None and id(state) not in seen:
                yield state, run


@attrs.frozen(eq=False, repr=False, slots=False)
class ReplayScheme(Scheme):
    """The table is for guesses and weights; :meth:`step` calls the scheduler's own ``step``.

    Where does a step continue from? Every returned state remembers the scheduler as it was after it, so a step from
    that state branches off there, its multistep memory included. All samples of a batch are stepped together.

    Attributes:
        stepper: the scheduler.
        dtypes: what the pipeline hands to it and gets from it.
        raw: its noise; ``None`` if it draws none.
        lineage: which run made which state.
        window: rows that the engine works on, if known: what lies further back is forgotten.
    """

    stepper: Stepper
    dtypes: Dtypes
    raw: RawNoise | None
    lineage: Lineage
    window: int | None

    @classmethod
    def create(  # type: ignore[override]
        cls,
        stepper: Stepper,
        table_scheme: Scheme,
        *,
        first_dtype: torch.dtype = torch.float32,
        returned_dtype: torch.dtype = torch.float32,
        state_dtype: torch.dtype = torch.float32,
        output_dtype: torch.dtype = torch.float32,
        noise: RawNoise | None = None,
        window: int | None = None,
    ) -> ReplayScheme:
        """Build one.

        Args:
            stepper: the scheduler, ready for its first step.
            table_scheme: its table: exact, small-signal or an estimate.
            first_dtype: dtype of the sample at the first step.
            returned_dtype: dtype that ``step`` returns.
            state_dtype: dtype of the sample at later steps, after the pipeline's own cast.
            output_dtype: dtype of the network's output.
            noise: its draws; needed if it makes any.
            window: rows that the engine works on; bounds what is kept.

        Raises:
            ValueError: if table and scheduler have different numbers of nodes, or noise is missing.
        """
        if table_scheme.steps != stepper.nodes:
            raise ValueError(f"the table has {table_scheme.steps} nodes, {stepper.name} {stepper.nodes}; make it anew")
        if table_scheme.stochastic and noise is None:
            raise ValueError(f"{stepper.name} draws noise; pass noise=RawNoise.create(...)")
        dtypes = Dtypes(first_dtype, returned_dtype, state_dtype, output_dtype)
        if stepper.mutates is None:
            stepper.rehearse(dtypes)
        fields = {f.name: getattr(table_scheme, f.name) for f in attrs.fields(Scheme)}
        fields["name"] = f"{stepper.name} (replayed)"
        return cls(**fields, stepper=stepper, dtypes=dtypes, raw=noise, lineage=Lineage(), window=window)

    def __repr__(self) -> str:
        return f"<ReplayScheme {self.name!r}: {self.steps} steps>"

    def step(
        self,
        node: int | npt.NDArray[np.int64],
        states: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One step of the real scheduler.

        Args:
            node: ``n``, or the same node for every sample ``(B,)``.
            states: ``x_n`` first; what it is, tells where to branch off.
            outputs: ``f_n`` first.
            noise: used only where no run is known and the table has to do: the scheduler's own draws count.

        Returns:
            ``x_{n+1}``, in the dtype of ``x_n``, holding the numbers that the pipeline would hold. A new tensor.

        Raises:
            ValueError: if samples are at different nodes.
            UnsupportedSchedulerError: if the step fails.
        """
        at, state = self._node(node), states[0]
        self.lineage.stepping(at)
        if self.window is not None:
            self.lineage.forget(at - 2 * self.window)
        run = self.stepper.fresh() if at == 0 else self._branch(at, state)
        if run is None:
            return super().step(at, states, outputs, noise)
        sample = self.dtypes.given(at, state)
        output = outputs[0].to(self.dtypes.output)
        if self.stepper.mutates:
            sample, output = sample.clone(), output.clone()
        result = run.step(at, output, sample, None if self.raw is None else self.raw.at(at))
        result = result.to(self.dtypes.returned).to(state.dtype)
        if any(result.data_ptr() == given.data_ptr() for given in (state, outputs[0], sample, output)):
            result = result.clone()
        self.lineage.remember(result, run)
        return result

    def recast(self, dtypes: Dtypes) -> None:
        """Step with other dtypes from now on: a pipeline's own casts show only at its second step."""
        object.__setattr__(self, "dtypes", dtypes)

    def forget(self, below: int) -> None:
        """Keep nothing for steps from nodes before ``below`` (the engine's front)."""
        self.lineage.forget(below)

    def _branch(self, node: int, state: torch.Tensor) -> Run | None:
        found = self.lineage.find(node, state)
        return None if found is None else found.copy()

    def _node(self, node: int | npt.NDArray[np.int64]) -> int:
        if isinstance(node, int):
            return node
        nodes: Any = np.unique(node)
        if len(nodes) != 1:
            raise ValueError(
                f"{self.name}: samples are at nodes {nodes.tolist()}; a replayed scheduler steps all together: use "
                "Problem(..., lockstep=True)"
            )
        return int(nodes[0])
