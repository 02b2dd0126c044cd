"""The engine: one loop over seven kinds of strategies, as a state machine on plain data."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.chain import exact_rows, sweep_chain, sweep_damped
from paracore.checkpoint import from_plain, problem_digest, to_plain
from paracore.composition import Composition
from paracore.errors import CheckpointError, DenoiserError, StrategyError
from paracore.guard import calling, finite_rows, mask_from, numbers_from, rows_from
from paracore.problem import NoiseTape, Problem
from paracore.request import Outputs, Request
from paracore.result import Result, RoundTrace
from paracore.sampler import Sampler
from paracore.slide import pick, slide_past
from paracore.status import Status
from paracore.strategies import JacobianApproximation, Krylov
from paracore.window import Bools, Floats, Ints, Local, Round, Window, rms, to_numpy, where_rows

__all__ = ["Engine", "EngineState"]

MAX_REFUSALS = 1000
"""How often a linear solve may ask for rounds that it cannot have before that counts as a broken contract."""


@attrs.frozen(eq=False, kw_only=True)
class EngineState:
    """Everything that changes. Rows are relative to ``at``; arrays ``(P, B)`` or ``(B,)``."""

    problem: Problem
    tape: NoiseTape
    at: Ints
    """``(B,)`` node of window row 0: the front of running samples; finished ones are carried along."""
    front: Ints
    status: Ints
    rounds: Ints
    evaluations: Ints
    interpolated: Ints
    inexact: Bools
    residual: Floats
    final: torch.Tensor
    states: list[torch.Tensor]
    outputs: list[torch.Tensor]
    anchors: list[torch.Tensor]
    age: Ints
    reach: Floats
    """``(P, B)`` root-mean-square distance of each row's state from its anchor; NaN: not known."""
    mask: Bools
    tangents: torch.Tensor | None
    past_x: list[torch.Tensor]
    past_f: list[torch.Tensor]
    parts: dict[str, Any]
    calls: int = 0
    largest: int = 0
    total_rounds: int = 0
    trajectory: torch.Tensor | None = None
    trace: tuple[RoundTrace, ...] | None = None
    newest: torch.Tensor | None = None
    """Data prediction at the newest accepted node, if previews were asked for."""
    preview: bool = False
    krylov: _Krylov | None = None

    @property
    def running(self) -> Bools:
        """``(B,)`` samples not finished."""
        return np.asarray(self.status == Status.RUNNING)


@attrs.define(eq=False)
class _Krylov:
    """A linear solve that asks for Jacobian-vector products; not part of a checkpoint."""

    round: Round
    local: Local | None
    accepted: Ints
    exact: Bools
    used: list[torch.Tensor]
    generator: Krylov
    tangents: torch.Tensor
    who: Bools


