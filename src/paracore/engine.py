"""The engine: one loop over seven kinds of strategies, as a state machine on plain data."""

from __future__ import annotations

import operator
from typing import Any

import attrs
import numpy as np
import torch

from paracore.chain import exact_rows, sweep_chain
from paracore.checkpoint import from_plain, problem_digest, to_plain
from paracore.composition import KINDS, Composition
from paracore.errors import CheckpointError
from paracore.exchange import check_outputs, check_products, gather, receive
from paracore.guard import calling, finite_rows, mask_from, rows_from
from paracore.iterate import adapted, ask, next_iterate, review
from paracore.problem import Problem
from paracore.request import Outputs, Request
from paracore.result import Result, RoundTrace
from paracore.sampler import Sampler
from paracore.slide import lay_over, pick, pick_numbers, slide_past
from paracore.state import RUNNING, EngineState, Pending
from paracore.status import Status
from paracore.window import Bools, Ints, Local, Round, Window, where_rows

__all__ = ["Engine", "EngineState"]

NONFINITE_STATE = int(Status.NONFINITE_STATE)


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
            forecast=None,
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
        view = self._window(state)
        states = self._enter(state, view, entering, None)
        return self._choose(state.but(states=states), view.moved(states))

    def request(self, state: EngineState) -> Request | None:
        """The selected rows of all running samples, row by row; ``None`` when all have ended."""
        if state.krylov is not None:
            pending = state.krylov
            mask = pending.round.window.valid & pending.who[None, :]
            return gather(state.problem, pending.round.window.nodes, mask, pending.round.anchors, pending.tangents)
        if not state.running.any():
            return None
        if state.problem.scheme.stochastic:
            # Freed here, not when the front moves: an advance that is interrupted leaves a state that can go on.
            state.tape.free(int(state.at[state.running].min()))
        nodes = state.at[None, :] + np.arange(len(state.mask))[:, None]
        return gather(state.problem, nodes, state.mask, state.states, state.tangents)

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
        asked = int(np.count_nonzero(mask))
        check_outputs(outputs.values, asked, state.problem.x0)
        if state.tangents is not None:
            check_products(outputs.jvps, asked, state.problem.x0)
        state = state.but(
            parts=dict(state.parts),
            rounds=state.rounds + state.running,
            evaluations=state.evaluations + mask.sum(axis=0),
            calls=state.calls + outputs.calls,
            largest=max(state.largest, asked),
            total_rounds=state.total_rounds + 1,
        )
        state, round = receive(self.composition, state, outputs, self._window(state))
        if not state.running.any():
            return state
        local, used, sound = self._move(state, round)
        state, accepted, exact = self._accept(state, round, sound)
        following = next_iterate(self.composition, state, round, local)
        if isinstance(following, tuple):
            tangents, who, generator = following
            pending = Pending(round, local, accepted, exact, used, generator, tangents, who)
            return state.but(krylov=pending)
        return self._finish(state, round, accepted, exact, used, following)

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
        if failing.any():
            state = state.but(status=np.where(failing, NONFINITE_STATE, state.status))
        running = state.running
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
        return state, accepted.astype(np.int64), exact

    # -- Krylov requests ----------------------------------------------------------------------------------------

    def _advance_krylov(self, state: EngineState, pending: Pending, outputs: Outputs) -> EngineState:
        round, mask = pending.round, pending.round.window.valid & pending.who[None, :]
        jvps = check_products(outputs.jvps, int(mask.sum()), state.problem.x0)
        products = torch.zeros_like(pending.tangents)
        products[torch.from_numpy(mask).to(products.device)] = torch.nan_to_num(jvps)
        round.spare = round.spare - pending.who
        state = state.but(
            parts=dict(state.parts),
            rounds=state.rounds + pending.who,
            evaluations=state.evaluations + mask.sum(axis=0),
            calls=state.calls + outputs.calls,
            largest=max(state.largest, int(mask.sum())),
            total_rounds=state.total_rounds + 1,
        )
        following = ask(self.composition, round, pending.generator, products)
        if isinstance(following, tuple):
            pending.tangents, pending.who, pending.generator = following
            return state
        review(self.composition, state, round, following)
        state = state.but(krylov=None)
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
        running = state.running
        inside = np.arange(window.rows)[:, None] < accepted[None, :]
        front = np.where(running, state.front + accepted, state.front)
        inexact = state.inexact | (inside & ~exact).any(axis=0)
        residual = np.maximum(state.residual, np.where(inside, round.gap, 0.0).max(axis=0))
        interpolated = state.interpolated + (inside & (round.age < 0)).sum(axis=0)
        trace = None if state.trace is None else (*state.trace, self._record(state, round, accepted))
        parts = self._learn(state, round, accepted)
        done = running & (front >= steps)
        status = state.status
        if done.any():
            outcome = np.where(inexact, int(self.composition.stopping.outcome), int(Status.EXACT))
            status = np.where(done, outcome, status)
        ended = (status != RUNNING) & (window.running | running)
        final = state.final
        if ended.any():
            final = where_rows(ended, pick(round.chain, np.where(running, accepted, 0)[None, :])[0], final)
        if state.trajectory is not None:
            _record_states(state.trajectory, round.chain, state.front, accepted)
        newest = state.newest
        if state.preview:
            shown = _data_prediction(round, accepted, used)
            newest = shown if newest is None or shown is None else where_rows(accepted > 0, shown, newest)
        state = state.but(
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
        running = state.running
        if not running.any():
            return state.but(states=[final], outputs=[], anchors=[], forecast=None, mask=state.mask[:0])
        shift = np.where(running, accepted, accepted[np.argmax(running)])
        at = np.where(running, state.at + shift, (state.at + shift)[np.argmax(running)])
        rows = self._span(steps, int(at.min()))
        target = np.arange(rows + 1)[:, None] + shift[None, :]
        inner = np.minimum(target[:-1], window.rows - 1)
        fresh = target[:-1] >= window.rows
        memory = state.problem.scheme.memory
        is_chain = following is round.chain
        outputs, forecast = pick(round.outputs, inner), None
        if is_chain and not self.composition.jacobian.null:
            held = all(map(operator.is_, used, round.outputs))
            forecast = outputs if held else pick(used, inner)
        state = state.but(
            at=at,
            states=pick(following, np.minimum(target, window.rows), fixed=round.chain, until=shift),
            outputs=outputs,
            anchors=pick(round.anchors, inner),
            forecast=forecast,
            age=np.where(fresh, -1, pick_numbers(round.age, inner)),
            reach=np.where(fresh, np.nan, pick_numbers(round.gap, inner)) if is_chain else np.full(fresh.shape, np.nan),
            past_x=slide_past(state.past_x, round.chain, shift, memory),
            past_f=slide_past(state.past_f, used, shift, memory),
        )
        entering = (target > window.rows) & running[None, :]
        view = self._window(state)
        if entering.any():
            state = state.but(states=self._enter(state, view, entering, round))
            view = view.moved(state.states)
        return self._choose(state, view)

    def _learn(self, state: EngineState, round: Round, accepted: Ints) -> dict[str, Any]:
        """Every part's state after the round."""
        parts, composition = dict(state.parts), self.composition
        parts["residual"] = adapted(self.composition, state, round)
        for kind in ("jacobian", "preconditioner", "stopping", "initializer", "selection"):
            part: Any = getattr(composition, kind)
            if type(part).observe is KINDS[kind].observe:  # type: ignore[attr-defined]
                continue  # learns nothing
            with calling(kind, part, round):
                if kind == "stopping":
                    parts[kind] = part.observe(round, accepted.copy(), parts[kind])
                else:
                    parts[kind] = part.observe(round, parts[kind])
        return parts

    def _enter(self, state: EngineState, window: Window, entering: Bools, last: Round | None) -> list[torch.Tensor]:
        """The states with guesses in the entering rows; a guess that is not finite becomes a copy."""
        part = self.composition.initializer
        known = list(state.states)
        with calling("initializer", part, known, window, last):
            guesses = part.enter(window, entering.copy(), last, state.parts["initializer"])
        rows = rows_from("initializer", part, guesses, len(known), known[0])
        changed = np.flatnonzero(entering.any(axis=1)).tolist()
        guesses = [rows[r] for r in changed]
        entered = lay_over(entering[changed] & finite_rows(guesses), guesses, [known[r] for r in changed])
        for r, row in zip(changed, entered, strict=True):
            known[r] = row
        return known

    def _choose(self, state: EngineState, window: Window) -> EngineState:
        """Decide which rows the next request evaluates, and with which tangents."""
        composition = self.composition
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
        # An anchor that the next round replaces is needed only to tell how far it moved: let go of its memory.
        gone = ~np.isnan(state.reach).any(axis=1) & ~window.gain_rows[2] & mask.all(axis=1)
        gone &= not composition.stopping.reads_growth
        anchors = [x if drop else a for x, a, drop in zip(state.states, state.anchors, gone, strict=False)]
        return state.but(mask=mask, tangents=tangents, anchors=anchors)

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
        return max(1, min(self.composition.selection.span(self.composition.window, steps), steps - front))

    def _window(self, state: EngineState) -> Window:
        scheme = state.problem.scheme
        return Window(
            scheme,
            state.tape,
            state.at,
            state.rounds,
            state.running,
            self.composition.window,
            state.states,
            state.past_x,
            state.past_f,
            scheme.gain(self.composition.output_form),
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
