import numpy as np
import tensorflow as tf

from clustr_keras.serving.validity import without_invalid


def test_an_image_is_judged_by_itself_and_replaced_by_zeros():
    images = np.full((6, 2, 2, 1), 0.5, "float32")
    images[1:, 1, 0, 0] = [np.nan, np.inf, -np.inf, -1e-7, 1.0 + 1e-6]
    images[0] = [[[0.0], [1.0]], [[0.5], [-0.0]]]
    replaced, is_valid = without_invalid(tf.constant(images))
    assert is_valid.numpy().tolist() == [True, *[False] * 5]
    np.testing.assert_array_equal(replaced[0], images[0])
    assert not replaced.numpy()[1:].any()