class Engine(Sampler):
    """Runs a :class:`~paracore.Composition`.

    It owns the facts that hold whatever the strategies do: at most N rounds, the sequential sampler's bits at
    tolerance 0, acceptance of what was tested only, contained non-finite numbers, per-sample decisions.
    """

    def __init__(self, composition: Composition) -> None:
        self.composition = composition

    def __repr__(self) -> str:
        return f"Engine({self.composition!r})"

    @property
    def needs(self) -> frozenset[str]:
        """``{"jvp"}`` if a part needs Jacobian-vector products."""
        return frozenset({"jvp"} & set().union(*(p.needs for p in self.composition.parts.values())))

    # -- start, request -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def start(
        self, problem: Problem, *, trajectory: bool = False, trace: bool = False, preview: bool = False
    ) -> EngineState:
        """The state before the first request.

        Raises:
            CapabilityError: if the scheme lacks what a part needs.
            ConfigurationError: if an option cannot work for this problem.
        """
        self.composition.check(problem)
        x0, steps, batch = problem.x0.detach().clone(), problem.scheme.steps, problem.batch
        rows = self._span(steps, 0)
        zero = torch.zeros((), dtype=x0.dtype, device=x0.device).expand(x0.shape)
        store = None
        if trajectory:
            store = torch.zeros((steps + 1, *x0.shape), dtype=x0.dtype, device=x0.device)
            store[0] = x0
        memory = problem.scheme.memory
        state = EngineState(
            problem=problem,
            tape=problem.tape(),
            at=np.zeros(batch, dtype=np.int64),
            front=np.zeros(batch, dtype=np.int64),
            status=np.zeros(batch, dtype=np.int64),
            rounds=np.zeros(batch, dtype=np.int64),
            evaluations=np.zeros(batch, dtype=np.int64),
            interpolated=np.zeros(batch, dtype=np.int64),
            inexact=np.zeros(batch, dtype=np.bool_),
            residual=np.zeros(batch),
            final=x0,
            states=[x0] * (rows + 1),
            outputs=[zero] * rows,
            anchors=[x0] * rows,
            age=np.full((rows, batch), -1, dtype=np.int64),
            reach=np.full((rows, batch), np.nan),
            mask=np.zeros((rows, batch), dtype=np.bool_),
            tangents=None,
            past_x=[zero] * memory,
            past_f=[zero] * memory,
            parts={kind: part.start(problem, rows) for kind, part in self.composition.parts.items()},
            trajectory=store,
            trace=() if trace else None,
            preview=preview,
        )
        entering = np.ones((rows + 1, batch), dtype=np.bool_)
        entering[0] = False
        states = self._enter(state, entering, None)
        return self._choose(attrs.evolve(state, states=states))

    def request(self, state: EngineState) -> Request | None:
        """The selected rows of all running samples, row by row; ``None`` when all have ended."""
        if state.krylov is not None:
            pending = state.krylov
            mask = pending.round.window.valid & pending.who[None, :]
            return _gather(state.problem, pending.round.window.nodes, mask, pending.round.anchors, pending.tangents)
        if not state.running.any():
            return None
        # Freed here, not when the front moves: an advance that is interrupted leaves a state that can go on.
        state.tape.free(int(state.at[state.running].min()))
        nodes = state.at[None, :] + np.arange(len(state.mask))[:, None]
        return _gather(state.problem, nodes, state.mask, state.states, state.tangents)

    # -- advance ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def advance(self, state: EngineState, outputs: Outputs) -> EngineState:
        """One round: take the outputs, move the chain, accept, slide.

        Raises:
            DenoiserError: for outputs of wrong shape, dtype or device.
            StrategyError: if a part broke its contract.
        """
        if state.krylov is not None:
            return self._advance_krylov(state, state.krylov, outputs)
        mask = state.mask
        _check_outputs(outputs.values, int(mask.sum()), state.problem.x0)
        if state.tangents is not None:
            _check_products(outputs.jvps, int(mask.sum()), state.problem.x0)
        state = attrs.evolve(
            state,
            parts=dict(state.parts),
            rounds=state.rounds + state.running,
            evaluations=state.evaluations + mask.sum(axis=0),
            calls=state.calls + outputs.calls,
            largest=max(state.largest, int(mask.sum())),
            total_rounds=state.total_rounds + 1,
        )
        state, round = self._receive(state, outputs)
        if not state.running.any():
            return state
        local, used, sound = self._move(state, round)
        state, accepted, exact = self._accept(state, round, sound)
        following = self._solve(state, round, local)
        if isinstance(following, tuple):
            tangents, who, generator = following
            pending = _Krylov(round, local, accepted, exact, used, generator, tangents, who)
            return attrs.evolve(state, krylov=pending)
        return self._finish(state, round, accepted, exact, used, following)

    def _receive(self, state: EngineState, outputs: Outputs) -> tuple[EngineState, Round]:
        """Scatter the outputs into rows; samples with a non-finite output at their front end here."""
        mask, values = state.mask, outputs.values
        peaks = torch.linalg.vector_norm(values.reshape(len(values), -1), ord=float("inf"), dim=1)
        finite = np.zeros_like(mask)
        finite[mask] = torch.isfinite(peaks).cpu().numpy()
        status = np.where(state.running & mask[0] & ~finite[0], int(Status.NONFINITE_OUTPUT), state.status)
        window = self._window(state, status == Status.RUNNING)
        new_outputs, anchors = list(state.outputs), list(state.anchors)
        rows, taken = len(mask), 0
        asked_jvps = outputs.jvps is not None and state.tangents is not None
        jvps = [torch.zeros_like(state.states[0])] * rows if asked_jvps else None
        output_change = np.full(mask.shape, np.nan)
        changes: dict[int, torch.Tensor] = {}
        u = window.gain[0]
        for r in range(rows):
            count = int(mask[r].sum())
            block, taken = values[taken : taken + count], taken + count
            good = mask[r] & finite[r]
            if not good.any():
                new_outputs[r], anchors[r] = _compact(new_outputs[r]), _compact(anchors[r])
                continue
            new = _scatter(block, mask[r], good, state.outputs[r])
            if jvps is not None and outputs.jvps is not None:
                products = torch.nan_to_num(outputs.jvps[taken - count : taken])
                jvps[r] = _scatter(products, mask[r], good, jvps[r])
            if self.composition.stopping.reads_changes and (good & (state.age[r] >= 0)).any():
                move = new - state.outputs[r]
                node = np.minimum(window.nodes[r], state.problem.scheme.steps - 1)
                if u[node].any():
                    shift = torch.from_numpy(u[node]).to(move).reshape((-1,) + (1,) * (move.ndim - 1))
                    move = move - shift * (state.states[r] - state.anchors[r])
                changes[r] = rms(move)
            new_outputs[r] = new
            anchors[r] = where_rows(good, state.states[r], state.anchors[r])
        if changes:
            known = mask & finite & (state.age >= 0)
            rows_changed = list(changes)
            output_change[rows_changed] = np.where(
                known[rows_changed], to_numpy([changes[r] for r in rows_changed]), np.nan
            )
        evaluated = mask & finite
        age = np.where(evaluated, 0, np.where(state.age >= 0, state.age + 1, -1))
        age = np.where(mask & ~finite, -1, age)
        anchor_change = np.where(evaluated & (state.age >= 0), state.reach, np.nan)
        if self.composition.stopping.reads_changes:
            unknown = evaluated & (state.age >= 0) & np.isnan(anchor_change)
            for r in np.flatnonzero(unknown.any(axis=1)).tolist():
                moved = to_numpy([rms(state.states[r] - state.anchors[r])])[0]
                anchor_change[r] = np.where(unknown[r], moved, anchor_change[r])
        tangents = None if state.tangents is None else list(state.tangents)
        residual, parts = self.composition.residual, dict(state.parts)
        round = Round(
            window,
            new_outputs,
            anchors,
            evaluated,
            age,
            lambda: residual.weights(window, parts["residual"]),
            anchor_change,
            output_change,
            spare=state.front + 1 - state.rounds,
            tangents=tangents,
            jvps=jvps,
        )
        self._fill(state, round)
        final = where_rows((status != state.status), state.states[0], state.final)
        return attrs.evolve(
            state, status=status, final=final, outputs=round.outputs, anchors=round.anchors, age=age
        ), round

    def _fill(self, state: EngineState, round: Round) -> None:
        """Give every row that has no output one, before any product is formed."""
        need = round.window.valid & (round.age < 0)
        need[0] = False
        if not need.any():
            return
        part = self.composition.selection
        with calling("selection", part, round):
            filled = part.fill(round, need.copy(), state.parts["selection"])
        rows = rows_from("selection", part, filled, round.window.rows, round.outputs[0])
        finite = finite_rows(rows)
        for r in range(1, round.window.rows):
            if need[r].any():
                new = where_rows(finite[r], rows[r], round.outputs[r - 1])
                round.outputs[r] = where_rows(need[r], new, round.outputs[r])
                round.anchors[r] = where_rows(need[r], round.window.state_rows[r], round.anchors[r])

    def _move(self, state: EngineState, round: Round) -> tuple[Local | None, list[torch.Tensor], Bools]:
        """Sweep the chain; end the samples whose exact step is not finite."""
        part = self.composition.jacobian
        local: Local | None = None
        if not part.null:
            with calling("jacobian", part, round):
                local = part.local(round, state.parts["jacobian"])
            with calling("jacobian", part, round.window, round.outputs, round.anchors):
                swept = sweep_chain(round, local)
        else:
            swept = sweep_chain(round, None)
        return local, swept.used, swept.sound

    def _accept(self, state: EngineState, round: Round, sound: Bools) -> tuple[EngineState, Ints, Bools]:
        """How many rows each sample accepts: the exact chain, and beyond it what the rule says."""
        window, composition = round.window, self.composition
        failing = window.running & ~sound[0]
        status = np.where(failing, int(Status.NONFINITE_STATE), state.status)
        running = status == Status.RUNNING
        exact = exact_rows(round)
        good = exact
        if composition.tolerance > 0:
            rule = composition.stopping
            with calling("stopping", rule, round):
                verdict = rule.converged(round, state.parts["stopping"])
            good = exact | mask_from("stopping", rule, verdict, round.age.shape)
            good[0] = True
        tested = np.logical_or.accumulate((round.age >= 0)[::-1], axis=0)[::-1]
        broken = (state.mask & ~round.evaluated) & window.valid
        allowed = good & tested & sound & ~broken & window.valid
        accepted = np.logical_and.accumulate(allowed, axis=0).sum(axis=0)
        if state.problem.lockstep and running.any():
            accepted = np.where(running, accepted[running].min(), accepted)
        accepted = np.where(running, accepted, 0)
        return attrs.evolve(state, status=status), accepted.astype(np.int64), exact

    def _solve(
        self, state: EngineState, round: Round, local: Local | None
    ) -> list[torch.Tensor] | tuple[torch.Tensor, Bools, Krylov]:
        """The next iterate: the chain, or what damping, preconditioner or the Jacobian part's own solve make of it."""
        composition = self.composition
        jacobian, preconditioner, damping = composition.jacobian, composition.preconditioner, composition.damping
        own = type(jacobian).solve is not JacobianApproximation.solve
        if not own and preconditioner.null and damping.null:
            return round.chain
        shape = round.age.shape
        following: list[torch.Tensor] | None = None
        again = round.window.running
        for _ in range(damping.retries + 1):
            if not damping.null:
                with calling("damping", damping, round):
                    given = damping.factors(round, state.parts["damping"])
                factors = numbers_from("damping", damping, given, shape)
                round.damping = np.where(again[None, :], factors, round.damping)
            trial: Any = None
            if own:
                rhs = weights = None
                if jacobian.reads_residuals:
                    rhs = self._rhs(state, round, self._residual(round))
                    adapted = self._adapted(state, round)
                    with calling("residual", composition.residual, round):
                        weights = composition.residual.weights(round.window, adapted)
                with calling("jacobian", jacobian, round, None if rhs is None else [rhs]):
                    trial = jacobian.solve(round, weights, rhs, round.damping, state.parts["jacobian"])
            if trial is None:
                rhs = None if preconditioner.null else self._rhs(state, round, round.one_step)
                with calling("jacobian", jacobian, round):
                    trial = sweep_damped(round, local, rhs)
            if hasattr(trial, "send"):
                asked = self._ask(round, trial, None)
                if not isinstance(asked, tuple):
                    self._review(state, round, asked)
                return asked
            rows = self._contain(round, trial)
            if following is not None:  # only the samples that were sent back move
                rows = [where_rows(again, new, old) for new, old in zip(rows, following, strict=True)]
            following = rows
            again = self._review(state, round, following) & round.window.running
            if not again.any():
                break
        assert following is not None
        return following

    def _review(self, state: EngineState, round: Round, following: list[torch.Tensor]) -> Bools:
        """Let the damping policy judge the next iterate; ``(B,)`` samples that it sends back."""
        part = self.composition.damping
        if part.null:
            return np.zeros(round.window.batch, dtype=np.bool_)
        with calling("damping", part, round, following):
            judged = part.review(round, torch.stack(following[1:]), state.parts["damping"])
        if not isinstance(judged, tuple) or len(judged) != 2:
            raise StrategyError(f"damping {part!r} returned {type(judged).__name__} from review; (retry, state) needed")
        retry, state.parts["damping"] = judged
        if retry is None:
            return np.zeros(round.window.batch, dtype=np.bool_)
        return np.asarray(mask_from("damping", part, retry, round.age.shape).any(axis=0), dtype=np.bool_)

    def _residual(self, round: Round) -> torch.Tensor:
        with calling("residual", self.composition.residual, round):
            return round.residual

    def _adapted(self, state: EngineState, round: Round) -> Any:
        """The residual part's next state, made once per round."""
        if round._adapted is None:
            part = self.composition.residual
            with calling("residual", part, round):
                round._adapted = (part.adapt(round, state.parts["residual"]),)
        return round._adapted[0]

    def _rhs(self, state: EngineState, round: Round, residual: torch.Tensor) -> torch.Tensor:
        part = self.composition.preconditioner
        if part.null:
            return residual
        with calling("preconditioner", part, round, [residual]):
            rhs = part.apply(round, residual, round.damping, state.parts["preconditioner"])
        rows = rows_from("preconditioner", part, rhs, round.window.rows, residual[0])
        finite = finite_rows(rows)
        return torch.stack([where_rows(finite[r], row, residual[r]) for r, row in enumerate(rows)])

    def _contain(self, round: Round, trial: Any) -> list[torch.Tensor]:
        """Trial states as rows, the chain's where they are not finite."""
        rows = rows_from("jacobian", self.composition.jacobian, trial, round.window.rows, round.chain[0])
        finite = finite_rows(rows)
        return [round.chain[0]] + [where_rows(finite[r], row, round.chain[r + 1]) for r, row in enumerate(rows)]

    # -- Krylov requests ----------------------------------------------------------------------------------------

    def _ask(
        self, round: Round, generator: Krylov, answer: torch.Tensor | None
    ) -> list[torch.Tensor] | tuple[torch.Tensor, Bools, Krylov]:
        """Run the generator until it asks something that may be asked, or ends."""
        part, window = self.composition.jacobian, round.window
        shape, starting = (window.rows, *round.chain[0].shape), answer is None
        for _ in range(MAX_REFUSALS):
            try:
                with calling("jacobian", part, round):
                    asked = next(generator) if starting else generator.send(answer)
            except StopIteration as end:
                return self._contain(round, end.value)
            if not isinstance(asked, tuple) or len(asked) != 2:
                raise StrategyError(f"jacobian {part!r} asked with {type(asked).__name__}; (tangents, who) is needed")
            tangents = torch.stack(rows_from("jacobian", part, asked[0], shape[0], round.chain[0]))
            who = mask_from("jacobian", part, asked[1], (window.batch,)) & window.running & (round.spare > 0)
            if who.any():
                return torch.nan_to_num(tangents), who, generator
            starting, answer = False, None
        generator.close()
        raise StrategyError(f"jacobian {part!r} asked {MAX_REFUSALS} times though no rounds are left to spend")

    def _advance_krylov(self, state: EngineState, pending: _Krylov, outputs: Outputs) -> EngineState:
        round, mask = pending.round, pending.round.window.valid & pending.who[None, :]
        jvps = _check_products(outputs.jvps, int(mask.sum()), state.problem.x0)
        products = torch.zeros_like(pending.tangents)
        products[torch.from_numpy(mask).to(products.device)] = torch.nan_to_num(jvps)
        round.spare = round.spare - pending.who
        state = attrs.evolve(
            state,
            parts=dict(state.parts),
            rounds=state.rounds + pending.who,
            evaluations=state.evaluations + mask.sum(axis=0),
            calls=state.calls + outputs.calls,
            largest=max(state.largest, int(mask.sum())),
            total_rounds=state.total_rounds + 1,
        )
        following = self._ask(round, pending.generator, products)
        if isinstance(following, tuple):
            pending.tangents, pending.who, pending.generator = following
            return state
        self._review(state, round, following)
        state = attrs.evolve(state, krylov=None)
        return self._finish(state, round, pending.accepted, pending.exact, pending.used, following)

    # -- slide --------------------------------------------------------------------------------------------------

    def _finish(
        self,
        state: EngineState,
        round: Round,
        accepted: Ints,
        exact: Bools,
        used: list[torch.Tensor],
        following: list[torch.Tensor],
    ) -> EngineState:
        """Book what was accepted, let the parts learn, move the window."""
        window, steps = round.window, state.problem.scheme.steps
        running = state.status == Status.RUNNING
        inside = np.arange(window.rows)[:, None] < accepted[None, :]
        front = np.where(running, state.front + accepted, state.front)
        inexact = state.inexact | (inside & ~exact).any(axis=0)
        residual = np.maximum(state.residual, np.where(inside, round.gap, 0.0).max(axis=0))
        interpolated = state.interpolated + (inside & (round.age < 0)).sum(axis=0)
        trace = None if state.trace is None else (*state.trace, self._record(state, round, accepted))
        parts = self._learn(state, round, accepted)
        done = running & (front >= steps)
        outcome = np.where(inexact, int(self.composition.stopping.outcome), int(Status.EXACT))
        status = np.where(done, outcome, state.status)
        ended = (status != Status.RUNNING) & (window.running | running)
        final = state.final
        if ended.any():
            final = where_rows(ended, pick(round.chain, np.where(running, accepted, 0)[None, :])[0], final)
        if state.trajectory is not None:
            _record_states(state.trajectory, round.chain, state.front, accepted)
        newest = state.newest
        if state.preview:
            shown = _data_prediction(round, accepted, used)
            newest = shown if newest is None or shown is None else where_rows(accepted > 0, shown, newest)
        running = status == Status.RUNNING
        state = attrs.evolve(
            state,
            front=front,
            status=status,
            inexact=inexact,
            residual=residual,
            interpolated=interpolated,
            final=final,
            trace=trace,
            parts=parts,
            newest=newest,
        )
        if not running.any():
            return attrs.evolve(state, states=[final], outputs=[], anchors=[], mask=state.mask[:0])
        shift = np.where(running, accepted, accepted[np.argmax(running)])
        rows = self._span(steps, int((state.at + shift)[running].min()))
        target = np.arange(rows + 1)[:, None] + shift[None, :]
        inner = np.minimum(target[:-1], window.rows - 1)
        fresh = target[:-1] >= window.rows
        memory = state.problem.scheme.memory
        is_chain = following is round.chain
        state = attrs.evolve(
            state,
            at=np.where(running, state.at + shift, (state.at + shift)[np.argmax(running)]),
            states=pick(following, np.minimum(target, window.rows), fixed=round.chain, until=shift),
            outputs=pick(round.outputs, inner),
            anchors=pick(round.anchors, inner),
            age=np.where(fresh, -1, np.take_along_axis(round.age, inner, axis=0)),
            reach=np.where(fresh | (not is_chain), np.nan, np.take_along_axis(round.gap, inner, axis=0)),
            past_x=slide_past(state.past_x, round.chain, shift, memory),
            past_f=slide_past(state.past_f, used, shift, memory),
        )
        entering = (target > window.rows) & running[None, :]
        if entering.any():
            state = attrs.evolve(state, states=self._enter(state, entering, round))
        return self._choose(state)

    def _learn(self, state: EngineState, round: Round, accepted: Ints) -> dict[str, Any]:
        """Every part's state after the round."""
        parts, composition = dict(state.parts), self.composition
        parts["residual"] = self._adapted(state, round)
        for kind in ("jacobian", "preconditioner", "stopping", "initializer", "selection"):
            part: Any = getattr(composition, kind)
            with calling(kind, part, round):
                if kind == "stopping":
                    parts[kind] = part.observe(round, accepted.copy(), parts[kind])
                else:
                    parts[kind] = part.observe(round, parts[kind])
        return parts

    def _enter(self, state: EngineState, entering: Bools, last: Round | None) -> list[torch.Tensor]:
        """The states with guesses in the entering rows; a guess that is not finite becomes a copy."""
        part = self.composition.initializer
        window = self._window(state, state.running)
        known = list(state.states)
        with calling("initializer", part, known, window, last):
            guesses = part.enter(window, entering.copy(), last, state.parts["initializer"])
        rows = rows_from("initializer", part, guesses, len(known), known[0])
        changed = [r for r in range(len(known)) if entering[r].any()]
        finite = finite_rows([rows[r] for r in changed])
        for i, r in enumerate(changed):
            known[r] = where_rows(entering[r] & finite[i], rows[r], known[r])
        return known

    def _choose(self, state: EngineState) -> EngineState:
        """Decide which rows the next request evaluates, and with which tangents."""
        composition, window = self.composition, self._window(state, state.running)
        part = composition.selection
        with calling("selection", part, window):
            chosen = part.rows(window, state.parts["selection"])
        mask: Bools = np.asarray(mask_from("selection", part, chosen, window.valid.shape) & window.valid)
        mask[0] = window.running
        if state.problem.lockstep:  # all samples are evaluated at one node, or none
            mask = np.asarray(mask.any(axis=1, keepdims=True) & window.valid)
        mask &= np.cumsum(mask, axis=0) <= composition.window
        mask[1:] &= state.rounds[None, :] >= composition.warmup
        jacobian, tangents = composition.jacobian, None
        if not jacobian.null:
            with calling("jacobian", jacobian, window):
                probes = jacobian.probes(window, state.parts["jacobian"])
            if probes is not None:
                rows = rows_from("jacobian", jacobian, probes, window.rows, state.states[0])
                tangents = torch.nan_to_num(torch.stack(rows))
        return attrs.evolve(state, mask=mask, tangents=tangents)

    # -- results ------------------------------------------------------------------------------------------------

    def result(self, state: EngineState, *, unfinished: Status = Status.INTERRUPTED) -> Result:
        """The result so far."""
        sample = where_rows(state.running, state.states[0], state.final)
        status = tuple(Status(int(s)) if s else unfinished for s in state.status)
        return Result(
            sample=sample,
            status=status,
            front=state.front,
            rounds=state.rounds,
            evaluations=state.evaluations,
            network_calls=state.calls,
            total_rounds=state.total_rounds,
            largest_request=state.largest,
            residual=state.residual,
            interpolated=state.interpolated,
            error_estimate=self.composition.stopping.estimate(state.parts["stopping"])
            if self.composition.tolerance > 0
            else np.zeros(state.problem.batch),
            steps=state.problem.scheme.steps,
            trajectory=state.trajectory,
            trace=state.trace,
        )

    def plain(self, state: EngineState) -> dict[str, Any]:
        """The state as numbers, tensors, lists and dicts.

        Raises:
            CheckpointError: in the middle of a Krylov solve; finish its round first.
        """
        if state.krylov is not None:
            raise CheckpointError("a linear solve is under way; take the checkpoint after its round")
        fields = {
            name: to_plain(getattr(state, name))
            for name in attrs.fields_dict(EngineState)
            if name not in ("problem", "tape", "krylov", "trace")
        }
        fields["trace"] = None if state.trace is None else [to_plain(attrs.asdict(t)) for t in state.trace]
        fields["tape"] = to_plain(state.tape.plain())
        fields["composition"] = repr(self.composition)
        fields["problem"] = problem_digest(state.problem)
        return fields

    def restore(self, problem: Problem, data: dict[str, Any]) -> EngineState:
        """The state that :meth:`plain` described.

        Raises:
            CheckpointError: if the data belongs to another composition or problem, or is damaged.
        """
        if data.get("composition") != repr(self.composition):
            raise CheckpointError(
                f"the checkpoint was made by {data.get('composition')}; this sampler is {self.composition!r}"
            )
        if data.get("problem") != problem_digest(problem):
            raise CheckpointError(
                f"the checkpoint belongs to another problem than {problem.scheme!r} with x0 {tuple(problem.x0.shape)} "
                f"{problem.x0.dtype}: scheme, x0, generator or lockstep differ; pass the same ones"
            )
        try:
            apart = ("composition", "problem", "tape", "trace")
            fields = {k: from_plain(v) for k, v in data.items() if k not in apart}
            if tuple(fields["final"].shape) != tuple(problem.x0.shape):
                raise CheckpointError(f"the checkpoint's samples are {tuple(fields['final'].shape)}")
            fields["trace"] = (
                None if data["trace"] is None else tuple(RoundTrace(**from_plain(t)) for t in data["trace"])
            )
            tape = problem.tape()
            tape.restore(from_plain(data["tape"]))
            return EngineState(problem=problem, tape=tape, **fields)
        except CheckpointError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"the checkpoint is damaged: {type(error).__name__}: {error}") from error

    # -- small helpers ------------------------------------------------------------------------------------------

    def _span(self, steps: int, front: int) -> int:
        return max(1, min(self.composition.selection.span(self.composition.window), steps - front))

    def _window(self, state: EngineState, running: Bools) -> Window:
        scheme = state.problem.scheme
        return Window(
            scheme,
            state.tape,
            state.at,
            state.rounds,
            running,
            self.composition.window,
            state.states,
            state.past_x,
            state.past_f,
            scheme.form_gain(self.composition.output_form),
            self.composition.tolerance,
        )

    def _record(self, state: EngineState, round: Round, accepted: Ints) -> RoundTrace:
        residual = self.composition.residual
        return RoundTrace(
            front=state.front,
            accepted=accepted,
            evaluated=round.evaluated,
            residual=round.one_step_rms,
            gap=round.gap,
            look_ahead=residual.look_ahead(round.window, state.parts["residual"]),
            damping=round.damping,
        )


