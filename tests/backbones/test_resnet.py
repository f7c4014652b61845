import keras
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.testing import assert_allclose, assert_array_equal

from clustr_keras import ClustrClassifier, lipschitz
from clustr_keras.backbones import CIFAR10_MEAN, CIFAR10_STD, resnet18


def with_random_statistics(model, seed=0):
    """Gives the batch normalization small moving variances and other weights that a slip would show in."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            channels = layer.gamma.shape
            layer.gamma.assign(rng.uniform(0.001, 0.003, channels))
            layer.beta.assign(rng.normal(size=channels))
            layer.moving_mean.assign(rng.normal(size=channels))
            layer.moving_variance.assign(rng.uniform(0.0, 4e-5, channels))  # as small as the epsilon
    return model


def by_hand(model, images, mean, std):
    """The network as the paper and PyTorch have it, in float64: one pixel of padding on every side, always."""

    def conv(x, name, stride):
        kernel = model.get_layer(name).kernel.numpy().astype("float64")
        border = kernel.shape[0] // 2
        x = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
        windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("bijchw,hwco->bijo", windows, kernel)

    def norm(x, name):
        gamma, beta, mean, variance = (weight.astype("float64") for weight in model.get_layer(name).get_weights())
        return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta

    x = (images.astype("float64") - mean) / np.array(std)
    x = np.maximum(norm(conv(x, "stem_conv", 1), "stem_norm"), 0)
    for stage in (1, 2, 3, 4):
        for block in (1, 2):
            name, stride = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
            inner = np.maximum(norm(conv(x, f"{name}_conv1", stride), f"{name}_norm1"), 0)
            inner = norm(conv(inner, f"{name}_conv2", 1), f"{name}_norm2")
            if stride == 2:
                x = norm(conv(x, f"{name}_shortcut_conv", stride), f"{name}_shortcut_norm")
            x = np.maximum(x + inner, 0)
    return x.mean(axis=(1, 2))


@pytest.fixture(scope="module")
def narrow():
    keras.utils.set_random_seed(0)
    return with_random_statistics(resnet18((16, 16, 3), CIFAR10_MEAN, CIFAR10_STD, width=4))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(size=(3, 16, 16, 3)).astype("float32")


def test_it_is_the_network_of_the_paper(narrow, images):
    expected = by_hand(narrow, images, CIFAR10_MEAN, CIFAR10_STD)
    assert expected.std() > 0.01
    assert_allclose(narrow(images, training=False), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_it_has_the_parameters_of_resnet18_without_the_last_layer():
    def of_block(before, after):
        shortcut = 0 if before == after else before * after + 2 * after
        return 9 * before * after + 9 * after * after + 4 * after + shortcut

    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    expected = 9 * 3 * 64 + 2 * 64 + sum(map(of_block, widths[:-1], widths[1:]))
    model = resnet18()
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == expected == 11_173_962 - 513 * 10
    assert model.output_shape == (None, 512)


def test_a_grayscale_image_passes_and_nothing_is_normalized_by_default(images):
    model = with_random_statistics(resnet18((16, 16, 1), width=4))
    gray = images[..., :1]
    assert_allclose(model(gray), by_hand(model, gray, 0.0, 1.0), rtol=1e-3, atol=1e-4)


def test_kernels_start_with_the_variance_of_the_fan_out_and_independent(narrow):
    model = resnet18((8, 8, 3), width=16)
    kernel = model.get_layer("stage4_block1_conv1").kernel.numpy()
    assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.02)
    first, second = (model.get_layer(f"stage4_block2_conv{i}").kernel.numpy().ravel() for i in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_moving_statistics_take_a_tenth_of_each_batch(images):
    model = resnet18((16, 16, 3), width=4)
    model(images, training=True)
    kernel = model.get_layer("stem_conv").kernel.numpy()
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    stem = np.einsum("bijchw,hwco->bijo", sliding_window_view(padded, (3, 3), axis=(1, 2)), kernel)
    assert_allclose(model.get_layer("stem_norm").moving_mean, 0.1 * stem.mean((0, 1, 2)), atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_embeddings_are_float32_under_mixed_precision(policy, images):
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    plain = resnet18((16, 16, 3), CIFAR10_MEAN, CIFAR10_STD, width=4)
    try:
        keras.config.set_dtype_policy(policy)
        mixed = resnet18((16, 16, 3), CIFAR10_MEAN, CIFAR10_STD, width=4)
    finally:
        keras.config.set_dtype_policy(before)
    mixed.set_weights(plain.get_weights())
    assert mixed.output.dtype == "float32"
    assert mixed.get_layer("stem_conv").compute_dtype != "float32"
    embeddings = np.asarray(mixed(images))
    assert embeddings.dtype == "float32"
    assert_allclose(embeddings, plain(images), atol=0.05 * np.abs(plain(images)).max())


def test_it_can_be_certified(narrow, images):
    rng = np.random.default_rng(2)
    bound = lipschitz.bound(narrow).value
    step = (1e-3 * rng.normal(size=images.shape)).astype("float32")
    moved = np.linalg.norm(np.asarray(narrow(images + step)) - np.asarray(narrow(images)), axis=-1)
    assert (moved <= bound * np.linalg.norm(step.reshape(3, -1), axis=-1)).all()
    certificate = ClustrClassifier(narrow, num_classes=4).certify(images)
    assert certificate.lipschitz_bound <= bound * 1.01
    logits = np.sort(certificate.logits, axis=-1)
    assert_allclose(certificate.radius, logits[:, -1], rtol=1e-3)
    assert (certificate.radius > 0).any()


def test_it_survives_saving(narrow, images, tmp_path):
    narrow.save(tmp_path / "model.keras")
    assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(images), narrow(images))


@pytest.mark.parametrize(
    ("shape", "mean", "std", "message"),
    [
        ((8, 8, 3), CIFAR10_MEAN, None, "pass both or neither; got mean=.*std=None"),
        ((8, 8, 1), CIFAR10_MEAN, CIFAR10_STD, "mean must be one number or one for each of 1 channels"),
        ((8, 8, 3), CIFAR10_MEAN, (0.1, 0.2), "std must be one number or one for each of 3 channels"),
        ((8, 8, 3), CIFAR10_MEAN, (0.1, 0.0, 0.1), "std must be positive"),
        ((8, 8, 3), 0.5, float("nan"), "std must be positive"),
    ],
)
def test_a_normalization_that_does_not_fit_is_refused(shape, mean, std, message):
    with pytest.raises(ValueError, match=message):
        resnet18(shape, mean, std, width=4)
