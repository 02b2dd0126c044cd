"""DEER's exact Jacobian blocks, and the sampler that asks for them: values and blocks of a window in one round."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

import paracore
from paracore.engine import EngineState
from paracore.errors import ConfigurationError
from paracore.parts.options import integer
from paracore.window import Local
from paracore_newton.diagonal import held

__all__ = ["BlockSampler", "Blocks", "times"]


def times(block: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``(B, d, d)`` by ``(B, *event)``, column by column: bits do not depend on the batch."""
    flat = v.reshape(len(v), -1)
    total = block[:, :, 0] * flat[:, :1]
    for k in range(1, flat.shape[1]):
        total = total + block[:, :, k] * flat[:, k : k + 1]
    return total.reshape(v.shape)


@attrs.frozen
class Blocks(paracore.JacobianApproximation):
    """``df/dx`` in full. Used inside a :class:`BlockSampler`, which hands it each round's blocks; alone it has none.

    Attributes:
        blocks: P tensors ``(B, d, d)``, set for one round.
    """

    blocks: tuple[torch.Tensor, ...] | None = attrs.field(default=None, repr=False, eq=False)

    reference = "Lim et al. 2024 (DEER), arXiv:2309.12252, Section 3"

    def local(self, round: paracore.Round, state: Any) -> Local | None:
        """``v -> df/dx v``."""
        blocks = self.blocks
        return None if blocks is None else held(round, lambda row, v: times(blocks[row], v))


def _composition(given: paracore.Composition | paracore.Engine) -> paracore.Composition:
    return given.composition if isinstance(given, paracore.Engine) else given


