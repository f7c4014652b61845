"""Terms that ask an image and its perturbed twin for the same answer, per example."""

from keras import ops

from clustr_keras.types import ArrayLike, Tensor


def cross_entropy_between(target: Tensor | ArrayLike, scores: Tensor | ArrayLike) -> Tensor:
    """Cross-entropy between a distribution and the softmax of scores, `-sum_c p_c log softmax(scores)_c`.

    QTRADES adds its batch mean to the loss, with `p` the posterior of an image and the scores those of its perturbed
    twin. The gradient reaches both. A class with `p_c = 0` counts 0, whatever its score, so that the value is finite
    for all finite scores, and for a score of `-inf` unless its class has a share in the target.

    Args:
        target: Floats `[B, C]`, the probabilities p.
        scores: Floats `[B, C]`.

    Returns:
        float32 `[B]`.

    Example:

    >>> cross_entropy_between([[1.0, 0.0]], [[0.0, 0.0]])
    [0.6931472]

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """
    target, log_probabilities = _float32(target), ops.log_softmax(_float32(scores), axis=-1)
    has_no_say = (target == 0.0) & ops.isinf(log_probabilities)
    return -ops.sum(target * ops.where(has_no_say, 0.0, log_probabilities), axis=-1)


def kl_divergence(target: Tensor | ArrayLike, scores: Tensor | ArrayLike) -> Tensor:
    """Kullback-Leibler divergence of the softmax of scores from a distribution, `sum_c p_c log(p_c / softmax_c)`.

    It is what TRADES ascends to find the perturbed twin. Without a gradient in `p` it has the gradient of
    `cross_entropy_between`. A class with `p_c = 0` counts 0 and has no gradient in `p_c`.

    Args:
        target: Floats `[B, C]`, the probabilities p.
        scores: Floats `[B, C]`.

    Returns:
        float32 `[B]`, 0 where the two agree.

    Example:

    >>> kl_divergence([[0.5, 0.5]], [[3.0, 3.0]])
    [0.0]

    Reference:
        Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019.
    """
    target, log_probabilities = _float32(target), ops.log_softmax(_float32(scores), axis=-1)
    is_absent = target == 0.0
    log_target = ops.log(ops.where(is_absent, 1.0, target))
    return ops.sum(target * (log_target - ops.where(is_absent, 0.0, log_probabilities)), axis=-1)


def embedding_mse(embeddings: Tensor | ArrayLike, perturbed: Tensor | ArrayLike) -> Tensor:
    """Mean squared difference of two embeddings, `||z - z'||^2 / D`.

    The mean over the D entries, not the sum: its batch mean is then the mean over all entries of the batch, the
    reduction that the paper's weights of this term are meant for.

    Args:
        embeddings: Floats `[B, D]`.
        perturbed: Floats `[B, D]`, those of the perturbed images.

    Returns:
        float32 `[B]`.

    Example:

    >>> embedding_mse([[1.0, 1.0]], [[1.0, 3.0]])
    [2.0]

    Reference:
        Alfarra et al., Rethinking Clustering for Robustness, BMVC 2021.
    """
    return ops.mean(ops.square(_float32(embeddings) - _float32(perturbed)), axis=-1)


def _float32(values):
    return ops.cast(values, "float32")
