import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustr_keras.evaluation.interval import is_clearly_below, wilson_interval


@given(count=st.integers(1, 2000), share=st.floats(0, 1))
def test_its_ends_solve_wilsons_equation(count, share):
    """`|p - p_hat| = z sqrt(p (1 - p) / n)` at both ends."""
    seen = round(share * count) / count
    for end in wilson_interval(share, count):
        assert 0 <= end <= 1
        assert abs(end - seen) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / count), abs=1e-6)


@pytest.mark.parametrize(
    ("share", "other", "count", "expected"),
    [
        (0.6, 0.7, 500, True),
        (0.6, 0.63, 500, False),
        (0.7, 0.6, 500, False),
        (0.6, 0.7, 50, False),
        (0.5, 0.515, 10**5, False),
    ],
)
def test_clearly_below_is_by_points_and_by_intervals(share, other, count, expected):
    assert is_clearly_below(share, other, count) is expected
