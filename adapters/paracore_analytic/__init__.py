"""Models with known answers: linear systems, Gaussians, mixtures, and the ideal denoiser of a finite data set."""

from paracore_analytic.gaussian import GaussianModel
from paracore_analytic.ideal import IdealDenoiser
from paracore_analytic.linear import LinearModel
from paracore_analytic.mixture import MixtureModel

__all__ = ["GaussianModel", "IdealDenoiser", "LinearModel", "MixtureModel"]
