"""Parareal: SRDS, blocks of the trajectory solved side by side and corrected by a coarse solver."""

from paracore_parareal.plugin import srds
from paracore_parareal.srds import SRDS

__all__ = ["SRDS", "srds"]
