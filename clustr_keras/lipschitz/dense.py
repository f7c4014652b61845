"""Bounds of products with a stored matrix: Dense, OrthogonalDense, EinsumDense, `keras.ops.matmul`."""

import math

import keras
import numpy as np
from keras.src.ops import numpy as ops_numpy

from clustr_keras.lipschitz.activations import activation_bound
from clustr_keras.lipschitz.graph import Call, UnknownBoundError
from clustr_keras.lipschitz.layers import OrthogonalDense
from clustr_keras.lipschitz.registry import (
    FLOAT32_ROUNDOFF,
    FLOAT32_UNDERFLOW,
    LayerBound,
    Rounding,
    built_weight,
    optional_weight,
    register,
    used_weight,
)
from clustr_keras.lipschitz.shapes import constant_operand, entries
from clustr_keras.lipschitz.signals import product_upward, up
from clustr_keras.lipschitz.spectral import gamma, spectral_norm_bound
from clustr_keras.types import Floats, Shape


def with_activation(of_kernel: LayerBound, call: Call) -> LayerBound:
    """The bound of a layer from that of its kernel, with the `activation` that it applies last."""
    activation = call.operation.activation
    if activation is None or activation is keras.activations.linear:
        return of_kernel
    of_activation = activation_bound(activation, call.output_shape)
    return LayerBound(
        product_upward(of_kernel.lipschitz, of_activation.lipschitz),
        f"{of_kernel.how}, {of_activation.how} {of_activation.lipschitz:g}",
        of_kernel.rounding if of_activation.rounding is not None else None,
    )


def dense_bound(
    kernel: Floats, bias: Floats | None, count: int | None, how: str, roundings: int | None = None
) -> LayerBound:
    """Bound of `x -> x @ kernel + bias` at a count of positions, and of its rounding (none with `count=None`).

    A term of the sum goes through at most `roundings` roundings: n + 1 in whatever order n products and a bias are
    summed.
    """
    rounding = None
    if count is not None:
        sizes = spectral_norm_bound(np.abs(kernel))
        rounding = product_rounding(sizes, kernel.shape, bias, count, roundings or kernel.shape[0] + 1)
    return LayerBound(spectral_norm_bound(kernel), how, rounding)


def product_rounding(
    sizes: float, shape: tuple[int, int], bias: Floats | None, count: int, roundings: int, overlap: int = 1
) -> Rounding:
    """Rounding of a map that computes, at each of some positions, a product of a part of x with a matrix W, plus b.

    At each position it is at most `gamma_r (|W|^T |x| + |b|)`, entry by entry, where a term of the sum goes through at
    most r roundings. The bias acts at every position: together they make `sqrt(count)` of its norm.

    Args:
        sizes: Bound of the norm of the whole map with |W| in place of W.
        shape: Rows and columns of W.
        bias: Vector b, or `None`.
        count: Integer, the number of positions.
        roundings: Integer r.
        overlap: Integer, to how many positions an entry of x belongs at most.

    Returns:
        A `Rounding`.
    """
    rows, columns = shape
    bias_norm = 0.0 if bias is None else up(float(np.linalg.norm(bias)) * math.sqrt(count))
    error = gamma(roundings, FLOAT32_ROUNDOFF)
    # Flushed to zero may be: weights (first term), products, sums and results.
    of_weights = FLOAT32_UNDERFLOW * math.sqrt(rows * columns * overlap)
    of_results = 2.0 * FLOAT32_UNDERFLOW * (rows + roundings) * math.sqrt(columns * count)
    return Rounding(
        relative=up(error * sizes + of_weights), absolute=up(error * bias_norm + of_results), offset=bias_norm
    )


def positions(output_shape: Shape | None) -> int | None:
    """How often a dense layer acts within one example, `None` if that is not known."""
    return None if output_shape is None else entries(output_shape[:-1])


@register(OrthogonalDense, one_lipschitz=True)
def _of_orthogonal_dense(call):
    kernel = used_weight(call.operation, "kernel")
    # Without rounding: the kernel is computed afresh in each call; condense the model to have it stored.
    return dense_bound(kernel, None, None, "Gram iteration on the float32 kernel in use")


@register(keras.layers.Dense)
def _of_dense(call):
    kernel, bias = built_weight(call.operation, "kernel"), optional_weight(call.operation, "bias")
    return with_activation(
        dense_bound(kernel, bias, positions(call.output_shape), "Gram iteration on the stored kernel"), call
    )


@register(keras.layers.EinsumDense)
def _of_einsum_dense(call):
    """The matrix that a kernel makes, at each value of the letters that all three terms have.

    Letters that only input and output have repeat it, which does not change its norm; the sum over a letter that only
    the input has multiplies the norm by the root of its size.
    """
    layer = call.operation
    kernel = built_weight(layer, "kernel")
    terms, of_kernel, result = layer.equation.replace(" ", "").replace("->", ",").split(",")
    if any(len(set(term)) < len(term) for term in (terms.replace("...", ""), of_kernel, result.replace("...", ""))):
        raise UnknownBoundError(f"no bound is known for {layer.equation!r}, which repeats a letter within a term.")
    if terms[0] != result[0] or terms[0] in of_kernel or ("..." in terms) != ("..." in result):
        raise UnknownBoundError(f"{layer.equation!r} mixes the examples of a batch; its first letter must be kept.")
    letters, of_sum = of_kernel, 0.0
    for letter in of_kernel:
        if letter not in terms and letter not in result:
            of_sum += gamma(kernel.size) * float(np.abs(kernel).sum())
            kernel, letters = kernel.sum(axis=letters.index(letter)), letters.replace(letter, "")
    shared = [x for x in letters if x in terms and x in result]
    contracted = [x for x in letters if x in terms and x not in result]
    made = [x for x in letters if x not in terms]
    sizes = dict(zip(letters, kernel.shape, strict=True))
    matrices = np.transpose(kernel, [letters.index(x) for x in shared + contracted + made])
    matrices = matrices.reshape(-1, math.prod(sizes[x] for x in contracted), math.prod(sizes[x] for x in made))
    norm = max(spectral_norm_bound(matrix) for matrix in matrices)
    norm = up(norm + 2.0 * of_sum)
    summed = [x for x in terms if x.isalpha() and x not in of_kernel and x not in result]
    if summed:
        norm = up(norm * math.sqrt(_size_of_letters(layer, summed, terms, call)))
    return with_activation(LayerBound(norm, f"Gram iteration on the kernel of {layer.equation}"), call)


def _size_of_letters(layer, letters, terms, call):
    if "..." in terms or not call.input_shapes:
        raise UnknownBoundError(f"the bound of {layer.equation!r} depends on the input's size. Pass input_shape.")
    sizes = [call.input_shapes[0][terms.index(letter)] for letter in letters]
    if None in sizes:
        raise UnknownBoundError(
            f"the bound of {layer.equation!r} depends on a size that is not known. Pass input_shape."
        )
    return math.prod(sizes)


@register(ops_numpy.Matmul)
def _of_matmul(call):
    constant, is_first = constant_operand(call, "a product of two tensors is not Lipschitz. Use a constant")
    rank = len(call.input_shapes[0])
    if constant.ndim == 1 and not is_first:
        constant = constant[:, None]
    if constant.ndim != 2 or rank < (3 if is_first else 2):
        raise UnknownBoundError(
            f"matmul of a tensor of rank {rank} with a constant of shape {constant.shape} has no known bound. "
            "Use a matrix that acts within an example."
        )
    return LayerBound(spectral_norm_bound(constant), "Gram iteration on the constant")