def _gather(
    problem: Problem, nodes: Ints, mask: Bools, rows: list[torch.Tensor], tangents: torch.Tensor | None
) -> Request:
    """The rows that a mask selects, row by row, as one request."""
    states, directions = [], []
    for r in range(len(mask)):
        if mask[r].all():
            states.append(rows[r])
            if tangents is not None:
                directions.append(tangents[r])
        elif mask[r].any():
            index = torch.from_numpy(np.flatnonzero(mask[r])).to(rows[r].device)
            states.append(rows[r][index])
            if tangents is not None:
                directions.append(tangents[r][index])
    picked = nodes[mask]
    return Request(
        nodes=torch.from_numpy(picked),
        samples=torch.from_numpy(np.broadcast_to(np.arange(mask.shape[1]), mask.shape)[mask]),
        states=states[0] if len(states) == 1 else torch.cat(states),
        times=torch.from_numpy(problem.scheme.time[picked]),
        tangents=torch.cat(directions) if directions else None,
    )


def _scatter(block: torch.Tensor, asked: Bools, good: Bools, old: torch.Tensor) -> torch.Tensor:
    """Rows of ``block`` (one per asked sample) laid over ``old`` where good."""
    if good.all():
        return block
    new = old.clone()
    inside = torch.from_numpy(good[asked]).to(block.device)
    new[torch.from_numpy(np.flatnonzero(good)).to(block.device)] = block[inside]
    return new


