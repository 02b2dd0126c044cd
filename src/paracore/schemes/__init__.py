"""Schemes: samplers as tables of scalars, and builders for the common ones."""

from paracore.schemes.banded import banded
from paracore.schemes.builders import ddim, ddpm, dpm_solver_pp_2m, edm_euler, edm_heun, flow_euler, flow_heun
from paracore.schemes.levels import FORMS, Levels
from paracore.schemes.table import History, Scheme, compute_dtype
from paracore.schemes.weights import RowWeights, look_ahead_weights

__all__ = [
    "FORMS",
    "History",
    "Levels",
    "RowWeights",
    "Scheme",
    "banded",
    "compute_dtype",
    "ddim",
    "ddpm",
    "dpm_solver_pp_2m",
    "edm_euler",
    "edm_heun",
    "flow_euler",
    "flow_heun",
    "look_ahead_weights",
]