def _reads_blocks(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    jacobian = getattr(value, "jacobian", None)
    if not hasattr(jacobian, "blocks"):
        what = repr(value) if jacobian is None else f"a composition with the jacobian {jacobian!r}"
        raise ConfigurationError(
            f"BlockSampler: composition is {what}; a composition whose jacobian reads exact blocks, Blocks() or "
            "BlocksFilter(), is needed"
        )


@attrs.frozen(eq=False)
class BlockSampler(paracore.Sampler):
    """Runs a composition whose Jacobian part reads exact blocks: every node is asked with ``d`` unit tangents at once.

    A block costs ``d`` products, which do not depend on each other: they are rows of the round's own request, so that
    an iteration is one round of up to ``1 + (window - 1) d`` evaluations per sample (the front's own block is of no
    use). :attr:`Result.evaluations` counts every such row. Asked one after the other, as a linear solver asks for its
    products, they would be ``d`` further rounds.

    Attributes:
        composition: a composition, or an engine of one, whose Jacobian part has ``blocks``
            (:class:`Blocks`, :class:`~paracore_newton.damped.BlocksFilter`).
        limit: largest sample, in numbers, that is taken.

    Raises:
        ConfigurationError: for another Jacobian part, or a limit below 1.
    """

    composition: paracore.Composition = attrs.field(converter=_composition, validator=_reads_blocks)
    limit: int = attrs.field(default=16, validator=integer(1))

    @property
    def needs(self) -> frozenset[str]:
        """``{"jvp"}``."""
        return frozenset({"jvp"})

    @property
    def _engine(self) -> paracore.Engine:
        return paracore.Engine(self.composition)

    def start(
        self, problem: paracore.Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False
    ) -> EngineState:
        """The state before the first request.

        Raises:
            ConfigurationError: for samples of more numbers than ``limit``.
            CapabilityError: if the scheme lacks what a part needs.
        """
        self._check(problem)
        return self._engine.start(problem, trajectory=trajectory, trace=trace, preview=preview)

    def _check(self, problem: paracore.Problem) -> None:
        size = problem.x0[0].numel()
        if size > self.limit:
            raise ConfigurationError(
                f"{self.composition.name}: samples of {size} numbers, more than limit={self.limit}; an exact Jacobian "
                f"costs {size} products per node and round: raise limit if you can pay that, or use "
                "'quasi-deer' (one product) or 'secant' (none)"
            )

    def request(self, state: EngineState) -> paracore.Request | None:
        """The engine's request, with ``d`` copies of each row but the front's: one for each unit tangent."""
        request = self._engine.request(state)
        if request is None:
            return None
        copies = self._copies(state)
        eye = torch.eye(request.states[0].numel(), dtype=request.states.dtype, device=request.states.device)
        which = torch.cat([torch.arange(int(c)) for c in copies])
        on_device = copies.to(request.states.device)
        return paracore.Request(
            nodes=request.nodes.repeat_interleave(copies),
            samples=request.samples.repeat_interleave(copies),
            states=request.states.repeat_interleave(on_device, dim=0),
            times=request.times.repeat_interleave(copies),
            tangents=eye[which.to(eye.device)].reshape(-1, *request.states.shape[1:]),
        )

    def _copies(self, state: EngineState) -> torch.Tensor:
        """``(M,)`` int64: how many rows each row of the engine's request becomes."""
        size = state.problem.x0[0].numel()
        copies = np.where(np.arange(len(state.mask))[:, None] == 0, 1, size)
        return torch.from_numpy(np.broadcast_to(copies, state.mask.shape)[state.mask].astype(np.int64))

    @torch.no_grad()
    def advance(self, state: EngineState, outputs: paracore.Outputs) -> EngineState:
        """One round: take values and blocks apart, let the engine do the rest.

        Raises:
            DenoiserError: for outputs of wrong shape, dtype or device.
            StrategyError: if a part broke its contract.
        """
        copies = self._copies(state)
        total, first = int(copies.sum()), copies.cumsum(0) - copies
        values, jvps = outputs.values, outputs.jvps
        if not isinstance(values, torch.Tensor) or len(values) != total or jvps is None or jvps.shape != values.shape:
            what = "no products" if jvps is None else f"{len(values)} values, {len(jvps)} products"
            raise paracore.errors.DenoiserError(
                f"the evaluator returned {what} for {total} rows with tangents; one value and one product per row, of "
                "the state's shape, are needed"
            )
        picked = paracore.Outputs(values[first.to(values.device)], calls=outputs.calls)
        blocks = self._blocks(state, jvps, copies, first)
        part = attrs.evolve(self.composition.jacobian, blocks=blocks)  # type: ignore[misc]
        engine = paracore.Engine(attrs.evolve(self.composition, jacobian=part))
        after = engine.advance(state, picked)
        # The engine has counted a row per node; what was asked is a row per tangent.
        size = state.problem.x0[0].numel()
        asked = np.where(np.arange(len(state.mask))[:, None] == 0, 1, size) * state.mask
        return after.but(
            evaluations=state.evaluations + asked.sum(axis=0),
            largest=max(state.largest, total),
        )

    def _blocks(
        self, state: EngineState, jvps: torch.Tensor, copies: torch.Tensor, first: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """P tensors ``(B, d, d)``; zeros where nothing was asked, or anything is not finite."""
        size, flat = state.problem.x0[0].numel(), jvps.reshape(len(jvps), -1)
        blocks = [flat.new_zeros((state.problem.batch, size, size)) for _ in range(len(state.mask))]
        begin = int(state.mask[0].sum())
        for r in range(1, len(state.mask)):
            count = int(state.mask[r].sum())
            if count == 0:
                continue
            at = int(first[begin])
            columns = flat[at : at + count * size].reshape(count, size, size)  # (sample, tangent, entry)
            fine = torch.isfinite(columns).all(dim=2).all(dim=1)[:, None, None]
            found = torch.where(fine, columns, torch.zeros_like(columns)).mT.contiguous()
            blocks[r][torch.from_numpy(np.flatnonzero(state.mask[r])).to(found.device)] = found
            begin += count
        return tuple(blocks)

    def result(
        self, state: EngineState, *, unfinished: paracore.Status = paracore.Status.INTERRUPTED
    ) -> paracore.Result:
        """The result so far."""
        return self._engine.result(state, unfinished=unfinished)

    def plain(self, state: EngineState) -> dict[str, Any]:
        """The state as plain data; blocks live for one round only and are no part of it."""
        return self._engine.plain(state)

    def restore(self, problem: paracore.Problem, data: dict[str, Any]) -> EngineState:
        """The state that :meth:`plain` described.

        Raises:
            CheckpointError: if the data belongs to another composition or problem, or is damaged.
            ConfigurationError: for samples of more numbers than ``limit``.
        """
        self._check(problem)
        return self._engine.restore(problem, data)
