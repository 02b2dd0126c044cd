"""CHORDS: cores that run the trajectory from ever later starts and correct each other."""

from paracore_chords.cores import Chords
from paracore_chords.plugin import chords

__all__ = ["Chords", "chords"]
