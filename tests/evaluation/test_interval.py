import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustr_keras.evaluation.interval import is_clearly_less, wilson_interval


@given(count=st.integers(1, 2000), share=st.floats(0, 1))
def test_its_ends_solve_wilsons_equation(count, share):
    """`|p - p_hat| = z sqrt(p (1 - p) / n)` at both ends."""
    seen = round(share * count) / count
    for end in wilson_interval(share, count):
        assert 0 <= end <= 1
        assert abs(end - seen) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / count), abs=1e-6)


@pytest.mark.parametrize(
    ("stands", "others", "count", "expected"),
    [
        (80, 90, 2, True),
        (90, 80, 2, False),
        (80, 85, 2, False),  # 5 of 5 by chance: p = 0.031
        (80, 86, 2, True),  # 6 of 6: p = 0.016
        (80, 90, 10, False),
    ],
)
def test_clearly_less_is_by_a_count_and_beyond_chance(stands, others, count, expected):
    examples = np.arange(100)
    assert is_clearly_less(examples < stands, examples < others, count) is expected


def test_what_one_wins_counts_against_what_it_loses():
    others = np.arange(40) < 20
    is_standing = np.roll(others, 12)  # 12 won, 12 lost
    assert not is_clearly_less(is_standing, others, 2)
