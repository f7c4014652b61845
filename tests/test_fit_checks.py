import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras import ClustrClassifier
from clustr_keras.backbones import lipschitz_mlp


@pytest.fixture
def model():
    model = ClustrClassifier(lipschitz_mlp((8, 8, 1), (32, 16)), 10)
    model.compile("adam")
    return model


BAD_DATA = [
    (lambda x, y: (x, np.where(y == 3, 12, y)), "labels must lie in 0..9 for num_classes=10; got 12 at index"),
    (lambda x, y: (x, y - 1), "got -1 at index"),
    (lambda x, y: (x, y[:-1]), "199 labels, 200 images"),
    (lambda x, y: (x, np.eye(10)[y]), "looks one-hot"),
    (lambda x, y: (x * 255, y), "must be finite and lie in"),
    (lambda x, y: (x - 0.5, y), "must be finite and lie in"),
    (lambda x, y: (np.where(x > 0.5, np.nan, x), y), "must be finite and lie in"),
    (lambda x, y: ((x * 255).astype("uint8"), y), "Divide 8-bit images by 255"),
    (lambda x, y: (x[:, :7], y), r"must have shape \[B, 8, 8, 1\]; got \(200, 7, 8, 1\)"),
    (lambda x, y: (x[..., 0], y), r"must have shape \[B, 8, 8, 1\]"),
    (lambda x, y: (x[:0], y[:0]), "at least one example"),
    (lambda x, y: (x, None), "labels are missing"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_DATA)
@pytest.mark.parametrize("place", ["training", "validation"])
def test_bad_data_is_refused_before_training(model, small, spoil, message, place):
    before = model.get_weights()
    bad = spoil(*small)
    train, validation = (bad, None) if place == "training" else (small, bad)
    with pytest.raises(ValueError, match=message):
        model.fit(*train, validation_data=validation, epochs=1, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert_array_equal(old, new)


def test_a_bad_or_empty_data_set_is_refused_before_training(model, small):
    tf = pytest.importorskip("tensorflow")
    images, labels = small
    good = tf.data.Dataset.from_tensor_slices((images, labels)).batch(50)
    for data, message in (
        (good.map(lambda x, y: (x, y + 10)), "labels must lie in"),
        (good.map(lambda x, y: (2.0 * x + 1.0, y)), "must be finite and lie in"),
        (good.take(0), "the data set is empty"),
        (good.map(lambda x, y: x), r"must give \(images, labels\)"),
        (None, "no training data"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(data, epochs=1, verbose=0)


def test_embeddings_that_are_not_finite_are_refused_before_training(model, small):
    model.backbone.layers[-1].bias.assign(np.full(16, np.inf))
    with pytest.raises(ValueError, match="embeddings of the first images are not finite"):
        model.fit(*small, epochs=1, verbose=0)
