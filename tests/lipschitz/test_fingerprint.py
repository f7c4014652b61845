import keras
import numpy as np

from clustr_keras.lipschitz import fingerprint


def model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])


def test_equal_weights_have_equal_fingerprints():
    first = model()
    second = keras.models.clone_model(first)
    second.set_weights(first.get_weights())
    assert (fingerprint(first) == fingerprint(second)).all()


def test_every_single_weight_counts():
    network = model()
    seen = {fingerprint(network).tobytes()}
    weights = network.get_weights()
    for index, value in enumerate(weights):
        changed = [w.copy() for w in weights]
        changed[index].flat[0] = np.nextafter(value.flat[0], np.float32(9))
        network.set_weights(changed)
        seen.add(fingerprint(network).tobytes())
    assert len(seen) == 1 + len(weights)


def test_what_a_layer_is_configured_to_do_counts_too():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(1.0)])
    before = fingerprint(network)
    network.layers[0].scale = 10.0
    assert (fingerprint(network) != before).any()