def _check_outputs(values: Any, rows: int, like: torch.Tensor) -> None:
    expected = (rows, *like.shape[1:])
    if not isinstance(values, torch.Tensor):
        raise DenoiserError(f"the network returned {type(values).__name__}; a tensor {expected} is needed")
    if tuple(values.shape) != expected:
        raise DenoiserError(f"the network returned shape {tuple(values.shape)}; {expected} is needed (rows, *event)")
    if values.dtype != like.dtype:
        raise DenoiserError(
            f"the network returned {values.dtype}, the states are {like.dtype}: convert its output, or x0"
        )
    if values.device != like.device:
        raise DenoiserError(f"the network returned a tensor on {values.device}, the states are on {like.device}")


def _check_products(jvps: Any, rows: int, like: torch.Tensor) -> torch.Tensor:
    if jvps is None:
        raise DenoiserError("the evaluator returned no Jacobian-vector products though tangents were given")
    _check_outputs(jvps, rows, like)
    assert isinstance(jvps, torch.Tensor)
    return jvps


def _compact(row: torch.Tensor) -> torch.Tensor:
    """A row that is carried on must not keep the whole request alive that it is a view of."""
    own = row.numel() * row.element_size()
    return row.clone() if row.untyped_storage().nbytes() > own else row


def _record_states(trajectory: torch.Tensor, chain: list[torch.Tensor], front: Ints, accepted: Ints) -> None:
    for r in range(int(accepted.max(initial=0))):
        who = np.flatnonzero(accepted > r)
        index = torch.from_numpy(who).to(trajectory.device)
        trajectory[torch.from_numpy(front[who] + r + 1).to(trajectory.device), index] = chain[r + 1][index]


def _data_prediction(round: Round, accepted: Ints, used: list[torch.Tensor]) -> torch.Tensor | None:
    """The data predicted at each sample's newest accepted node, where the scheme knows its levels."""
    scheme, window = round.window.scheme, round.window
    if scheme.levels is None or scheme.prediction is None:
        return None
    row = np.maximum(accepted - 1, 0)[None, :]
    node = np.minimum(window.front + row[0], scheme.steps - 1)
    u, v = scheme.levels.conversion(scheme.prediction, "data", slice(0, scheme.steps))
    x, f = pick(round.chain, row)[0], pick(used, row)[0]
    shape = (-1,) + (1,) * (x.ndim - 1)
    first, second = (torch.from_numpy(w[node]).to(x).reshape(shape) for w in (u, v))
    return x * first + f * second
