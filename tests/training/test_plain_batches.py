import numpy as np
import pytest

from clustr_keras.data import Split
from clustr_keras.training import plain_batches as module
from clustr_keras.training.plain_batches import plain_batches


@pytest.mark.parametrize(("batch_size", "least", "sizes"), [(3, 0, [3, 3, 1]), (3, 2, [3, 3]), (5, 2, [5, 2])])
def test_a_rest_that_the_devices_cannot_share_is_left_out(monkeypatch, batch_size, least, sizes):
    monkeypatch.setattr(module, "can_share", lambda rows: rows >= least)
    batches = plain_batches(Split(np.zeros((7, 2, 2, 1), "uint8"), np.arange(7)), batch_size)
    assert [len(batches[index][1]) for index in range(len(batches))] == sizes
