"""The digits network behind any scheme, its weights file, and (slow) that what it draws are digits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file

import paracore_digits.model
import paracore_digits.plugin
from paracore.errors import ConfigurationError, PluginError, SchemeError
from paracore.model import Model
from paracore.request import Denoiser, Rows
from paracore.schemes import Scheme, ddim, dpm_solver_pp_2m, edm_euler, edm_heun, flow_euler
from paracore_digits import DigitsModel

SCHEMES = {
    "flow_euler": flow_euler(10, shift=2.0),
    "ddim": ddim(10),
    "ddim-v": ddim(10, prediction="v-prediction"),
    "edm_euler": edm_euler(10),
    "edm_heun": edm_heun(5),
    "dpm": dpm_solver_pp_2m(10),
}
each_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)


@pytest.fixture(scope="module")
def model() -> DigitsModel:
    return DigitsModel()


def normal(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def rows(nodes: list[int], samples: list[int] | None = None) -> Rows:
    return Rows(torch.tensor(nodes), torch.tensor(samples if samples is not None else list(range(len(nodes)))))


def call(denoiser: Denoiser, x: torch.Tensor, where: Rows) -> torch.Tensor:
    with torch.no_grad():
        return denoiser(x, torch.zeros(len(x)), where)


def states(scheme: Scheme, nodes: list[int], seed: int = 0) -> torch.Tensor:
    assert scheme.levels is not None
    size = torch.from_numpy(np.hypot(scheme.levels.alpha, scheme.levels.sigma)[nodes]).float()
    return size[:, None, None, None] * normal(len(nodes), seed)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@each_scheme
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_mixed_rows_equal_one_by_one(model: DigitsModel, scheme: Scheme, guidance: float) -> None:
    nodes, samples = [6, 0, 3, 3], [2, 0, 1, 2]
    denoiser = model.denoiser(scheme, torch.tensor([7, 1, 4]), guidance)
    x = states(scheme, nodes)
    together = call(denoiser, x, rows(nodes, samples))
    assert together.shape == x.shape
    assert together.dtype == torch.float32
    for i in range(len(nodes)):
        alone = call(denoiser, x[i : i + 1], rows([nodes[i]], [samples[i]]))
        assert relative(together[i : i + 1], alone) < 1e-5


@each_scheme
def test_guidance_extrapolates_from_unconditional_to_conditional(model: DigitsModel, scheme: Scheme) -> None:
    nodes, labels = [0, 4, 8], torch.tensor([3, 9, 0])
    x = states(scheme, nodes)
    plain = call(model.denoiser(scheme), x, rows(nodes))
    inside = call(model.denoiser(scheme, labels), x, rows(nodes))
    guided = call(model.denoiser(scheme, labels, 3.0), x, rows(nodes))
    assert relative(guided, plain + 3.0 * (inside - plain)) < 1e-5
    assert relative(inside, plain) > 1e-4


def test_calls_per_evaluation(model: DigitsModel) -> None:
    labels = torch.tensor([1])
    costs = [
        getattr(model.denoiser(SCHEMES["ddim"], chosen, guidance), "calls_per_evaluation", None)
        for chosen, guidance in ((None, 1.0), (labels, 1.0), (labels, 2.0))
    ]
    assert costs == [1, 1, 2]


def test_flow_velocity_is_the_network_itself(model: DigitsModel) -> None:
    scheme, nodes = flow_euler(10), [0, 5, 9]
    x, labels = normal(3), torch.tensor([1, 2, 3])
    network = model.network()
    assert scheme.levels is not None
    with torch.no_grad():  # in float32 the input is rounded to a grid of 2^-14
        expected = network(torch.round(x * 2**14) / 2**14, torch.from_numpy(scheme.levels.sigma[nodes]).float(), labels)
    assert torch.equal(call(model.denoiser(scheme, labels), x, rows(nodes)), expected)


@pytest.mark.parametrize("other", ["ddim", "ddim-v", "edm_euler", "dpm"])
@pytest.mark.parametrize("node", [1, 5, 9])
def test_same_data_prediction_at_equal_signal_to_noise(model: DigitsModel, other: str, node: int) -> None:
    """A flow scheme with a node at the other's signal-to-noise ratio sees the same data in the rescaled state."""
    scheme, labels = SCHEMES[other], torch.tensor([5])
    assert scheme.levels is not None
    a, s = float(scheme.levels.alpha[node]), float(scheme.levels.sigma[node])
    t = s / (a + s)
    flow = flow_euler(1, sigmas=[t])
    x = states(scheme, [node]).double()
    moved = x / (a + s)
    data = moved - t * call(model.denoiser(flow, labels), moved, rows([0]))
    expected = scheme.output_from_data(torch.tensor([node]), x, data)
    assert relative(call(model.denoiser(scheme, labels), x, rows([node])), expected) < 1e-9


def test_float64_and_half(model: DigitsModel) -> None:
    scheme, nodes = SCHEMES["flow_euler"], [0, 9]
    denoiser, x = model.denoiser(scheme), normal(2)
    exact = call(denoiser, x.double(), rows(nodes))
    assert exact.dtype == torch.float64
    assert relative(call(denoiser, x, rows(nodes)).double(), exact) < 1e-3  # the float32 input is on a grid
    half = call(denoiser, x.half(), rows(nodes))
    assert half.dtype == torch.float16
    assert relative(half.double(), exact) < 1e-2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch.func's own
