"""The random bits of TensorFlow's stateless Philox, in operations that every backend has."""

import numpy as np
from keras import ops

from clustr_keras.types import Tensor

_ROUNDS = 10
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
# What TensorFlow stirs a seed with, whose bits may be few and in one place.
_STIRRING_KEY = (0x3EC8F720, 0x02461E29)


def philox_bits(seed: int, step: Tensor, examples: Tensor, count: int) -> Tensor:
    """`tf.random.stateless_uniform([count], [seed * 2^32 + step, example], alg="philox")` as bits, for each example.

    Args:
        seed: Integer in 0..2^31 - 1.
        step: Int scalar tensor, not negative.
        examples: Ints `[B]`, not negative.
        count: Integer, how many numbers for each example.

    Returns:
        uint32 `[B, count]`.

    Reference:
        Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    examples = ops.cast(examples, "uint32")
    zeros = ops.zeros_like(examples)
    counter = [zeros + ops.cast(step, "uint32"), zeros + _uint32(seed), examples, zeros]
    stirred = _philox(counter, [zeros + _uint32(word) for word in _STIRRING_KEY])
    key, stream = [word[:, None] for word in stirred[:2]], [word[:, None] for word in stirred[2:]]
    block = ops.cast(ops.arange(-(-count // 4)), "uint32")[None, :]
    blocks = ops.zeros_like(stream[0]) + block
    nothing = ops.zeros_like(blocks)
    words = _philox([blocks, nothing, nothing + stream[0], nothing + stream[1]], key)
    return ops.reshape(ops.stack(words, axis=-1), (len(examples), -1))[:, :count]


def _philox(counter, key):
    """Philox4x32-10: four words of a counter and two of a key, mixed into four."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = _product(c0, _FACTORS[0]), _product(c2, _FACTORS[1])
        c0, c1 = ops.bitwise_xor(ops.bitwise_xor(high1, c1), k0), low1
        c2, c3 = ops.bitwise_xor(ops.bitwise_xor(high0, c3), k1), low0
        k0, k1 = k0 + _uint32(_KEY_STEPS[0]), k1 + _uint32(_KEY_STEPS[1])
    return [c0, c1, c2, c3]


def _product(x, factor):
    """High and low word of `x * factor`, by halves of 16 bits: there may be no words of 64."""
    x_high, x_low = _halves(x)
    f_high, f_low = _uint32(factor >> 16), _uint32(factor & 0xFFFF)
    (low, _), (cross, cross_low), (other, other_low) = (
        _halves(product) for product in (x_low * f_low, x_high * f_low, x_low * f_high)
    )
    carry, _ = _halves(low + cross_low + other_low)
    return x_high * f_high + cross + other + carry, x * _uint32(factor)


def _halves(x):
    return ops.right_shift(x, _uint32(16)), ops.bitwise_and(x, _uint32(0xFFFF))


def _uint32(number):
    return ops.convert_to_tensor(np.uint32(number))
