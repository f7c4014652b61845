import numpy as np
import pytest

from clustr_keras.integers import checked_integer


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2)])
def test_integers_of_both_kinds_become_pythons(value):
    assert checked_integer("units", value, 2) == 2
    assert type(checked_integer("units", value)) is int


@pytest.mark.parametrize("value", [1, np.int64(1), 2.0, "2", None, True, np.True_])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match=r"units must be an integer of at least 2; got "):
        checked_integer("units", value, 2)
