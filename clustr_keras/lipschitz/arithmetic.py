"""Whether the arithmetic that the rounding analysis is about is the one in use."""

import os

import keras

# What lets oneDNN compute in less than float32.
_FPMATH_VARIABLES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "TF_SET_ONEDNN_FPMATH_MODE")

# Precisions of matrix products that mean float32 on a CPU.
_PRECISE_PRODUCTS = (None, "default", "high", "highest", "float32", "F32_F32_F32")


def is_ieee_float32() -> bool:
    """Whether float32 operations run in IEEE float32, as far as the process can tell.

    Not so on a GPU with TF32, under TensorFlow's automatic mixed precision, or where oneDNN was allowed less; with JAX
    on a CPU alone, unless it was told to multiply in less or XLA to be fast rather than exact.
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

        # A preset may name an algorithm of less precision on a CPU, too. On accelerators nothing has been examined.
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # made when JAX is imported
        is_precise = precision in _PRECISE_PRODUCTS
        return jax.default_backend() == "cpu" and is_precise and not _has_fast_math(os.environ.get("XLA_FLAGS", ""))
    return False


def _has_fast_math(xla_flags):
    """Whether XLA was allowed to reorder and approximate on a CPU, which it is not by default."""
    flags = [flag for flag in xla_flags.split() if flag.startswith("--xla_cpu_enable_fast_math")]
    return any(flag.partition("=")[2].lower() not in ("false", "0") for flag in flags)
