"""Signs that gradients are masked: attacks that do worse than they should."""

import dataclasses

import numpy as np
import tensorflow as tf

from clustr_keras.attacks import ProjectedGradientDescent, SquareAttack, cross_entropy, margin
from clustr_keras.evaluation.interval import is_clearly_below

# More of the examples without a gradient fail.
MAX_WITHOUT_GRADIENT = 0.05
# A stronger attack may be behind a weaker one by this much, and by more where the intervals overlap.
MAX_REVERSAL = 0.02
# What doubled restarts or steps may take off.
MAX_GAIN = 0.02
# Accuracy that may be left where every image is allowed.
MAX_UNBOUNDED = 0.01

_STEPS, _RESTARTS, _QUERIES = 100, 5, 1000


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """One sign of masked gradients.

    Args:
        name: Short name.
        passed: Boolean; `None` where it was not run.
        figures: Dict, name -> share.
        rule: The rule, with its threshold, in words.
    """

    name: str
    passed: bool | None
    figures: dict
    rule: str


class Diagnostics:
    """Looks for masked gradients: holds white-box attacks against weaker ones, and against themselves.

    The white box is PGD on the scores as they are, with 100 steps from 5 starts, on their cross-entropy and on their
    margin; an example falls to it if it falls to one of the two. All attacks run on all examples given, without
    skipping what another one has flipped.

    - `vanishing gradients`: more than 5 % of the examples have an input gradient that is 0 or not finite.
    - `one step beats many`: one step of length eps leaves less accuracy than 100 steps from the image, both on the
      cross-entropy.
    - `black box beats white box`: the Square attack leaves less than the white-box attack.
    - `transfer beats white box`: flips of the surrogate leave less than the white-box attack.
    - `more effort still helps`: twice the restarts, or twice the steps, take off more than 2 points.
    - `large eps does not reach 0`: more than 1 % is left where every image is allowed.

    "Less" is by more than 2 points, with disjoint 95 % Wilson intervals.

    Args:
        target: `Target`.
        norm: `"l_inf"` or `"l_2"`.
        eps: Float, radius of the ball for all but the last.
        surrogate: Function from images to logits, see `train_surrogate`; without one its diagnostic is not run.
        batch_size, seed: Integers, of the attacks.

    Example:

    >>> for diagnostic in Diagnostics(target, "l_inf", 0.1)(images, labels):
    ...     print(diagnostic.name, diagnostic.passed)

    Reference:
        Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 3.1;
        Carlini et al., On Evaluating Adversarial Robustness, 2019.
    """

    def __init__(self, target, norm, eps, surrogate=None, batch_size=256, seed=0):
        self.target = target
        self.norm = norm
        self.eps = eps
        self.surrogate = surrogate
        self.batch_size = batch_size
        self.seed = seed

    def __call__(self, images, labels, class_ids, stages, progress=None):
        """Runs all of them.

        Args:
            images: float32 `[B, H, W, C]`.
            labels, class_ids: int64 `[B]`, true and predicted classes.
            stages: `Stages`.
            progress: Function of a string, called before each attack.

        Returns:
            A tuple of `Diagnostic`.
        """
        self.images, self.labels, self.stages, self.progress = images, labels, stages, progress
        self.rows = np.flatnonzero(class_ids == labels)
        if len(self.rows) == 0:
            raise ValueError("the model gets none of these examples right, so attacks show nothing about it.")
        white_box = self._white_box("PGD", self.eps)
        return (
            self._vanishing_gradients(),
            self._one_step(),
            self._weaker(
                "black box beats white box",
                {"white box": white_box, "black box": self._left("Square", self._square(), self.eps)},
            ),
            self._transfer(white_box),
            self._more_effort(white_box),
            self._unbounded(),
        )

    def _vanishing_gradients(self):
        @tf.function(reduce_retracing=True)
        def gradient(x, y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(cross_entropy(y, self.target.logits(x)))
            return tape.gradient(loss, x)

        without = 0
        for start in range(0, len(self.rows), self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            computed = gradient(tf.constant(self.images[rows]), tf.constant(self.labels[rows]))
            largest = np.abs(np.asarray(computed)).reshape(len(rows), -1).max(axis=-1)
            without += int((~np.isfinite(largest) | (largest == 0.0)).sum())
        share = without / len(self.rows)
        return Diagnostic(
            "vanishing gradients",
            share <= MAX_WITHOUT_GRADIENT,
            {"without gradient": share},
            f"at most {MAX_WITHOUT_GRADIENT:.0%} of the examples have an input gradient that is 0 or not finite",
        )

    def _one_step(self):
        one = self._left("one step", self._pgd(steps=1, restarts=1, step_size=self.eps), self.eps)
        many = self._left("many steps", self._pgd(restarts=1), self.eps)
        return self._weaker("one step beats many", {"many steps": many, "one step": one})

    def _transfer(self, white_box):
        if self.surrogate is None:
            return Diagnostic("transfer beats white box", None, {}, "not run: there is no surrogate")
        attack = ProjectedGradientDescent(
            self.surrogate, self.norm, _STEPS, _RESTARTS, batch_size=self.batch_size, seed=self.seed
        )
        result = self._result("transfer", attack, self.eps)
        class_ids, _ = self.target.predict(result.adversarial, self.batch_size)
        left = self._share_of(class_ids == self.labels[self.rows])
        return self._weaker("transfer beats white box", {"white box": white_box, "transfer": left})

    def _more_effort(self, white_box):
        figures = {
            "white box": white_box,
            "twice the restarts": self._white_box("restarts", self.eps, restarts=2 * _RESTARTS),
            "twice the steps": self._white_box("steps", self.eps, steps=2 * _STEPS),
        }
        return Diagnostic(
            "more effort still helps",
            white_box - min(figures.values()) <= MAX_GAIN,
            figures,
            f"twice the restarts or steps take off at most {100 * MAX_GAIN:g} points",
        )

    def _unbounded(self):
        everything = 1.0 if self.norm == "l_inf" else float(np.sqrt(self.images[0].size))
        left = self._white_box("unbounded", everything)
        return Diagnostic(
            "large eps does not reach 0",
            left <= MAX_UNBOUNDED,
            {f"accuracy at eps = {everything:.3g}": left},
            f"at most {MAX_UNBOUNDED:.0%} is left where every image is allowed",
        )

    def _weaker(self, name, figures):
        """A comparison of two: the second one is the weaker attack, and should leave no less."""
        (stronger_name, stronger), (weaker_name, weaker) = figures.items()
        return Diagnostic(
            name,
            not is_clearly_below(weaker, stronger, len(self.images), MAX_REVERSAL),
            figures,
            f"{weaker_name} leaves at most {100 * MAX_REVERSAL:g} points less than {stronger_name}, or the intervals "
            "overlap",
        )

    def _white_box(self, name, eps, **settings):
        """Share of the examples that is right and stands PGD on both losses."""
        is_flipped = [
            self._result(f"{name}, {loss.__name__}", self._pgd(loss=loss, **settings), eps).is_flipped
            for loss in (cross_entropy, margin)
        ]
        return self._share_of(~np.any(is_flipped, axis=0))

    def _pgd(self, steps=_STEPS, restarts=_RESTARTS, step_size=None, loss=cross_entropy):
        return ProjectedGradientDescent(
            self.target.logits,
            self.norm,
            steps,
            restarts,
            step_size=step_size,
            loss=loss,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def _square(self):
        return SquareAttack(self.target.logits, self.norm, _QUERIES, batch_size=self.batch_size, seed=self.seed)

    def _result(self, name, attack, eps):
        if self.progress is not None:
            self.progress(f"diagnostics, {name}: {attack.name}")
        settings = ["diagnostics", name, attack.name, self.norm, eps, self.rows.tolist()]
        return self.stages(settings, lambda: attack(self.images[self.rows], self.labels[self.rows], eps))

    def _left(self, name, attack, eps):
        """Share of the examples that is right and stands the attack."""
        return self._share_of(~self._result(name, attack, eps).is_flipped)

    def _share_of(self, is_standing):
        return float(is_standing.sum() / len(self.images))
