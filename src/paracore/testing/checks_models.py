"""Checks of models."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch

from paracore.errors import ConfigurationError, SchemeError
from paracore.model import Model
from paracore.request import Denoiser, Rows
from paracore.schemes import Scheme, ddim, edm_euler, flow_euler
from paracore.testing.drive import CheckFailure
from paracore.testing.problems import exponential_scheme
from paracore.testing.runs import seeded
from paracore.testing.subject import Subject, subject_of

__all__ = [
    "check_model_answers_its_scheme",
    "check_model_counts_calls",
    "check_model_images",
    "check_model_labels_follow_their_samples",
    "check_model_outputs",
    "check_model_refuses_what_it_lacks",
    "check_model_rows_are_independent",
]

STEPS = 6
SCHEMES = (flow_euler, ddim, edm_euler)


def _model(subject: Subject) -> Model:
    if "model" not in subject.memo:
        subject.memo["model"] = subject.model()
    found: Model = subject.memo["model"]
    return found


def _labels(model: Model, batch: int) -> torch.Tensor | None:
    return torch.arange(batch) % model.classes if model.classes else None


def _states(model: Model, scheme: Scheme, rows: Rows, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(len(rows.node), *model.shape, generator=generator, dtype=torch.float64)
    assert scheme.levels is not None
    size = np.hypot(scheme.levels.alpha, scheme.levels.sigma)[rows.node.numpy()]
    return (noise * torch.from_numpy(size).reshape(-1, *[1] * len(model.shape))).to(dtype)


def _rows(batch: int = 3) -> Rows:
    return Rows(node=torch.tensor([0, 2, 5, 2, 4])[: batch + 2], sample=torch.tensor([0, 1, 2, 0, 1])[: batch + 2])


def _call(network: Denoiser, scheme: Scheme, x: torch.Tensor, rows: Rows) -> torch.Tensor:
    wide = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
    with torch.no_grad():
        return network(x, torch.from_numpy(scheme.time[rows.node.numpy()]).to(wide), rows)


def check_model_outputs(thing: Any) -> None:
    """Outputs have the states' shape and dtype, are finite, and the same when asked again; states are left alone."""
    subject = subject_of(thing)
    model = _model(subject)
    if not (isinstance(model.shape, tuple) and all(isinstance(n, int) and n > 0 for n in model.shape)):
        raise CheckFailure(f"{subject.label}: shape is {model.shape!r}; a tuple of sizes is needed")
    for build in SCHEMES:
        scheme = build(STEPS)
        network = model.denoiser(scheme, _labels(model, 3))
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = _states(model, scheme, _rows(), dtype)
            before = x.clone()
            with seeded(1) as nothing_drawn:
                one = _call(network, scheme, x, _rows())
                if not nothing_drawn():
                    raise CheckFailure(f"{subject.label}: draws from a global random generator")
            with seeded(2):
                two = _call(network, scheme, x, _rows())
            where = f"{subject.label}, {scheme.name}, {dtype}"
            if one.shape != x.shape or one.dtype != dtype:
                raise CheckFailure(f"{where}: gives {tuple(one.shape)} {one.dtype} for {tuple(x.shape)} {dtype}")
            if not bool(torch.isfinite(one).all()):
                raise CheckFailure(f"{where}: outputs are not finite")
            if not torch.equal(x, before):
                raise CheckFailure(f"{where}: writes into the states")
            if not torch.equal(one, two):
                raise CheckFailure(f"{where}: asked twice, it gives two answers")
            if one.data_ptr() == two.data_ptr():
                raise CheckFailure(f"{where}: gives the same buffer again; a new tensor is needed each time")


