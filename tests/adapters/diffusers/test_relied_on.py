"""Every name of diffusers that the adapter relies on is there: a release that moves one fails here, with the name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings

import pytest

pytest.importorskip("diffusers")

import paracore_diffusers
from adapters.diffusers.zoo import quiet

NEEDED = ("DiffusionPipeline.components", "SchedulerMixin._step_index", "diffusers.utils.torch_utils.randn_tensor")


def relied_on() -> list[tuple[str, str]]:
    """``(module, name)`` of every ``RELIED_ON`` constant of the package."""
    found = []
    for info in pkgutil.iter_modules(paracore_diffusers.__path__, "paracore_diffusers."):
        with quiet():
            module = importlib.import_module(info.name)
        found += [(info.name, name) for name in getattr(module, "RELIED_ON", ())]
    return found


def homes() -> dict[str, list[type]]:
    """Classes by the short names that ``RELIED_ON`` uses."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        import torch
        from diffusers import hooks, modular_pipelines

        found = {
            "DiffusionPipeline": [diffusers.DiffusionPipeline],
            "ModelMixin": [diffusers.ModelMixin, diffusers.FluxTransformer2DModel],
            "SchedulerMixin": [diffusers.SchedulerMixin],
            "Module": [torch.nn.Module],
        }
        for where in (hooks, modular_pipelines):
            found |= {name: [kind] for name, kind in inspect.getmembers(where, inspect.isclass)}
        # What a base class leaves to its subclasses is looked for in those as well.
        found["SchedulerMixin"] += [diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler]
        found["DiffusionPipeline"] += [diffusers.StableDiffusionPipeline, diffusers.FluxPipeline]
    return found


def resolves(name: str) -> bool:
    """Whether a dotted name, or ``Class.attribute``, is there in the installed diffusers."""
    head, _, attribute = name.rpartition(".")
    if head.startswith("diffusers"):
        return hasattr(importlib.import_module(head), attribute)
    kinds = homes().get(head, [])
    if any(hasattr(kind, attribute) for kind in kinds):
        return True
    return any(_written(kind, attribute) for kind in kinds)


def _written(kind: type, attribute: str) -> bool:
    """An attribute that is set on instances: it stands in the source of the class's module, or of diffusers' hooks."""
    import diffusers.hooks.hooks as base

    modules = [inspect.getmodule(kind), base] if kind.__module__.startswith("torch") else [inspect.getmodule(kind)]
    return any(attribute in inspect.getsource(module) for module in modules if module is not None)


@pytest.mark.parametrize(("module", "name"), relied_on(), ids=lambda value: value)
def test_it_is_there(module, name):
    assert resolves(name), f"{module} relies on {name}, which this diffusers does not have"


def test_the_lists_are_read():
    assert set(NEEDED) <= {name for _, name in relied_on()}


@pytest.mark.parametrize("name", ["DiffusionPipeline._nothing_of_that_name", "Nothing.components", "diffusers.nope"])
def test_a_name_that_is_gone_is_noticed(name):
    assert not resolves(name)
