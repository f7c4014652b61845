"""Projected gradient descent with restarts, on CleverHans' projections."""

from typing import Self

import numpy as np
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta

from clustr_keras.attacks.arguments import (
    NORMS,
    check_loss,
    check_norm,
    checked_arguments,
    distances,
    inner_radius,
)
from clustr_keras.attacks.attack import AttackLoss, AttackResult, Logits, Progress
from clustr_keras.attacks.batches import full_batches
from clustr_keras.attacks.losses import margin
from clustr_keras.attacks.steps import ascent_step, compiled, input_gradient, repeated
from clustr_keras.types import ArrayLike

# Share of the last step in the next one, where steps decay.
_MOMENTUM = 0.25


class ProjectedGradientDescent:
    """PGD in an l_2 or l_inf ball around each image, within [0, 1], with restarts.

    The first start is the image itself, unless `random_start`; the others are uniform in the ball. An example that has
    been flipped, be it on the way, stays where it is and is not attacked again. The loop is compiled as a whole, once
    or twice for each shape of image. Each example has an eps of its own, if need be.

    Args:
        logits: Function from images `[B, H, W, C]` to logits `[B, C]`, for example a Keras model.
        norm: `"l_2"` or `"l_inf"`.
        steps: Integer, gradient steps from each start.
        restarts: Integer, number of starts.
        step_size: Float, length of a step; by default `2.5 eps / steps`, or with `decay` `2 eps`.
        loss: `loss(labels, logits)` to ascend; `attacks.losses.margin` by default.
        batch_size: Integer.
        seed: Integer; equal seeds give equal starts.
        decay: Whether steps shrink from `step_size` to 0 along a cosine, with a momentum of 0.25, and the best point on
            the way counts instead of the last one. That is stronger in 100 steps: it looks about the ball first.
        random_start: Whether the first start is random as well.

    Raises:
        ValueError: For an unknown norm, `steps`, `restarts` or `batch_size` < 1, or a step that is not positive.

    Example:

    >>> attack = ProjectedGradientDescent(model, norm="l_2", steps=20, restarts=5)
    >>> attack(x_test, y_test, eps=0.5).is_flipped.mean()

    Reference:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; for large first steps,
        momentum and the best point Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of
        Diverse Parameter-free Attacks, ICML 2020, section 3.
    """

    def __init__(
        self,
        logits: Logits,
        norm: str = "l_inf",
        steps: int = 20,
        restarts: int = 5,
        step_size: float | None = None,
        loss: AttackLoss = margin,
        batch_size: int = 256,
        seed: int = 0,
        decay: bool = False,
        random_start: bool = False,
    ) -> None:
        check_norm(norm)
        if min(steps, restarts, batch_size) < 1:
            raise ValueError(
                f"steps, restarts and batch_size must be at least 1; got {steps}, {restarts} and {batch_size}."
            )
        if step_size is not None and not (np.isfinite(step_size) and step_size > 0):
            raise ValueError(f"step_size must be positive; got {step_size}.")
        self.logits = logits
        self.norm = norm
        self.steps = steps
        self.restarts = restarts
        self.step_size = step_size
        self.loss = loss
        self.batch_size = batch_size
        self.seed = seed
        self.decay = decay
        self.random_start = random_start
        self._run = compiled(self._attack)

    @property
    def name(self) -> str:
        """What reports call this attack."""
        return f"PGD {self.norm}, {self.steps} steps x {self.restarts} restarts{', decaying' if self.decay else ''}"

    def attempts(self, count: int) -> int:
        """What `progress` counts up to for `count` images."""
        return self.restarts * count

    def __call__(
        self, images: ArrayLike, labels: ArrayLike, eps: ArrayLike, progress: Progress | None = None
    ) -> AttackResult:
        """Attacks images.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1].
            labels: Ints `[B]`, the classes to lead away from.
            eps: Radius of the ball, in the norm, for pixels in [0, 1]: one for all, or `[B]`.
            progress: Function of the number of attempts that are over or not needed any more, out of `B * restarts`.

        Returns:
            An `AttackResult`; every `distance` is at most `eps`.

        Raises:
            ValueError: If images leave [0, 1], labels do not fit them, an eps is negative or not finite, or the
                attacked model gives logits that are not finite.
        """
        images, labels, eps = checked_arguments(images, labels, eps)
        best, best_loss, best_class = images.copy(), np.full(len(images), -np.inf), labels.copy()
        is_flipped = np.zeros(len(images), bool)
        for restart in range(self.restarts):
            left = np.flatnonzero(~is_flipped)
            over = restart * len(images) + len(images) - len(left)
            for rows, filled in full_batches(left, self.batch_size):
                outputs = self._attack_rows(images, labels, eps, filled, restart)
                adversarial, loss, class_ids = (output[: len(rows)] for output in outputs)
                check_loss(loss)
                flips = (class_ids != labels[rows]) & (self._distance(adversarial, images[rows]) <= eps[rows])
                better = flips | (loss > best_loss[rows])
                best[rows[better]], best_loss[rows[better]] = adversarial[better], loss[better]
                best_class[rows[better]] = class_ids[better]
                is_flipped[rows] = flips
                over += len(rows)
                if progress is not None:
                    progress(over)
        if progress is not None:
            progress(self.restarts * len(images))
        return AttackResult(best, is_flipped, best_class, self._distance(best, images))

    def compiled_as(self, other: "ProjectedGradientDescent") -> Self:
        """Takes over the compiled loop of another attack of its class, for the same logits, norm, loss and `decay`."""
        self._run = other._run
        return self

    def _attack_rows(self, images, labels, eps, filled, restart):
        """Attacks the rows of a batch."""
        x = images[filled]
        shape = (-1, *[1] * (x.ndim - 1))
        inner = inner_radius(eps[filled], x[0].size if self.norm == "l_2" else 1)
        step = np.full(len(filled), self.step_size, "float64") if self.step_size else self._default_step(eps[filled])
        is_random = restart > 0 or self.random_start
        outputs = self._run(
            tf.constant(x),
            tf.constant(labels[filled]),
            tf.constant(inner.reshape(shape), tf.float32),
            tf.constant(float(is_random)),
            tf.constant(step.reshape(shape), tf.float32),
            tf.constant([self.seed, restart], tf.int32),
            tf.constant(filled, tf.int32),
            tf.constant(self.steps, tf.int32),
        )
        return [np.asarray(output) for output in outputs]

    def _attack(self, x, labels, eps, is_random, step, seed, rows, steps):
        loss = self._loss_at(x, labels, seed[1])
        eta = is_random * eps * self._random_directions(tf.shape(x), seed, rows)
        adversarial = tf.clip_by_value(x + eta, 0.0, 1.0)
        ascend = self._ascend_and_settle if self.decay else self._ascend
        adversarial = ascend(adversarial, x, labels, eps, step, steps, loss)
        logits = self.logits(adversarial)
        return adversarial, loss(labels, logits), tf.argmax(logits, axis=-1)

    def _ascend(self, adversarial, x, labels, eps, step, steps, loss):
        """Where the last step ended, or the first flip."""

        def stepped(_, adversarial):
            _, class_ids, gradient = self._at(adversarial, labels, loss)
            moved = self._within(adversarial + ascent_step(gradient, step, self.norm), x, eps)
            is_right = tf.reshape(class_ids == labels, tf.shape(eps))
            return (tf.where(is_right, moved, adversarial),)

        return repeated(steps, stepped, adversarial)[0]

    def _ascend_and_settle(self, adversarial, x, labels, eps, step, steps, loss):
        """Where the loss was largest on a way of steps that shrink."""

        def stepped(number, adversarial, before, best, best_loss):
            value, _, gradient = self._at(adversarial, labels, loss)
            best = tf.where(tf.reshape(value > best_loss, tf.shape(eps)), adversarial, best)
            best_loss = tf.maximum(best_loss, value)
            share = 0.5 * (1.0 + tf.cos(np.pi * tf.cast(number, tf.float32) / tf.cast(steps, tf.float32)))
            moved = self._within(adversarial + ascent_step(gradient, share * step, self.norm), x, eps)
            going_on = (1.0 - _MOMENTUM) * (moved - adversarial) + _MOMENTUM * (adversarial - before)
            return self._within(adversarial + going_on, x, eps), adversarial, best, best_loss

        lowest = tf.fill(tf.shape(labels), -np.inf)
        adversarial, _, best, best_loss = repeated(steps, stepped, adversarial, adversarial, adversarial, lowest)
        is_better = loss(labels, self.logits(adversarial)) > best_loss
        return tf.where(tf.reshape(is_better, tf.shape(eps)), adversarial, best)

    def _at(self, adversarial, labels, loss):
        """Loss, class ids and the loss's gradient."""
        with tf.GradientTape() as tape:
            tape.watch(adversarial)
            logits = self.logits(adversarial)
            value = loss(labels, logits)
        return value, tf.argmax(logits, axis=-1, output_type=labels.dtype), input_gradient(value, adversarial, tape)

    def _within(self, moved, x, eps):
        """The point of the ball, and of [0, 1], that a point is moved to."""
        moved = tf.clip_by_value(moved, 0.0, 1.0)
        return tf.clip_by_value(x + clip_eta(moved - x, NORMS[self.norm], eps), 0.0, 1.0)

    def _default_step(self, eps):
        return 2.0 * eps if self.decay else 2.5 * eps / self.steps

    def _loss_at(self, x, labels, restart):
        """The loss of one restart, a function of labels and logits."""
        return lambda labels, logits: self.loss(labels, logits)

    def _random_directions(self, shape, seed, rows):
        """Uniform in the unit ball, and a function of seed, restart and example, not of the batch."""

        def of_row(row):
            # Seeds, restarts and rows never share a stream.
            row_seed = tf.random.experimental.stateless_fold_in(seed, row)
            if self.norm == "l_inf":
                return tf.random.stateless_uniform(shape[1:], row_seed, -1.0, 1.0)
            direction = tf.random.stateless_normal(shape[1:], row_seed)
            dim = tf.cast(tf.reduce_prod(shape[1:]), tf.float32)
            radius = tf.random.stateless_uniform([], row_seed + 2**20) ** (1.0 / dim)
            return radius * direction / tf.norm(direction)

        return tf.map_fn(of_row, rows, fn_output_signature=tf.float32)

    def _distance(self, adversarial, images):
        return distances(adversarial, images, NORMS[self.norm])