def check_model_rows_are_independent(thing: Any) -> None:
    """A row's output does not depend on which other rows are in the call, nor on their order."""
    subject = subject_of(thing)
    model = _model(subject)
    scheme = flow_euler(STEPS)
    for guidance in (1.0, 2.0) if model.classes else (1.0,):
        network = model.denoiser(scheme, _labels(model, 3), guidance)
        rows = _rows()
        x = _states(model, scheme, rows, torch.float64)
        together = _call(network, scheme, x, rows)
        for i in range(len(x)):
            one = Rows(rows.node[i : i + 1], rows.sample[i : i + 1])
            _near(together[i : i + 1], _call(network, scheme, x[i : i + 1], one), f"{subject.label}: row {i} alone")
        order = torch.tensor([4, 2, 0, 3, 1])
        turned = _call(network, scheme, x[order], Rows(rows.node[order], rows.sample[order]))
        _near(together[order], turned, f"{subject.label}: rows in another order")


def _near(left: torch.Tensor, right: torch.Tensor, what: str, most: float = 1e-5) -> None:
    off = float((left - right).abs().max())
    if not off <= most * (1.0 + float(left.abs().max())):
        raise CheckFailure(f"{what}: outputs differ by {off:.2g}")


def check_model_labels_follow_their_samples(thing: Any) -> None:
    """Conditions go with ``rows.sample``: another label changes that sample's rows and no others."""
    subject = subject_of(thing)
    model = _model(subject)
    if model.classes < 2:
        return
    scheme = flow_euler(STEPS)
    rows = _rows()
    x = _states(model, scheme, rows, torch.float64)
    labels = _labels(model, 3)
    assert labels is not None
    other = labels.clone()
    other[1] = (labels[1] + 1) % model.classes
    one = _call(model.denoiser(scheme, labels), scheme, x, rows)
    two = _call(model.denoiser(scheme, other), scheme, x, rows)
    mine = rows.sample == 1
    _near(one[~mine], two[~mine], f"{subject.label}: sample 1 has another label, the others' rows")
    if torch.equal(one[mine], two[mine]):
        raise CheckFailure(f"{subject.label}: sample 1 has another label, and the same outputs")


def check_model_answers_its_scheme(thing: Any) -> None:
    """It returns ``scheme.prediction`` at the scheme's noise levels: of the data it says the same in any form."""
    subject = subject_of(thing)
    model = _model(subject)
    rows = _rows()
    for scheme, forms in ((flow_euler(STEPS), ("velocity", "data")), (ddim(STEPS), ("velocity", "noise", "data"))):
        x = _states(model, scheme, rows, torch.float64)
        found = []
        for prediction in forms:
            assert scheme.levels is not None
            told = attrs.evolve(scheme, prediction=prediction)
            output = _call(model.denoiser(told, _labels(model, 3)), told, x, rows)
            found.append(_data(told, rows, x, output))
        for prediction, data in zip(forms[1:], found[1:], strict=True):
            scale = float(found[0].abs().max()) + 1.0
            off = float((data - found[0]).abs().max())
            if not off <= 1e-3 * scale:
                raise CheckFailure(
                    f"{subject.label}: asked for {prediction} instead of velocity on {scheme.name}, its data "
                    f"prediction is off by {off:.2g}"
                )
    coarse, fine = flow_euler(STEPS), flow_euler(2 * STEPS)
    x = _states(model, coarse, rows, torch.float64)
    twice = Rows(2 * rows.node, rows.sample)
    one = _call(model.denoiser(coarse, _labels(model, 3)), coarse, x, rows)
    two = _call(model.denoiser(fine, _labels(model, 3)), fine, x, twice)
    _near(one, two, f"{subject.label}: the same noise levels in a scheme of twice as many steps", 1e-3)


