"""How many random examples a test gets."""

import hypothesis
import keras


def examples(count):
    """Settings of a test of `count` examples; on JAX of the few that its profile in `conftest.py` has."""
    return hypothesis.settings(max_examples=count) if keras.backend.backend() == "tensorflow" else hypothesis.settings()
