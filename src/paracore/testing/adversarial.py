"""Strategies of all seven kinds that answer with nonsense, and stubs that do next to nothing.

What they return depends on the seed, the node and the sample's own rounds alone, so that a sample meets the same
nonsense with and without its batch mates. A sampler must stay right whatever they say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import attrs
import numpy as np
import torch

from paracore.composition import Composition
from paracore.parts import (
    AbsoluteChange,
    AllRows,
    Copy,
    DampedLinear,
    ErrorTarget,
    EveryKth,
    Hold,
    Identity,
    Linear,
    LookAhead,
    ScaledResidual,
)
from paracore.problem import Problem
from paracore.schemes import RowWeights
from paracore.strategies import (
    DampingPolicy,
    Initializer,
    JacobianApproximation,
    Krylov,
    NoDamping,
    NoJacobian,
    NoPreconditioner,
    Preconditioner,
    ResidualConstruction,
    Selection,
    StoppingRule,
)
from paracore.window import Bools, Floats, Ints, Local, Round, Window, per_sample

__all__ = [
    "MODES",
    "BadDamping",
    "BadInitializer",
    "BadJacobian",
    "BadKrylov",
    "BadPreconditioner",
    "BadResidual",
    "BadSelection",
    "BadStopping",
    "ConstantDamping",
    "ScalarJacobian",
    "ScaledPreconditioner",
    "Substitution",
    "random_composition",
]

MODES = ("random", "nan", "inf", "huge", "zero", "mixed")
"""What nonsense looks like; ``"mixed"`` draws one of the others for each row and sample."""


def _rng(seed: int, window: Window, row: int, sample: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(window.rounds[sample]), int(window.front[sample]) + row])


def _fill(rng: np.random.Generator, mode: str, shape: tuple[int, ...]) -> Floats:
    if mode == "mixed":
        mode = str(rng.choice(MODES[:-1]))
    if mode == "random":
        return rng.normal(size=shape) * 10 ** rng.uniform(-3, 3)
    number = {"nan": np.nan, "inf": np.inf, "huge": 1e30, "zero": 0.0}[mode]
    return np.full(shape, number)


def _states(seed: int, mode: str, window: Window, first: int, count: int) -> list[torch.Tensor]:
    """``count`` rows of states, from window row ``first`` on."""
    like = window.state_rows[0]
    out = []
    for r in range(first, first + count):
        row = [_fill(_rng(seed, window, r, b), mode, tuple(like.shape[1:])) for b in range(window.batch)]
        out.append(torch.from_numpy(np.stack(row)).to(like))
    return out


def _numbers(seed: int, mode: str, window: Window) -> Floats:
    """``(P, B)``."""
    return np.array(
        [[float(_fill(_rng(seed, window, r, b), mode, ())) for b in range(window.batch)] for r in range(window.rows)]
    )


def _mask(seed: int, chance: float, window: Window) -> Bools:
    """``(P, B)``."""
    rows = [[_rng(seed, window, r, b).random() < chance for b in range(window.batch)] for r in range(window.rows)]
    return np.array(rows, dtype=np.bool_)


@attrs.frozen
class BadResidual(ResidualConstruction):
    """Weights of nonsense."""

    mode: str = "random"
    seed: int = 0

    def weights(self, window: Window, state: Any) -> RowWeights:
        columns = window.scheme.memory + window.rows
        numbers = _numbers(self.seed, self.mode, window)
        wide = np.repeat(numbers[:, None, :], columns, axis=1)
        return RowWeights(wide, -wide, wide[:, : window.rows])

    def look_ahead(self, window: Window, state: Any) -> Ints:
        return np.zeros(window.nodes.shape, dtype=np.int64)


@attrs.frozen
class BadJacobian(JacobianApproximation):
    """A local response and next states of nonsense; either may be left out."""

    mode: str = "random"
    seed: int = 0
    with_local: bool = True
    with_solve: bool = True

    reads_residuals: ClassVar[bool] = True

    def local(self, round: Round, state: Any) -> Local | None:
        if not self.with_local:
            return None
        rows = _states(self.seed + 1, self.mode, round.window, 0, round.window.rows)
        return lambda row, v: rows[row]  # even where nothing moved

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor | None:
        if not self.with_solve:
            return None
        return torch.stack(_states(self.seed, self.mode, round.window, 1, round.window.rows))


@attrs.frozen
class BadKrylov(JacobianApproximation):
    """Asks for products of nonsense as long as it is answered, then returns nonsense."""

    mode: str = "random"
    seed: int = 0
    chance: float = 0.7

    needs: ClassVar[frozenset[str]] = frozenset({"jvp"})

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> Krylov:
        return self._run(round)

    def _run(self, round: Round) -> Krylov:
        rows = round.window.rows
        tangents = torch.stack(_states(self.seed, self.mode, round.window, 0, rows))
        who = _mask(self.seed + 2, self.chance, round.window)[0]
        answer = yield tangents, who
        while answer is not None:
            answer = yield tangents + answer, who
        return torch.stack(_states(self.seed + 1, self.mode, round.window, 1, rows))


@attrs.frozen
class BadPreconditioner(Preconditioner):
    """A right-hand side of nonsense."""

    mode: str = "random"
    seed: int = 0

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        return torch.stack(_states(self.seed, self.mode, round.window, 0, round.window.rows))


@attrs.frozen
class BadDamping(DampingPolicy):
    """Factors of nonsense, sent back as often as allowed."""

    mode: str = "random"
    seed: int = 0

    retries: ClassVar[int] = 2

    def factors(self, round: Round, state: Any) -> Floats:
        return _numbers(self.seed, self.mode, round.window)

    def review(self, round: Round, trial: torch.Tensor, state: Any) -> tuple[Bools, Any]:
        return _mask(self.seed + 1, 0.3, round.window), state


@attrs.frozen
class BadStopping(StoppingRule):
    """Accepts at random."""

    seed: int = 0
    chance: float = 0.5

    def converged(self, round: Round, state: Any) -> Bools:
        return _mask(self.seed, self.chance, round.window)


@attrs.frozen
class BadInitializer(Initializer):
    """Guesses of nonsense."""

    mode: str = "random"
    seed: int = 0

    def enter(self, window: Window, rows: Bools, last: Round | None, state: Any) -> list[torch.Tensor]:
        return _states(self.seed, self.mode, window, 0, window.rows + 1)


@attrs.frozen
class BadSelection(Selection):
    """Evaluates rows at random over a span of its own, and fills the others with nonsense."""

    mode: str = "random"
    seed: int = 0
    chance: float = 0.5
    extra: int = 0

    def span(self, width: int, steps: int) -> int:
        return width + self.extra

    def rows(self, window: Window, state: Any) -> Bools:
        return _mask(self.seed, self.chance, window)

    def fill(self, round: Round, rows: Bools, state: Any) -> list[torch.Tensor]:
        return _states(self.seed + 1, self.mode, round.window, 0, round.window.rows)


@attrs.frozen
class ConstantDamping(DampingPolicy):
    """The same factor everywhere."""

    value: float = 0.5

    def factors(self, round: Round, state: Any) -> Floats:
        return np.full(round.age.shape, self.value)


@attrs.frozen
class ScaledPreconditioner(Preconditioner):
    """The right-hand side times a number."""

    value: float = 0.7

    def apply(self, round: Round, rhs: torch.Tensor, damping: Floats, state: Any) -> torch.Tensor:
        return rhs * self.value


@attrs.frozen
class ScalarJacobian(JacobianApproximation):
    """``G = value * I``."""

    value: float = -0.5

    def local(self, round: Round, state: Any) -> Local:
        return lambda row, v: v * self.value


@attrs.frozen
class Substitution(JacobianApproximation):
    """``J dX = R`` with the residual's own linear part, by forward substitution: the look-ahead has no effect."""

    reads_residuals: ClassVar[bool] = True

    def solve(
        self, round: Round, weights: RowWeights | None, rhs: torch.Tensor | None, damping: Floats, state: Any
    ) -> torch.Tensor:
        assert weights is not None
        assert rhs is not None
        depth = round.window.scheme.memory
        moves = [torch.zeros_like(rhs[0])] * (depth + 1)  # of the history and the front
        for r in range(len(rhs)):
            move = -rhs[r]
            for m in range(depth + 1, depth + 1 + r):
                move = move + per_sample(weights.x[r, m], move) * moves[m]
            moves.append((move / per_sample(1.0 + damping[r], move)).to(rhs.dtype))
        return torch.stack([x + dx for x, dx in zip(round.window.state_rows[1:], moves[depth + 1 :], strict=True)])