def test_forward_mode_derivatives(model: DigitsModel) -> None:
    scheme, nodes = SCHEMES["ddim"], [3, 7]
    denoiser = model.denoiser(scheme, torch.tensor([1, 8]), 2.0)
    x, tangent, step = normal(2).double(), normal(2, seed=1).double(), 1e-5
    with torch.no_grad():
        _, jvp, *_ = torch.func.jvp(lambda y: denoiser(y, torch.zeros(2), rows(nodes)), (x,), (tangent,))
    ahead, behind = (call(denoiser, x + sign * step * tangent, rows(nodes)) for sign in (1, -1))
    assert relative(jvp, (ahead - behind) / (2 * step)) < 1e-6


def test_networks_are_shared_and_frozen(model: DigitsModel) -> None:
    network = DigitsModel().network()
    assert network is model.network()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_images(model: DigitsModel) -> None:
    samples = torch.full((2, 1, 28, 28), -1.0)
    samples[1, 0, 3, 4], samples[1, 0, 0, 0] = 1.5, 0.0
    images = model.images(samples)
    assert images.shape == (2, 28, 28)
    assert float(images[0].max()) == 0.0
    assert float(images[1, 3, 4]) == 1.0
    assert float(images[1, 0, 0]) == 0.5


def test_registered() -> None:
    factory = paracore_digits.plugin.paracore_models()["digits"]
    assert [p.kind for p in inspect.signature(factory).parameters.values()] == [inspect.Parameter.KEYWORD_ONLY]
    made = factory()
    assert isinstance(made, Model)
    assert (made.shape, made.classes) == ((1, 28, 28), 10)
    assert "CC BY-SA 3.0" in made.reference


def test_refusals(model: DigitsModel) -> None:
    with pytest.raises(SchemeError, match="has no noise levels: use a builder"):
        model.denoiser(Scheme.create(np.ones(3), np.ones(3), np.arange(3.0)))
    with pytest.raises(ConfigurationError, match=r"must lie in 0\.\.9"):
        model.denoiser(SCHEMES["ddim"], torch.tensor([10]))
    with pytest.raises(ConfigurationError, match="was given no labels"):
        model.denoiser(SCHEMES["ddim"], None, 2.0)
    with pytest.raises(ConfigurationError, match="sample 1 has no label: 1 labels were given"):
        call(model.denoiser(SCHEMES["ddim"], torch.tensor([3])), normal(1), rows([0], [1]))


# The weights file.


def shipped() -> bytes:
    return (resources.files("paracore_digits") / "weights.safetensors").read_bytes()


def truncated(path: Path) -> None:
    path.write_bytes(shipped()[:-1000])


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\n")


def lacking(path: Path) -> None:
    tensors = load(shipped())
    del tensors["head.bias"]
    save_file(tensors, path)


def wrong_shape(path: Path) -> None:
    save_file(load(shipped()) | {"head.bias": torch.zeros(2)}, path)


def non_finite(path: Path) -> None:
    save_file(load(shipped()) | {"head.bias": torch.tensor([torch.nan])}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is damaged"),
        (garbage, "is damaged"),
        (pointer, "is damaged"),
        (lacking, "is for another network (parameter 'head.bias' differs)"),
        (wrong_shape, "is for another network (parameter 'head.bias' differs)"),
        (non_finite, "is damaged (parameter 'head.bias' has non-finite numbers)"),
        (lambda path: None, "cannot be read (No such file or directory)"),
        (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
    ],
)
def test_bad_weights_files_are_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "weights.safetensors"
    damage(path)
    with pytest.raises(ConfigurationError) as caught:
        DigitsModel(weights=str(path))
    text = str(caught.value)
    assert message in text
    assert str(path) in text
    assert "pass a file made by python -m paracore_digits.training" in text
    assert "\n" not in text


def test_a_missing_shipped_file_is_the_plugins_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    paracore_digits.model._tensors.cache_clear()
    monkeypatch.setattr(paracore_digits.model, "_SHIPPED", "nothing.safetensors")
    with pytest.raises(PluginError, match=r"cannot be read .* reinstall paracore, or pass weights=FILE"):
        DigitsModel()
    monkeypatch.undo()
    assert DigitsModel().weights is None  # the failure is not remembered


def test_another_file_can_be_given(tmp_path: Path, model: DigitsModel) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(load(shipped()) | {"head.bias": torch.tensor([0.25], dtype=torch.float16)}, path)
    other = DigitsModel(weights=str(path))
    scheme, x = flow_euler(4), normal(1)
    ours = call(model.denoiser(scheme), x, rows([2])) - model.network().get_parameter("head.bias")
    assert torch.allclose(call(other.denoiser(scheme), x, rows([2])) - 0.25, ours, atol=1e-6)


# What it draws.


@pytest.mark.slow
def test_samples_are_the_digits_asked_for(model: DigitsModel) -> None:
    """An SVM trained on the real digits reads at least 97 % of 250 guided samples as asked."""
    from sklearn.svm import SVC  # type: ignore[import-untyped]

    from paracore_digits.training import load_mnist5k

    scheme, batch = flow_euler(50), 50
    labels = torch.arange(10).repeat(25)
    samples = []
    for first in range(0, len(labels), batch):
        denoiser = model.denoiser(scheme, labels[first : first + batch], 2.0)
        x = normal(len(labels))[first : first + batch]
        for n in range(scheme.steps):
            x = scheme.step(n, [x], [call(denoiser, x, rows([n] * batch))])
        samples.append(x)
    data, real = load_mnist5k()
    reader = SVC(C=10, gamma="scale").fit(model.images(data).flatten(1).numpy(), real.numpy())
    read = reader.predict(model.images(torch.cat(samples)).flatten(1).numpy())
    assert (read == labels.numpy()).mean() >= 0.97
