"""Which schedulers the installed diffusers exports, and in which configurations each is surveyed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs

__all__ = ["Case", "cases", "classes", "unavailable"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "algorithm_type": ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++", "data_prediction"),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "variance_type": ("fixed_small", "fixed_large", "fixed_small_log", "learned_range"),
    "solver_order": (1, 2, 3),
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "sigma_schedule": ("karras", "exponential"),
    "interpolation_type": ("linear", "log_linear"),
    "time_shift_type": ("exponential", "linear"),
    "timestep_type": ("discrete", "continuous"),
    "eta": (0.0, 0.5),
    "s_noise": (0.0,),
}
"""Values tried for options whose annotation does not list them. What a class refuses, is dropped."""

SWITCHES = {
    "clip_sample",
    "thresholding",
    "rescale_betas_zero_snr",
    "stochastic_sampling",
    "predict_x0",
    "skip_prk_steps",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_flow_sigmas",
    "use_lu_lambdas",
    "lower_order_final",
    "euler_at_final",
    "set_alpha_to_one",
    "use_dynamic_shifting",
    "invert_sigmas",
}
"""Options that are turned the other way."""


@attrs.frozen
class Case:
    """One configuration of one scheduler.

    Attributes:
        name: of the class.
        changed: options that differ from the class's defaults.
        scheduler: built with them.
        broken: why it could not be built.
    """

    name: str
    changed: dict[str, Any]
    scheduler: Any
    broken: str = ""

    @property
    def label(self) -> str:
        """The options as text."""
        return ", ".join(f"{k}={v}" for k, v in self.changed.items()) or "default"

    def arguments(self) -> dict[str, Any]:
        """What ``set_timesteps`` needs beside the number of steps."""
        takes = inspect.signature(self.scheduler.set_timesteps).parameters if self.steppable else {}
        wanted: dict[str, Any] = {"stage_index": 0, "intermediate_timesteps": None}
        if self.scheduler.config.get("use_dynamic_shifting"):
            wanted["mu"] = 0.8
        return {name: value for name, value in wanted.items() if name in takes}

    @property
    def steppable(self) -> bool:
        """Whether it has ``set_timesteps`` at all."""
        return callable(getattr(self.scheduler, "set_timesteps", None))


def classes() -> list[type]:
    """All scheduler classes that diffusers exports, by name."""
    import diffusers.schedulers as exported

    mixin = exported.SchedulerMixin
    found = {name: getattr(exported, name, None) for name in dir(exported)}
    return [c for _, c in sorted(found.items()) if inspect.isclass(c) and issubclass(c, mixin) and c is not mixin]


def unavailable() -> dict[str, str]:
    """Schedulers that diffusers exports but cannot import here, and what it says about that."""
    import diffusers

    found: dict[str, str] = {}
    utils: Any = diffusers.utils
    for name in dir(diffusers):
        stand_in = getattr(diffusers, name) if name.endswith("Scheduler") else None
        if isinstance(stand_in, utils.DummyObject) and not name.startswith("Flax"):
            try:
                stand_in()
            except ImportError as error:
                found[name] = str(error).strip().split(". ")[0]
    return found


def cases(kind: type) -> Iterator[Case]:
    """The default configuration of a class and those one option away from it."""
    seen: list[dict[str, Any]] = []
    parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    clips = parameters.get("clip_sample")
    # Where the default clips, the other options are tried without: else all of them would be called nonlinear.
    linear = {"clip_sample": False} if clips is not None and clips.default is True else {}
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    both = [flow] if all(name in parameters for name in flow) else []
    for changed in ({}, linear, *({**linear, **change} for change in (*_changes(kind), *both))):
        try:
            scheduler = kind(**changed)
        except Exception as error:
            if not changed:
                yield Case(kind.__name__, {}, None, f"it cannot be built with its defaults: {error}")
                return
            continue  # the class itself refuses the value
        config = {k: v for k, v in dict(scheduler.config).items() if not k.startswith("_")}
        if config not in seen:
            seen.append(config)
            yield Case(kind.__name__, dict(changed), scheduler)


def _changes(kind: type) -> Iterator[dict[str, Any]]:
    constructor: Any = kind.__init__  # type: ignore[misc]
    parameters = inspect.signature(constructor).parameters
    try:
        hints = get_type_hints(constructor)
    except Exception:
        hints = {}
    for name, parameter in parameters.items():
        if name in SWITCHES and isinstance(parameter.default, bool):
            yield {name: not parameter.default}
        elif name in CHOICES:
            for value in _listed(hints.get(name)) or CHOICES[name]:
                if value != parameter.default:
                    yield {name: value}


def _listed(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()
