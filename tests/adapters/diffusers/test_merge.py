"""Merging recorded calls: one batched call does the work of all, or it is refused; nothing in between."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers.models.modeling_outputs import Transformer2DModelOutput

from paracore_diffusers.calls import Call, mapped, plain, signature, stand_in, tensors
from paracore_diffusers.execution import Merged, OneByOne
from paracore_diffusers.merge import UnmergeableError, batch_of, merged, split
from paracore_diffusers.recording import Recording

Pair = namedtuple("Pair", "first second")


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net:
    """Row by row: every answer depends on all that belongs to its row, and on what all rows share."""

    def __init__(self, form: str = "tensor") -> None:
        self.form, self.sizes = form, []

    def __call__(self, *args, **kwargs):
        sample = kwargs.get("sample", args[0] if args else None)
        rows = list(sample)
        self.sizes.append(len(rows))
        out = torch.stack([r.flatten()[:6] for r in rows])
        for name, value in sorted(kwargs.items()):
            if name != "sample":
                rows_of = 0 if name == "img_ids" else len(rows)
                out = out + self.term(value, rows_of, len(name))
        for i, value in enumerate(args[1:]):
            out = out + self.term(value, len(rows), i + 2)
        wide = {"tensor": out, "tuple": (out, 2 * out), "list": list(out), "dict": {"a": out, "b": 3 * out}}
        wide |= {"output": Transformer2DModelOutput(sample=out), "nested": (Pair(out, out + 1), [out]), "rows": (out,)}
        return wide[self.form]

    def term(self, value, batch: int, weight: int) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            if value.ndim == 0 or value.numel() == 1:
                return weight * value.reshape(1, 1)
            if value.ndim >= 1 and len(value) == batch:
                return weight * value.reshape(batch, -1).sum(1, keepdim=True)
            return weight * value.sum()
        if isinstance(value, dict):
            return sum(self.term(v, batch, weight + len(k)) for k, v in sorted(value.items()))
        if isinstance(value, list | tuple):
            if len(value) == batch and not any(isinstance(v, torch.Tensor) and len(v) == batch for v in value):
                return weight * torch.tensor([[float(torch.as_tensor(v).double().sum())] for v in value])
            return sum(self.term(v, batch, weight + i) for i, v in enumerate(value))
        return torch.tensor(float(value or 0) * weight)


class Arguments:
    """Draws the arguments of several calls of one kind."""

    def __init__(self, draw) -> None:
        self.ambiguous = False  # a list of samples that look like batches
        self.batch = draw(st.sampled_from([1, 2, 3]))
        self.parts = draw(st.integers(1, 5))
        self.kinds = draw(
            st.lists(
                st.sampled_from(
                    ["rows", "time", "times", "shared", "positions", "number", "dict", "list", "pair", "same"]
                ),
                max_size=5,
                unique=True,
            )
        )
        self.by_position = draw(st.booleans())
        self.listed = draw(st.booleans()) and "list" not in self.kinds
        self.form = draw(st.sampled_from(["tensor", "tuple", "list", "dict", "output", "nested", "rows"]))
        self.shared = random(7, 3, seed=1)

    def value(self, kind: str, part: int):
        b, s = self.batch, 10 * part
        return {
            "rows": lambda: random(b, 4, 2, seed=s),
            "time": lambda: torch.tensor(float(part)),
            "times": lambda: torch.full((b,), float(part)),
            "shared": lambda: self.shared,
            "positions": lambda: random(b, 5, seed=99),
            "number": lambda: 2.5,
            "dict": lambda: {"scale": random(b, 3, seed=s + 1), "same": self.shared},
            "list": lambda: [[3 + part, 4]] * b,
            "pair": lambda: (random(b, 3, seed=s + 2), random(b, 4, seed=s + 3)),
            "same": lambda: self.rows_of_all,
        }[kind]()

    @property
    def rows_of_all(self) -> torch.Tensor:
        self._rows = getattr(self, "_rows", random(self.batch, 3, seed=7))
        return self._rows

    def calls(self, net) -> list[Call]:
        found = []
        for part in range(self.parts):
            sample = random(self.batch, 3 if self.ambiguous else 5, 4, seed=1000 + part)
            main = list(sample) if self.listed else sample
            names = {"positions": "img_ids"}
            kwargs = {names.get(k, k): self.value(k, part) for k in self.kinds}
            if self.by_position:
                found.append(Call(net, (main,), kwargs, 0, part))
            else:
                found.append(Call(net, (), {"sample": main, **kwargs}, 0, part))
        return found


class Adds(torch.nn.Module):
    def forward(self, x, other):
        return x + other


def close(a, b) -> None:
    found, expected = tensors(a), tensors(b)
    assert type(a) is type(b)
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-4)


@settings(max_examples=120)
@given(st.data())
def test_merged_equals_one_by_one(data):
    arguments = Arguments(data.draw)
    net = Net(arguments.form)
    calls = arguments.calls(net)
    assert len({call.key for call in calls}) == 1
    expected = [call.run() for call in calls]
    args, kwargs = merged(calls)
    answers = split(net(*args, **kwargs), len(calls), batch_of(calls[0]), expected[0])
    for answer, single in zip(answers, expected, strict=True):
        close(answer, single)


@settings(max_examples=60)
@given(st.data(), st.one_of(st.none(), st.integers(1, 9)), st.booleans())
def test_executor_equals_one_by_one(data, most, with_reference):
    """Whatever it merges or refuses, the answers are right and no call is larger than allowed."""
    arguments = Arguments(data.draw)
    arguments.ambiguous = data.draw(st.booleans())
    net = Net(arguments.form)
    calls, again = arguments.calls(net), arguments.calls(net)
    OneByOne().run(again, [])
    known = again[:1] if with_reference else []
    net.sizes.clear()
    Merged(most).run(calls, known)
    assert all(call.done for call in calls)
    for call, other in zip(calls, again, strict=True):
        close(call.result, other.result)
    assert max(net.sizes) <= max(most or 10**9, arguments.batch)


def pair(**changes) -> list[Call]:
    """Two calls whose arguments are given as (first, second)."""
    base = {"sample": (random(2, 3, 4, seed=1), random(2, 3, 4, seed=2))}
    both = {**base, **changes}
    return [Call(Net(), (), {k: v[i] for k, v in both.items()}, 0, i) for i in range(2)]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("scale", (1.0, 2.0), "scale differs from call to call"),
        ("flag", (True, False), "flag differs"),
        ("mode", ("a", "b"), "mode differs"),
        ("table", (random(5, 3, seed=1), random(5, 3, seed=2)), "table of shape .*no batch dimension"),
        ("img_ids", (random(2, 3, seed=1), random(2, 3, seed=2)), "img_ids of shape"),
        ("freqs", ([random(5, 3, seed=1)], [random(5, 3, seed=2)]), r"freqs\[0\] of shape"),
        ("extra", ({"k": 1.0}, {"k": 2.0}), "extra.k differs"),
    ],
)
def test_what_cannot_be_merged_is_named(name, values, message):
    with pytest.raises(UnmergeableError, match=message):
        merged(pair(**{name: values}))


def test_times_become_one_per_sample():
    _, kwargs = merged(pair(timestep=(torch.tensor(3.0), torch.tensor(5.0))))
    assert kwargs["timestep"].tolist() == [3.0, 3.0, 5.0, 5.0]
    _, kwargs = merged(pair(timestep=(torch.tensor([3.0]), torch.tensor([5.0]))))
    assert kwargs["timestep"].tolist() == [3.0, 3.0, 5.0, 5.0]
    _, kwargs = merged(pair(timestep=(torch.tensor(3.0), torch.tensor(3.0))))
    assert kwargs["timestep"].tolist() == 3.0


def test_answers_without_a_batch_dimension_are_refused():
    for answer in (torch.tensor(1.0), torch.zeros(3, 2), (torch.zeros(4, 2), torch.zeros(3))):
        with pytest.raises(UnmergeableError, match="an answer of shape"):
            split(answer, 2, 2)
    assert split(None, 2, 3) == [None, None]


def test_lists_of_answers():
    """Two tensors for two samples: one for each, or two batched ones?"""
    rows = [torch.zeros(3), torch.ones(3)]
    assert split(rows, 2, 1)[1][0].tolist() == [1.0, 1.0, 1.0]
    columns = (torch.arange(8.0).view(2, 4), torch.arange(6.0).view(2, 3))
    with pytest.raises(UnmergeableError, match=r"a list of 2 tensors of shape \(2, ...\) for 2 calls of 1"):
        split(columns, 2, 1)
    first, second = split(columns, 2, 1, like=(torch.zeros(1, 4), torch.zeros(1, 3)))
    assert [tuple(t.shape) for t in first] == [(1, 4), (1, 3)]
    assert second[1].tolist() == [[3.0, 4.0, 5.0]]
    assert len(split(columns, 2, 1, like=(torch.zeros(2, 4),))[0]) == 1


def test_no_main_input():
    with pytest.raises(UnmergeableError, match="no main input"):
        batch_of(Call(Net(), (), {"scale": 1.0}, 0, 0))


def test_structure_helpers():
    value = {"a": [torch.ones(2), 3], "b": Pair(torch.zeros(1), "x")}
    assert len(tensors(value)) == 2
    assert list(plain(value)) == [3, "x"]
    doubled = mapped(value, lambda t: 2 * t)
    assert type(doubled["b"]) is Pair
    assert doubled["a"][0].tolist() == [2.0, 2.0]
    assert signature(doubled) == signature(value)
    hash(signature(value))
    stub = stand_in(Transformer2DModelOutput(sample=torch.ones(2, 2)))
    assert type(stub) is Transformer2DModelOutput
    assert not stub.sample.any()


def test_writes_are_noticed():
    x, y, z = torch.ones(2, 2), torch.ones(2), torch.ones(2)
    listed = [y, z]
    call = Call(Net(), (torch.ones(1), x), {"listed": listed, "other": torch.ones(1), "none": None}, 0, 0)
    assert call.written == []
    assert not call.changed
    x.add_(1)
    assert call.changed
    assert call.written == [1]
    listed[1] = torch.ones(2)
    assert call.written == [1, "listed"]


def test_exchanges_are_noticed():
    listed = [torch.ones(2), torch.ones(2)]
    call = Call(Net(), (torch.ones(1),), {"listed": listed}, 0, 0)
    listed.reverse()
    assert call.written == [0, "listed"]  # better too many than one too few
    listed.reverse()
    assert call.written == []
    held = listed.pop()
    assert call.written == [0, "listed"]
    listed.append(held.clone())
    assert call.written == ["listed"]


def test_only_what_is_written_into_is_copied():
    x, y = torch.ones(1), torch.ones(1)
    recording = Recording(mode="record")
    recording.call(Adds(), (x,), {"other": y}, 0)
    x.add_(1)
    assert not recording.unwritten([recording.visit])
    recording.arrive()
    recording.call(Adds(), (x,), {"other": y}, 0)
    x.add_(1)
    assert recording.unwritten([recording.visit])
    (call,) = recording.visit
    assert float(call.args[0]) == 2
    assert call.kwargs["other"] is y


def test_writes_into_inference_tensors_cannot_be_noticed():
    with torch.inference_mode():
        assert Call(Net(), (torch.ones(2),), {}, 0, 0).written == [0]  # not countable there: better once too often