def _data(scheme: Scheme, rows: Rows, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The data prediction that an output stands for."""
    assert scheme.levels is not None
    assert scheme.prediction is not None
    u, v = scheme.levels.conversion(scheme.prediction, "data", slice(0, scheme.steps))
    shape = (-1, *[1] * (x.ndim - 1))
    node = rows.node.numpy()
    return torch.from_numpy(u[node]).reshape(shape) * x + torch.from_numpy(v[node]).reshape(shape) * output


def check_model_refuses_what_it_lacks(thing: Any) -> None:
    """Labels that there are none of, guidance without labels, and schemes that it cannot serve are refused."""
    subject = subject_of(thing)
    model = _model(subject)
    scheme = flow_euler(STEPS)
    wrong: list[tuple[str, Any]] = [("guidance without labels", (scheme, None, 2.0))]
    if model.classes:
        wrong.append(("a label beyond the classes", (scheme, torch.tensor([model.classes]), 1.0)))
        wrong.append(("labels that are no integers", (scheme, torch.tensor([0.5]), 1.0)))
    else:
        wrong.append(("labels without classes", (scheme, torch.tensor([0]), 1.0)))
    for what, arguments in wrong:
        try:
            model.denoiser(*arguments)
        except ConfigurationError:
            continue
        except Exception as error:
            raise CheckFailure(
                f"{subject.label}: {what} raised {type(error).__name__}, no ConfigurationError"
            ) from error
        raise CheckFailure(f"{subject.label}: {what} is taken; see Model.check_request")
    bare = exponential_scheme(STEPS)
    x = torch.randn(5, *model.shape, generator=torch.Generator().manual_seed(0))
    try:
        output = _call(model.denoiser(bare), bare, x, _rows())
    except SchemeError:
        return
    except Exception as error:
        raise CheckFailure(
            f"{subject.label}: a scheme without noise levels raised {type(error).__name__}; a SchemeError is needed"
        ) from error
    if output.shape != x.shape:
        raise CheckFailure(f"{subject.label}: on a scheme without noise levels it gives {tuple(output.shape)}")


def check_model_images(thing: Any) -> None:
    """Pictures, if it has any, are ``(B, H, W)`` or ``(B, H, W, 3)`` numbers in [0, 1]; samples are left alone."""
    subject = subject_of(thing)
    model = _model(subject)
    samples = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(0)) * 2
    before = samples.clone()
    pictures = model.images(samples)
    if not torch.equal(samples, before):
        raise CheckFailure(f"{subject.label}: images writes into the samples")
    if pictures is None:
        return
    if pictures.ndim not in (3, 4) or len(pictures) != 3 or (pictures.ndim == 4 and pictures.shape[-1] != 3):
        raise CheckFailure(f"{subject.label}: images are {tuple(pictures.shape)}; (B, H, W) or (B, H, W, 3) is needed")
    if float(pictures.min()) < 0 or float(pictures.max()) > 1:
        raise CheckFailure(f"{subject.label}: images reach {float(pictures.min()):.3g} to {float(pictures.max()):.3g}")


def check_model_counts_calls(thing: Any) -> None:
    """``calls_per_evaluation`` says what an evaluation costs: two passes, where guidance extrapolates from two."""
    subject = subject_of(thing)
    model = _model(subject)
    scheme, rows = flow_euler(STEPS), _rows()
    plain = model.denoiser(scheme, _labels(model, 3))
    costs = [getattr(plain, "calls_per_evaluation", 1)]
    if model.classes:
        x = _states(model, scheme, rows, torch.float64)
        one, two, three = (
            _call(model.denoiser(scheme, _labels(model, 3), g), scheme, x, rows) for g in (1.0, 2.0, 3.0)
        )
        guided = model.denoiser(scheme, _labels(model, 3), 2.0)
        costs.append(getattr(guided, "calls_per_evaluation", 1))
        spread = float((two - one).abs().max())
        if spread > 0 and float((three - 2 * two + one).abs().max()) <= 1e-6 * spread and costs[1] < 2:
            raise CheckFailure(f"{subject.label}: guidance extrapolates from two passes, and it says that it makes one")
    for cost in costs:
        if isinstance(cost, bool) or not isinstance(cost, int) or cost < 1:
            raise CheckFailure(f"{subject.label}: calls_per_evaluation is {cost!r}; an integer of at least 1 is needed")
