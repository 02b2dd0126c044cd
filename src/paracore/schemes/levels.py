"""Noise levels per node, and the quantities a network may predict.

A state is ``x = alpha * data + sigma * noise``. A **form** is a quantity ``p * data + q * noise``: what the network
returns, or what a method keeps fixed while the state moves.
"""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from paracore.errors import SchemeError, suggest

__all__ = ["FORMS", "Levels"]

Array = npt.NDArray[np.float64]

FORMS = ("noise", "data", "velocity", "v-prediction", "score")
"""Names of the forms: noise e, data x0, the flow's velocity ``noise - data``, the ``alpha * noise - sigma * data``
of Salimans and Ho (2022, arXiv:2202.00512), and the score ``-noise / sigma``."""


@attrs.frozen(eq=False)
class Levels:
    """``alpha`` and ``sigma`` at the N + 1 nodes, and the diffusion coefficient ``g`` at the first N.

    Attributes:
        alpha: ``(N + 1,)`` float64, weight of the data in the state.
        sigma: ``(N + 1,)`` float64, weight of the noise in the state.
        g: ``(N,)`` float64, diffusion coefficient of the forward SDE in the scheme's own time (math page, section 5).
        span: ``(N,)`` float64, length of each step in the time that ``g`` belongs to.
    """

    alpha: Array
    sigma: Array
    g: Array
    span: Array

    @property
    def transition_variance(self) -> Array:
        """``(N,)`` variance that the forward process adds from node ``n + 1`` back to node ``n``."""
        a, s = self.alpha, self.sigma
        ratio = np.divide(a[:-1], a[1:], out=np.zeros(len(a) - 1), where=a[1:] != 0)
        return np.clip(s[:-1] ** 2 - ratio**2 * s[1:] ** 2, 0.0, None)

    @property
    def posterior_variance(self) -> Array:
        """``(N,)`` variance of one ancestral step (DDPM's "fixed small", Ho et al. 2020, Eq. 7)."""
        s = self.sigma
        ratio = np.divide(s[1:] ** 2, s[:-1] ** 2, out=np.zeros(len(s) - 1), where=s[:-1] != 0)
        return self.transition_variance * ratio

    def parts(self, form: str, nodes: slice) -> tuple[Array, Array]:
        """``(p, q)`` of a form at some nodes: the form is ``p * data + q * noise``.

        Raises:
            SchemeError: for an unknown form, or the score at ``sigma = 0``.
        """
        alpha, sigma = self.alpha[nodes], self.sigma[nodes]
        one, zero = np.ones_like(alpha), np.zeros_like(alpha)
        if form == "noise":
            return zero, one
        if form == "data":
            return one, zero
        if form == "velocity":
            return -one, one
        if form == "v-prediction":
            return -sigma, alpha
        if form == "score":
            if np.any(sigma == 0):
                node = int(np.argmin(sigma)) + (nodes.start or 0)
                raise SchemeError(f"form 'score' divides by sigma = 0 at node {node}; use 'data'")
            return zero, -1.0 / sigma
        raise SchemeError(f"unknown output form {form!r}; {suggest(form, FORMS)}")

    def conversion(self, source: str, target: str, nodes: slice) -> tuple[Array, Array]:
        """``(u, v)`` with ``target = u * x + v * source`` at the nodes.

        Raises:
            SchemeError: where ``x`` and ``source`` do not determine the target (alpha or sigma is 0 there).
        """
        alpha, sigma = self.alpha[nodes], self.sigma[nodes]
        p, q = self.parts(source, nodes)
        r, s = self.parts(target, nodes)
        if source == target:
            return np.zeros_like(alpha), np.ones_like(alpha)
        determinant = alpha * q - sigma * p
        if np.any(np.abs(determinant) < 1e-12):
            node = int(np.argmin(np.abs(determinant))) + (nodes.start or 0)
            which = "alpha" if abs(alpha[node - (nodes.start or 0)]) < 1e-12 else "sigma"
            raise SchemeError(
                f"form {source!r} cannot be converted to {target!r}: that divides by {which} = 0 at node {node}; "
                f"choose another form, for instance {_alternative(which)!r}"
            )
        return (r * q - s * p) / determinant, (alpha * s - sigma * r) / determinant


def _alternative(zero: str) -> str:
    return "data" if zero == "alpha" else "velocity"
