import pytest
from hypothesis import given
from hypothesis import strategies as st

from clustr_keras.serving.errors import CODES, ServingError
from clustr_keras.serving.retries import Deadline, Retries

UNAVAILABLE = ServingError("UNAVAILABLE", "not now")


@given(attempts=st.integers(1, 3000))
def test_waits_double_up_to_a_second_until_the_attempts_are_used_up(attempts):
    retries = Retries(attempts, Deadline(60))
    waits = [retries.wait_after(UNAVAILABLE) for _ in range(attempts)]
    assert waits.pop() is None
    for number, wait in enumerate(waits):
        full = min(0.1 * 2 ** min(number, 10), 1.0)
        assert full / 2 <= wait <= full


def test_waits_differ_so_that_clients_do_not_come_back_together():
    waits = {Retries(2, Deadline(60)).wait_after(UNAVAILABLE) for _ in range(20)}
    assert len(waits) > 1


@pytest.mark.parametrize("code", [code for code in CODES if code != "UNAVAILABLE"])
def test_no_other_error_is_worth_another_attempt(code):
    assert Retries(3, Deadline(60)).wait_after(ServingError(code, "no")) is None


def test_no_wait_passes_the_deadline():
    assert Retries(3, Deadline(0.04)).wait_after(UNAVAILABLE) is None


def test_a_deadline_that_has_passed_leaves_hardly_any_time():
    deadline = Deadline(-1)
    assert 0 < deadline.remaining() <= 1e-3
