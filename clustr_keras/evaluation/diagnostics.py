"""Signs that gradients are masked: attacks that do worse than they should."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from clustr_keras.attacks import ProjectedGradientDescent, SquareAttack, cross_entropy, dlr, margin
from clustr_keras.attacks.attack import Logits
from clustr_keras.attacks.steps import ascent_step, compiled, input_gradient
from clustr_keras.evaluation.flips import Flips
from clustr_keras.evaluation.interval import is_clearly_less
from clustr_keras.evaluation.stages import Stages, settings_of
from clustr_keras.evaluation.target import Target, log_of
from clustr_keras.types import Ints

# More of the examples without a gradient fail.
MAX_WITHOUT_GRADIENT = 0.05
# A stronger attack may be behind a weaker one by this much, and by more where that may be chance.
MAX_REVERSAL = 0.02
# What an attack on the cross-entropy may leave more than one on another loss, or on rescaled scores.
MAX_SATURATION = 0.03
# On fewer right examples a comparison that shows nothing says nothing.
MIN_EXAMPLES = 50
# What doubled restarts or steps may take off.
MAX_GAIN = 0.02
# Accuracy that may be left where every image is allowed.
MAX_UNBOUNDED = 0.01
# Share of the examples whose answer may change with the batch they are in.
MAX_CHANGED = 0.01
# Share of the points where a short step may do something else than the gradient says.
MAX_MISLED = 0.1

# What rescaled logits spread over: the cross-entropy is neither flat there nor that of the likeliest class alone.
_SPREAD = 10.0

# Length of that step, in units of eps: short enough for the gradient to hold, long for a ripple.
_SHORT_STEP = 0.01


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """One sign of masked gradients.

    Args:
        name: Short name.
        norm, eps: Of the ball that it was run in.
        passed: Boolean; `None` where it was not run, or on too few examples to say.
        figures: Dict, name -> share.
        rule: The rule, with its threshold, in words.
    """

    name: str
    norm: str
    eps: float
    passed: bool | None
    figures: dict[str, float]
    rule: str


class Diagnostics:
    """Looks for masked gradients: holds white-box attacks against weaker ones, and against themselves.

    The white box is PGD on the scores as they are, with 100 steps from 5 starts by default, on their cross-entropy and
    on their margin; an example falls to it if it falls to one of the two. All attacks run on all examples given,
    without skipping what another one has flipped.

    - `answers change`: the class of more than 1 % of the examples, or their logits, change with order and batch size.
      A model that answers at random needs attacks on its expectation, which these are not.
    - `vanishing gradients`: more than 5 % of the examples have an input gradient that is 0 or not finite.
    - `gradients mislead`: at more than 10 % of the images and of random points in the ball, a step of eps / 100 along
      the gradient of the margin changes it by less than half, or more than 1.5 times, what the gradient says.
    - `one step beats many`: one step of length eps leaves less accuracy than all steps from the image, both on the
      cross-entropy.
    - `black box beats white box`: the Square attack leaves less than the white-box attack.
    - `transfer beats white box`: flips of the surrogate leave less than the white-box attack.
    - `more effort still helps`: twice the restarts, or twice the steps, take off more than 2 points.
    - `cross-entropy saturates`: PGD on the cross-entropy leaves more than 3 points more than on the margin, or on the
      difference of logits ratio: the cross-entropy is flat where the scores are, which those two are not.
    - `scores saturate`: it leaves more than 3 points more than through other scores of the same order: their logarithms
      if all are positive, else as many times the logits as let them spread over 10 on average.
    - `large eps does not reach 0`: more than 1 % is left where every image is allowed.

    The attacks of the two on saturation have as many starts, and steps that shrink. "Less" is by more than 2 points if
    nothing else is said, and all of this beyond chance: p < 0.025 in the exact test on pairs (McNemar's), the examples
    being the same. On fewer than 50 right examples such a comparison fails or says nothing.

    Args:
        target: `Target`.
        norm: `"l_inf"` or `"l_2"`.
        eps: Float, radius of the ball for all but the last.
        surrogate: Function from images to logits, see `train_surrogate`; without one its diagnostic is not run.
        batch_size, seed: Integers, of the attacks.
        steps, restarts: Integers, of PGD; fewer make it quicker, and what it does not find hides what is masked.
        queries: Integer, of the Square attack.

    Example:

    >>> for diagnostic in Diagnostics(target, "l_inf", 0.1)(images, labels):
    ...     print(diagnostic.name, diagnostic.passed)

    Reference:
        Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 3.1;
        Carlini et al., On Evaluating Adversarial Robustness, 2019.
    """

    def __init__(
        self,
        target: Target,
        norm: str,
        eps: float,
        surrogate: Logits | None = None,
        batch_size: int = 256,
        seed: int = 0,
        steps: int = 100,
        restarts: int = 5,
        queries: int = 1000,
    ) -> None:
        self.target = target
        self.norm = norm
        self.eps = eps
        self.surrogate = surrogate
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.restarts = restarts
        self.queries = queries

    @property
    def attack_count(self) -> int:
        """How many attacks a call runs: the notes that `progress` gets."""
        return 12 + len(self._losses) + (self.surrogate is not None)

    def __call__(
        self, rows: Ints, class_ids: Ints, flips: Flips, stages: Stages, progress: Callable[[str], object] | None = None
    ) -> tuple[Diagnostic, ...]:
        """Runs all of them.

        Args:
            rows: Ints, the examples to run them on.
            class_ids: int64 `[N]`, predicted classes of all.
            flips: `Flips`, with all images and labels, which takes what is found.
            stages: `Stages`.
            progress: Function of a string, called before each attack.

        Returns:
            A tuple of `Diagnostic`.

        Raises:
            ValueError: If the model gets none of the examples right.
        """
        self.flips, self.stages, self.progress = flips, stages, progress
        self.asked = rows
        self.rows = rows[class_ids[rows] == flips.labels[rows]]
        if len(self.rows) == 0:
            raise ValueError("the model gets none of these examples right, so attacks show nothing about it.")
        self.images, self.labels = flips.images[self.rows], flips.labels[self.rows]
        white_box = self._white_box("PGD", self.eps)
        return (
            self._answers(),
            self._vanishing_gradients(),
            self._misleading_gradients(),
            self._one_step(),
            self._weaker(
                "black box beats white box",
                {"white box": white_box, "black box": self._stands("Square", self._square(), self.eps)},
            ),
            self._transfer(white_box),
            self._more_effort(white_box),
            *self._saturation(),
            self._unbounded(),
        )

    def _answers(self):
        images = self.flips.images[self.asked]
        ids, logits = self.target.predict(images, self.batch_size)
        others, again = self.target.predict(images[::-1], 7)
        spread = np.ptp(logits, axis=-1, keepdims=True)
        is_other = (ids != others[::-1]) | (abs(logits - again[::-1]) > 1e-3 * spread).any(axis=-1)
        share = float(is_other.mean())
        return self._diagnostic(
            "answers change",
            share <= MAX_CHANGED,
            {"changed": share},
            f"at most {MAX_CHANGED:.0%} of the examples get another answer in another order and batch size",
        )

    def _misleading_gradients(self):
        length = _SHORT_STEP * self.eps * (np.sqrt(self.images[0].size) if self.norm == "l_inf" else 1.0)
        draw = np.random.default_rng(self.seed)

        @compiled
        def judged(x, y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                logits = self.target.compiled_logits(x)
                before = margin(y, logits)
            gradient = input_gradient(before, x, tape)
            moved = tf.clip_by_value(x + ascent_step(gradient, length, "l_2"), 0.0, 1.0)
            after = margin(y, self.target.compiled_logits(moved))
            return gradient, moved, before, after, tf.reduce_max(tf.abs(logits), axis=-1)

        misled, count = 0, 0
        for start in range(0, len(self.rows), self.batch_size):
            images, labels = self.images[start : start + self.batch_size], self.labels[start : start + self.batch_size]
            for points in (images, self._random_points(images, draw)):
                outputs = judged(tf.constant(points), tf.constant(labels))
                gradient, moved, before, after, size = (np.asarray(output, "float64") for output in outputs)
                expected = (gradient * (moved - points)).reshape(len(points), -1).sum(axis=-1)
                # Where rounding hides the change there is nothing that a gradient could lead to.
                is_visible = expected > 64 * np.finfo("float32").eps * size
                ratio = (after - before) / np.where(is_visible, expected, 1.0)
                has_gradient = abs(gradient).reshape(len(points), -1).max(axis=-1) > 0
                misled += int((has_gradient & ~(is_visible & (ratio >= 0.5) & (ratio <= 1.5))).sum())
                count += len(points)
        share = misled / count
        return self._diagnostic(
            "gradients mislead",
            share <= MAX_MISLED,
            {"misled": share},
            f"at most {MAX_MISLED:.0%} of short steps along the gradient do not do what it says, within a factor of "
            "0.5 to 1.5",
        )

    def _random_points(self, images, draw):
        """A point of each ball, within [0, 1]."""
        if self.norm == "l_inf":
            moves = self.eps * draw.uniform(-1.0, 1.0, images.shape)
        else:
            moves = draw.normal(size=images.shape)
            moves *= self.eps / np.linalg.norm(moves.reshape(len(images), -1), axis=-1).reshape(-1, 1, 1, 1)
        return np.clip(images + moves, 0.0, 1.0).astype("float32")

    def _vanishing_gradients(self):
        @compiled
        def gradient(x, y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = cross_entropy(y, self.target.compiled_logits(x))
            return tape.gradient(loss, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)

        without = 0
        for start in range(0, len(self.rows), self.batch_size):
            images, labels = self.images[start : start + self.batch_size], self.labels[start : start + self.batch_size]
            computed = np.asarray(gradient(tf.constant(images), tf.constant(labels)))
            largest = np.abs(computed).reshape(len(images), -1).max(axis=-1)
            without += int((~np.isfinite(largest) | (largest == 0.0)).sum())
        share = without / len(self.rows)
        return self._diagnostic(
            "vanishing gradients",
            share <= MAX_WITHOUT_GRADIENT,
            {"without gradient": share},
            f"at most {MAX_WITHOUT_GRADIENT:.0%} of the examples have an input gradient that is 0 or not finite",
        )

    def _one_step(self):
        one = self._stands("one step", self._pgd(steps=1, restarts=1, step_size=self.eps), self.eps)
        many = self._stands("many steps", self._pgd(restarts=1), self.eps)
        return self._weaker("one step beats many", {"many steps": many, "one step": one})

    def _transfer(self, white_box):
        if self.surrogate is None:
            return self._diagnostic("transfer beats white box", None, {}, "not run: there is no surrogate")
        attack = ProjectedGradientDescent(
            self.surrogate, self.norm, self.steps, self.restarts, batch_size=self.batch_size, seed=self.seed
        )
        # One surrogate is told from another by what it says.
        said = np.concatenate([np.asarray(self.surrogate(image[None])) for image in self.images[:16]])
        stands = self._stands("transfer", attack, self.eps, hashlib.sha256(said.tobytes()).hexdigest())
        return self._weaker("transfer beats white box", {"white box": white_box, "transfer": stands})

    def _more_effort(self, white_box):
        stands = {
            "white box": white_box,
            "twice the restarts": self._white_box("restarts", self.eps, restarts=2 * self.restarts),
            "twice the steps": self._white_box("steps", self.eps, steps=2 * self.steps),
        }
        gains = [is_clearly_less(standing, white_box, MAX_GAIN * len(self.asked)) for standing in stands.values()]
        return self._compared(
            "more effort still helps",
            not any(gains),
            stands,
            f"twice the restarts or steps take off at most {100 * MAX_GAIN:g} points, beyond chance",
        )

    def _saturation(self):
        stands = {
            loss.__name__: self._stands(f"saturation, {loss.__name__}", self._pgd(loss=loss, decay=True), self.eps)
            for loss in self._losses
        }
        on_cross_entropy, *others = stands.values()
        most = MAX_SATURATION * len(self.asked)
        rule = f"leaves at most {100 * MAX_SATURATION:g} points more than"
        yield self._compared(
            "cross-entropy saturates",
            not any(is_clearly_less(standing, on_cross_entropy, most) for standing in others),
            stands,
            f"an attack on the cross-entropy {rule} one on the margin or the difference of logits ratio, beyond chance",
        )
        target = dataclasses.replace(self.target, logits=self._rescaled())
        rescaled = self._stands("saturation, rescaled", self._pgd(target=target, decay=True), self.eps)
        yield self._compared(
            "scores saturate",
            not is_clearly_less(rescaled, on_cross_entropy, most),
            {"scores": on_cross_entropy, "rescaled": rescaled},
            f"an attack on the cross-entropy of the scores {rule} one on that of their logarithms, or of logits that "
            f"spread over {_SPREAD:g}, beyond chance",
        )

    @property
    def _losses(self):
        return (cross_entropy, margin, dlr) if self.target.num_classes > 2 else (cross_entropy, margin)

    def _rescaled(self):
        _, logits = self.target.predict(self.images, self.batch_size)
        if (logits > 0.0).all():
            return log_of(self.target.compiled_logits)
        factor = _SPREAD / max(float(np.ptp(logits, axis=-1).mean()), float(np.finfo("float32").tiny))
        return lambda images: factor * self.target.compiled_logits(images)

    def _unbounded(self):
        everything = 1.0 if self.norm == "l_inf" else float(np.sqrt(self.images[0].size))
        left = self._share_of(self._white_box("unbounded", everything))
        return self._diagnostic(
            "large eps does not reach 0",
            left <= MAX_UNBOUNDED,
            {f"accuracy at eps = {everything:.3g}": left},
            f"at most {MAX_UNBOUNDED:.0%} is left where every image is allowed",
        )

    def _weaker(self, name, stands):
        """A comparison of two: the second one is the weaker attack, and should leave no less."""
        (stronger_name, stronger), (weaker_name, weaker) = stands.items()
        passed = not is_clearly_less(weaker, stronger, MAX_REVERSAL * len(self.asked))
        rule = f"{weaker_name} leaves at most {100 * MAX_REVERSAL:g} points less than {stronger_name}, beyond chance"
        return self._compared(name, passed, stands, rule)

    def _compared(self, name, passed, stands, rule):
        if passed and len(self.rows) < MIN_EXAMPLES:
            passed, rule = None, f"{rule}; {len(self.rows)} right examples are too few, {MIN_EXAMPLES} are needed"
        figures = {attack: self._share_of(standing) for attack, standing in stands.items()}
        return self._diagnostic(name, passed, figures, rule)

    def _diagnostic(self, name, passed, figures, rule):
        return Diagnostic(name, self.norm, self.eps, passed, figures, rule)

    def _white_box(self, name, eps, **settings):
        """Which of the right examples stand PGD on both losses."""
        stands = [
            self._stands(f"{name}, {loss.__name__}", self._pgd(loss=loss, **settings), eps)
            for loss in (cross_entropy, margin)
        ]
        return np.all(stands, axis=0)

    def _pgd(self, target=None, loss=cross_entropy, **settings):
        settings = {"steps": self.steps, "restarts": self.restarts, **settings}
        return (target or self.target).pgd(self.norm, loss=loss, batch_size=self.batch_size, seed=self.seed, **settings)

    def _square(self):
        return SquareAttack(
            self.target.compiled_logits, self.norm, self.queries, batch_size=self.batch_size, seed=self.seed
        )

    def _result(self, name, attack, eps, *depends_on):
        if self.progress is not None:
            self.progress(f"diagnostics, {name}: {attack.name}")
        settings = ["diagnostics", name, settings_of(attack), self.norm, eps, self.rows.tolist(), *depends_on]
        return self.stages(settings, lambda: attack(self.images, self.labels, eps))

    def _stands(self, name, attack, eps, *depends_on):
        """Which of the right examples stand the attack, of whatever logits it is."""
        result = self._result(name, attack, eps, *depends_on)
        class_ids, _ = self.target.predict(result.adversarial, self.batch_size)
        self.flips.add(self.rows, result.adversarial, class_ids)
        return class_ids == self.labels

    def _share_of(self, is_standing):
        return float(is_standing.sum() / len(self.asked))