class TargetedProjectedGradientDescent(ProjectedGradientDescent):
    """PGD towards one other class after the other: those with the largest logits at the image, one for each restart.

    Ascends `logit_t - logit_y` for the target t and the label y. Where the class that is easiest to reach is not the
    runner-up at the image itself, it finds flips that the margin does not.

    Args:
        logits: Function from images `[B, H, W, C]` to logits `[B, C]`, for example a Keras model.
        norm: `"l_2"` or `"l_inf"`.
        steps: Integer, gradient steps towards each target.
        targets: Integer, number of targets, at most one less than there are classes.
        step_size, batch_size, seed, decay: See `ProjectedGradientDescent`.

    Raises:
        ValueError: As for `ProjectedGradientDescent`; when called, if there are no more than `targets` classes.

    Example:

    >>> TargetedProjectedGradientDescent(model, "l_inf", targets=9)(x_test, y_test, eps=8 / 255).is_flipped.mean()

    Reference:
        Gowal et al., An Alternative Surrogate Loss for PGD-based Adversarial Testing, 2019.
    """

    def __init__(
        self,
        logits: Logits,
        norm: str = "l_inf",
        steps: int = 20,
        targets: int = 9,
        step_size: float | None = None,
        batch_size: int = 256,
        seed: int = 0,
        decay: bool = False,
    ) -> None:
        super().__init__(
            logits, norm, steps, restarts=targets, step_size=step_size, batch_size=batch_size, seed=seed, decay=decay
        )

    @property
    def name(self) -> str:
        """What reports call this attack."""
        decaying = ", decaying" if self.decay else ""
        return f"targeted PGD {self.norm}, {self.steps} steps x {self.restarts} targets{decaying}"

    def _loss_at(self, x, labels, restart):
        logits = self.logits(x)
        classes = logits.shape[-1]
        if classes is not None and classes <= self.restarts:
            raise ValueError(f"{self.restarts} targets need more classes than that; got {classes}.")
        is_label = tf.one_hot(labels, tf.shape(logits)[-1], on_value=True, off_value=False)
        others = tf.where(is_label, -float("inf"), logits)
        ranked = tf.math.top_k(others, self.restarts).indices
        targets = tf.gather(ranked, restart, axis=-1)

        def loss(labels, logits):
            return tf.gather(logits, targets, batch_dims=1) - tf.gather(logits, labels, batch_dims=1)

        return loss
