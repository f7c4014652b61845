"""Data sets and checks of what goes into a model."""

from clustr_keras.data.digits import load_digits

__all__ = ["load_digits"]
