"""Whether the arithmetic that the rounding analysis is about is the one in use."""

import os

import keras

# What lets oneDNN compute in less than float32.
_FPMATH_VARIABLES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE")


def is_ieee_float32():
    """Whether float32 operations run in IEEE float32, as far as the process can tell.

    Not so on a GPU with TF32, under TensorFlow's automatic mixed precision, or where oneDNN was allowed less.
    """
    if any(os.environ.get(name, "STRICT").upper() != "STRICT" for name in _FPMATH_VARIABLES):
        return False
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        options = tf.config.optimizer.get_experimental_options()
        if any(name.startswith("auto_mixed_precision") and value for name, value in options.items()):
            return False
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        return not (has_gpu and tf.config.experimental.tensor_float_32_execution_enabled())
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    return False
