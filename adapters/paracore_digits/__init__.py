"""A small class-conditional network for handwritten digits, trained on MNIST-5k; the weights are shipped."""

from paracore_digits.model import DigitsModel

__all__ = ["DigitsModel"]
