"""Carlini and Wagner's l_2 attack: CleverHans' change of variables, an optimizer and a search of our own."""

import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.carlini_wagner_l2 import clip_tanh

from clustr_keras.attacks.arguments import check_loss, checked_arguments, distances, into_ball
from clustr_keras.attacks.attack import AttackResult, Logits, Progress
from clustr_keras.attacks.batches import full_batches
from clustr_keras.attacks.losses import margin
from clustr_keras.attacks.steps import compiled, input_gradient, repeated
from clustr_keras.types import ArrayLike

_NO_FLIP = 1e10


class CarliniWagner:
    """Searches for the flip with the smallest l_2 norm: Adam on `||delta||^2 + constant * max(0, -margin)`.

    The pixels are `(tanh + 1) / 2` of free variables, so the box holds by itself. The margin is taken in units of that
    at the image, so that the scale of the logits does not matter. The constant is searched for each example by itself:
    raised tenfold until a flip is found, then bisected. The loop of CleverHans does not run on Keras 3, shares the
    constants of a batch among its examples, and breaks on logits below -10,000, so only its change of variables is used
    here. On the distance logits nothing saturates.

    The attack minimizes the norm and takes no ball: where its smallest flip lies outside of eps, the point of the
    segment to it that is inside is tried instead.

    Args:
        logits: Function from images `[B, H, W, C]` to logits `[B, C]`, for example a Keras model.
        steps: Integer, steps of Adam for each constant.
        searches: Integer, number of constants tried.
        learning_rate: Float, of Adam.
        initial_constant: Float.
        batch_size: Integer, most images in a batch; see `full_batches`.

    Attributes:
        norm: `"l_2"`.
        minimizes_norm: True: one call with a large eps is worth those with all smaller ones.

    Raises:
        ValueError: If `steps`, `searches` or `batch_size` < 1, or a rate or constant is not positive.

    Example:

    >>> CarliniWagner(model)(x_test, y_test, eps=0.5).is_flipped.mean()

    Reference:
        Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017.
    """

    norm = "l_2"
    minimizes_norm = True

    def __init__(
        self,
        logits: Logits,
        steps: int = 200,
        searches: int = 6,
        learning_rate: float = 0.02,
        initial_constant: float = 1.0,
        batch_size: int = 64,
    ) -> None:
        if min(steps, searches, batch_size) < 1:
            raise ValueError(
                f"steps, searches and batch_size must be at least 1; got {steps}, {searches} and {batch_size}."
            )
        if not (learning_rate > 0 and initial_constant > 0):
            raise ValueError(
                f"learning_rate and initial_constant must be positive; got {learning_rate} and {initial_constant}."
            )
        self.logits = logits
        self.steps = steps
        self.searches = searches
        self.learning_rate = learning_rate
        self.initial_constant = initial_constant
        self.batch_size = batch_size
        self._run = compiled(self._descend)
        self._classify = compiled(lambda x, labels: self._judge(labels, self.logits(x)))

    @property
    def name(self) -> str:
        """What reports call this attack."""
        return f"Carlini-Wagner l_2, {self.steps} steps x {self.searches} constants"

    def attempts(self, count: int) -> int:
        """What `progress` counts up to for `count` images."""
        return self.searches * count

    def __call__(
        self, images: ArrayLike, labels: ArrayLike, eps: ArrayLike, progress: Progress | None = None
    ) -> AttackResult:
        """Attacks images.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1].
            labels: Ints `[B]`, the classes to lead away from.
            eps: Radius of the ball: one for all, or `[B]`.
            progress: Function of the number of attempts that are over, out of `B * searches`.

        Returns:
            An `AttackResult`; every `distance` is at most `eps`.

        Raises:
            ValueError: If images leave [0, 1], labels do not fit them, an eps is negative or not finite, or the
                attacked model gives logits that are not finite.
        """
        images, labels, eps = checked_arguments(images, labels, eps)
        adversarial = images.copy()
        class_ids = labels.copy()
        for rows, filled in full_batches(np.arange(len(images)), self.batch_size):
            x, y = tf.constant(images[filled]), tf.constant(labels[filled])

            def report(search, rows=rows):
                if progress is not None:
                    progress(self.searches * rows[0] + search * len(rows))

            inside = into_ball(self._search(x, y, report), images[filled], eps[filled])
            loss, ids = self._classify(tf.constant(inside), y)
            check_loss(loss)
            adversarial[rows], class_ids[rows] = inside[: len(rows)], ids.numpy()[: len(rows)]
        return AttackResult(adversarial, class_ids != labels, class_ids, distances(adversarial, images))

    def _search(self, x, labels, report):
        """The smallest flip found under any constant, else the last attempt."""
        count = len(x)
        lower, upper = np.zeros(count), np.full(count, np.inf)
        constant = np.full(count, self.initial_constant)
        best, best_square = np.asarray(x), np.full(count, _NO_FLIP)
        for search in range(self.searches):
            found, square, last, loss = (out.numpy() for out in self._run(x, labels, tf.constant(constant, tf.float32)))
            check_loss(loss)
            is_flip = square < _NO_FLIP
            better = square < best_square
            never = (best_square == _NO_FLIP) & ~is_flip
            best = np.where(_like(best, better), found, np.where(_like(best, never), last, best))
            best_square = np.minimum(best_square, square)
            lower, upper = np.where(is_flip, lower, constant), np.where(is_flip, constant, upper)
            constant = np.where(np.isfinite(upper), 0.5 * (lower + upper), 10.0 * constant)
            report(search + 1)
        return best

    def _descend(self, x, labels, constant):
        """Adam under one constant per example: its smallest flip, that one's squared norm, the last attempt."""
        # In units of the margin at the image, so that a constant means the same for logits of any scale.
        unit = tf.abs(margin(labels, self.logits(x)))
        origin = tf.atanh((2.0 * x - 1.0) * 0.999999)

        def descended(step, shift, mean, square, best, best_square, *_):
            with tf.GradientTape() as tape:
                tape.watch(shift)
                attempt = clip_tanh(origin + shift, 0.0, 1.0)
                logits = self.logits(attempt)
                distance = tf.reduce_sum((attempt - clip_tanh(origin, 0.0, 1.0)) ** 2, axis=tf.range(1, tf.rank(x)))
                height = tf.math.divide_no_nan(tf.nn.relu(-margin(labels, logits)), unit)
                objective = distance + constant * height
            gradient = input_gradient(objective, shift, tape)
            loss, class_ids = self._judge(labels, logits)
            size = tf.reduce_sum((attempt - x) ** 2, axis=tf.range(1, tf.rank(x)))
            is_better = (class_ids != labels) & (size < best_square)
            best = tf.where(tf.reshape(is_better, (-1, *[1] * (x.shape.rank - 1))), attempt, best)
            best_square = tf.where(is_better, size, best_square)
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            passed = tf.cast(step + 1, tf.float32)
            unbiased = mean / (1.0 - 0.9**passed), square / (1.0 - 0.999**passed)
            shift -= self.learning_rate * unbiased[0] / (tf.sqrt(unbiased[1]) + 1e-8)
            return shift, mean, square, best, best_square, attempt, loss

        nothing, no_flip = tf.zeros_like(x), tf.fill(tf.shape(x)[:1], _NO_FLIP)
        state = nothing, nothing, nothing, x, no_flip, x, tf.zeros_like(constant)
        return repeated(self.steps, descended, *state)[3:]

    def _judge(self, labels, logits):
        return margin(labels, logits), tf.argmax(logits, axis=-1)


def _like(images, values):
    """One value for each image, in a shape that broadcasts over its pixels."""
    return values.reshape(-1, *[1] * (images.ndim - 1))