def random_composition(
    seed: int, problem: Problem, *, tolerance: float | None = 0.0, adversarial: float = 0.5, krylov: bool = False
) -> Composition:
    """A random composition that fits a problem.

    Args:
        seed: everything is drawn from it.
        problem: for capabilities and sizes.
        tolerance: ``None`` draws one above 0.
        adversarial: chance of each part to be one of nonsense.
        krylov: allow parts that ask for products (the evaluator must answer them).
    """
    rng = np.random.default_rng([seed, 7])
    levels = problem.scheme.levels is not None

    def bad() -> bool:
        return bool(rng.random() < adversarial)

    def mode() -> str:
        return str(rng.choice(MODES))

    def number() -> int:
        return int(rng.integers(0, 1 << 20))

    def pick(*options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    forms = ["network"]
    for form in ("drift", "noise", "data", "velocity", "score", "auto"):
        with _refused() as fits:
            problem.scheme.form_gain(form)
        if fits:
            forms.append(form)
    jacobian: JacobianApproximation
    if bad():
        jacobian = BadJacobian(mode(), number(), with_local=pick(True, False), with_solve=pick(True, False))
        if krylov and bad():
            jacobian = BadKrylov(mode(), number())
    else:
        jacobian = pick(NoJacobian(), NoJacobian(), Identity(), ScalarJacobian())
    rules = [ErrorTarget(), AbsoluteChange(), *([ScaledResidual()] if levels else [])]
    return Composition(
        residual=BadResidual(mode(), number()) if bad() else LookAhead(pick(0, 1, 3)),
        jacobian=jacobian,
        preconditioner=BadPreconditioner(mode(), number())
        if bad()
        else pick(NoPreconditioner(), NoPreconditioner(), ScaledPreconditioner()),
        damping=BadDamping(mode(), number()) if bad() else pick(NoDamping(), NoDamping(), ConstantDamping()),
        stopping=BadStopping(number(), pick(0.0, 0.5, 1.0)) if bad() else pick(*rules),
        initializer=BadInitializer(mode(), number()) if bad() else pick(Copy(), Hold(), Linear(), DampedLinear(0.5)),
        selection=BadSelection(mode(), number(), pick(0.0, 0.5, 1.0), pick(0, 0, 3))
        if bad()
        else pick(AllRows(), EveryKth(2), EveryKth(3)),
        window=pick(1, 2, 3, 5, 8, 20),
        tolerance=float(10 ** rng.uniform(-6, 1)) if tolerance is None else tolerance,
        output_form=pick(*forms),
        warmup=pick(0, 0, 0, 2),
    )


class _Fits:
    def __init__(self) -> None:
        self.fits = True

    def __bool__(self) -> bool:
        return self.fits


@contextmanager
def _refused() -> Iterator[_Fits]:
    """False afterwards if the block was refused with a configuration error."""
    from paracore.errors import ConfigurationError

    fits = _Fits()
    try:
        yield fits
    except ConfigurationError:
        fits.fits = False
