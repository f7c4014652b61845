"""A black-box attack: random search over square patches, which needs no gradient."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from clustr_keras.attacks.arguments import (
    NORMS,
    check_loss,
    check_norm,
    checked_arguments,
    distances,
    inner_radius,
)
from clustr_keras.attacks.attack import AttackResult, Logits, Progress
from clustr_keras.attacks.batches import full_batches
from clustr_keras.attacks.losses import margin
from clustr_keras.attacks.steps import compiled, repeated
from clustr_keras.types import ArrayLike, Tensor

# Shares of all queries after which the patches get half the area.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
# Queries between two looks at which examples are left.
_QUERIES_AT_ONCE = 50
# Side of the tiles that the l_2 search starts from.
_TILE = 5


class SquareAttack:
    """Changes one square patch of the image at a time, and keeps the change where it brings the flip nearer.

    Asks the model for logits only, so that gradients which vanish or mislead cannot stop it. In the l_inf ball a patch
    gets `+eps` or `-eps` in each channel, from vertical stripes at the start; in the l_2 ball a patch takes over the
    norm of another one and what is left of eps, in the shape of a bump. An example that has been flipped is not
    attacked again.

    Args:
        logits: Function from images `[B, H, W, C]` to logits `[B, C]`, for example a Keras model.
        norm: `"l_2"` or `"l_inf"`.
        queries: Integer, how often the model is asked about each image.
        area: Share of the image that the first patches take.
        batch_size: Integer, most images in a batch; see `full_batches`.
        seed: Integer.

    Raises:
        ValueError: For an unknown norm, `queries` or `batch_size` < 1, or an area outside of (0, 1].

    Example:

    >>> SquareAttack(model, "l_inf", queries=1000)(x_test, y_test, eps=8 / 255).is_flipped.mean()

    Reference:
        Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack via random search, ECCV
        2020, algorithms 1 to 3.
    """

    def __init__(
        self,
        logits: Logits,
        norm: str = "l_inf",
        queries: int = 1000,
        area: float = 0.1,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        check_norm(norm)
        if min(queries, batch_size) < 1:
            raise ValueError(f"queries and batch_size must be at least 1; got {queries} and {batch_size}.")
        if not 0 < area <= 1:
            raise ValueError(f"area must be a share in (0, 1]; got {area}.")
        self.logits = logits
        self.norm = norm
        self.queries = queries
        self.area = area
        self.batch_size = batch_size
        self.seed = seed
        self._start = compiled(self._first_attempt)
        self._searches: dict[int, Callable[..., tuple[Tensor, ...]]] = {}

    @property
    def name(self) -> str:
        """What reports call this attack."""
        return f"Square {self.norm}, {self.queries} queries"

    def attempts(self, count: int) -> int:
        """What `progress` counts up to for `count` images."""
        return self.queries * count

    def __call__(
        self, images: ArrayLike, labels: ArrayLike, eps: ArrayLike, progress: Progress | None = None
    ) -> AttackResult:
        """Attacks images.

        Args:
            images: Floats `[B, H, W, C]` in [0, 1].
            labels: Ints `[B]`, the classes to lead away from.
            eps: Radius of the ball: one for all, or `[B]`.
            progress: Function of the number of attempts that are over or not needed any more, out of `B * queries`.

        Returns:
            An `AttackResult`; every `distance` is at most `eps`.

        Raises:
            ValueError: If images leave [0, 1], labels do not fit them, an eps is negative or not finite, or the
                attacked model gives logits that are not finite.
        """
        images, labels, eps = checked_arguments(images, labels, eps)
        best, best_loss = images.copy(), np.full(len(images), -np.inf, "float32")
        class_ids, is_flipped = labels.copy(), np.zeros(len(images), bool)
        for query in range(0, self.queries, _QUERIES_AT_ONCE):
            count = min(_QUERIES_AT_ONCE, self.queries - query)
            for rows, filled in full_batches(np.flatnonzero(~is_flipped), self.batch_size):
                state = self._ask(images, labels, eps, best, best_loss, filled, query, count)
                found, loss, ids = (part[: len(rows)] for part in state)
                check_loss(loss)
                best[rows], best_loss[rows], class_ids[rows] = found, loss, ids
            inside = self._distance(best, images) <= eps
            is_flipped = (class_ids != labels) & inside
            if progress is not None:
                progress(int(is_flipped.sum()) * self.queries + int((~is_flipped).sum()) * (query + count))
        return AttackResult(best, is_flipped, class_ids, self._distance(best, images))

    def _ask(self, images, labels, eps, best, best_loss, filled, query, count):
        """Some queries for the rows of a batch."""
        x, y = tf.constant(images[filled]), tf.constant(labels[filled])
        inner = inner_radius(eps[filled], images[0].size if self.norm == "l_2" else 1)
        ball = tf.constant(inner.reshape(-1, *[1] * (images.ndim - 1)), tf.float32)
        # Each batch has a stream of its own, by its first row.
        seed = tf.constant([self.seed, int(filled[0])], tf.int32)
        if query == 0:
            attempt, loss = self._start(x, y, ball, seed)
        else:
            attempt, loss = tf.constant(best[filled]), tf.constant(best_loss[filled])
        side = self._side(query, images.shape[1:3])
        # A bump is made for one side.
        search = self._searches.setdefault(side, compiled(functools.partial(self._search, side)))
        state = search(x, y, ball, attempt, loss, tf.constant([query, count], tf.int32), seed)
        return [np.asarray(part) for part in state]

    def _side(self, query, sizes):
        """Side of the patches at a query."""
        halvings = sum(query >= share * self.queries for share in _HALVINGS)
        side = round((self.area * 0.5**halvings * sizes[0] * sizes[1]) ** 0.5)
        # A bump in l_2 has two halves.
        return int(np.clip(side, 2 if self.norm == "l_2" else 1, max(1, min(sizes) - 1)))

    def _first_attempt(self, x, labels, eps, seed):
        batch, height, width, channels = tf.unstack(tf.shape(x))
        if self.norm == "l_inf":
            signs = self._signs((batch, 1, width, channels), seed, -1)
            attempt = tf.clip_by_value(x + eps * signs, 0.0, 1.0)
        else:
            rows, columns = -(-height // _TILE), -(-width // _TILE)
            signs = self._signs((batch, rows, columns, channels), seed, -1)
            signs = tf.repeat(tf.repeat(signs, _TILE, axis=1), _TILE, axis=2)
            bumps = tf.tile(tf.constant(_bump(_TILE))[None, :, :, None], (1, rows, columns, 1))
            attempt = self._scaled(x, (signs * bumps)[:, :height, :width], eps)
        return attempt, margin(labels, self.logits(attempt))

    def _search(self, side, x, labels, eps, attempt, loss, queries, seed):
        attempted = self._with_patch if self.norm == "l_inf" else self._with_bump

        def asked(number, attempt, loss, class_ids):
            trial = attempted(x, attempt, eps, side, seed, queries[0] + number)
            logits = self.logits(trial)
            trial_loss = margin(labels, logits)
            is_better = trial_loss > loss
            attempt = tf.where(is_better[:, None, None, None], trial, attempt)
            class_ids = tf.where(is_better, tf.argmax(logits, axis=-1), class_ids)
            return attempt, tf.where(is_better, trial_loss, loss), class_ids

        return repeated(queries[1], asked, attempt, loss, tf.argmax(self.logits(attempt), axis=-1))

    def _with_patch(self, x, attempt, eps, side, seed, query):
        """A patch at the corners of the l_inf ball."""
        is_inside, _ = self._window(x, side, seed, query, 0)
        signs = self._signs((tf.shape(x)[0], 1, 1, tf.shape(x)[3]), seed, query)
        return tf.where(is_inside, tf.clip_by_value(x + eps * signs, 0.0, 1.0), attempt)

    def _with_bump(self, x, attempt, eps, side, seed, query):
        """A bump in one window, with the norm of what another one held and of what is left of eps."""
        delta = attempt - x
        here, place = self._window(x, side, seed, query, 0)
        there, _ = self._window(x, side, seed, query, 1)
        axes = (1, 2)
        in_both = tf.reduce_sum(tf.where(here | there, delta**2, 0.0), axes, keepdims=True)
        left = tf.nn.relu(eps**2 - tf.reduce_sum(delta**2, (1, 2, 3), keepdims=True))
        old = tf.where(here, delta, 0.0)
        old /= tf.sqrt(tf.reduce_sum(old**2, axes, keepdims=True)) + 1e-9
        bump = tf.gather_nd(tf.constant(_bump(side)), tf.clip_by_value(place, 0, side - 1))[..., None]
        signs = self._signs((tf.shape(x)[0], 1, 1, tf.shape(x)[3]), seed, query)
        new = tf.where(here, signs * bump + old, 0.0)
        channels = tf.cast(tf.shape(x)[3], tf.float32)
        new *= tf.sqrt(in_both + left / channels) / (tf.sqrt(tf.reduce_sum(new**2, axes, keepdims=True)) + 1e-9)
        return self._scaled(x, tf.where(here, new, tf.where(there, 0.0, delta)), eps)

    def _window(self, x, side, seed, query, number):
        """A random square in each image: where it is, `[B, H, W, 1]`, and each pixel's place from its corner."""
        batch, height, width, _ = tf.unstack(tf.shape(x))
        key = seed + tf.stack([0, 2**20 * (number + 1)])
        corner = tf.random.stateless_uniform((2, batch), key + query * 2**8)
        room = tf.cast(tf.stack([height, width])[:, None] - side + 1, tf.float32)
        top, left = tf.unstack(tf.cast(corner * room, tf.int32))
        rows = tf.range(height)[None, :, None] - top[:, None, None]
        columns = tf.range(width)[None, None, :] - left[:, None, None]
        rows, columns = tf.broadcast_to(rows, (batch, height, width)), tf.broadcast_to(columns, (batch, height, width))
        is_inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        return is_inside[..., None], tf.stack([rows, columns], axis=-1)

    def _signs(self, shape, seed, query):
        drawn = tf.random.stateless_uniform(tf.stack(shape), seed + (query + 1) * 2**8)
        return tf.where(drawn < 0.5, -1.0, 1.0)

    def _scaled(self, x, delta, eps):
        """The image moved by eps along a direction, within [0, 1]."""
        norm = tf.sqrt(tf.reduce_sum(delta**2, (1, 2, 3), keepdims=True))
        return tf.clip_by_value(x + delta * eps / tf.maximum(norm, 1e-12), 0.0, 1.0)

    def _distance(self, adversarial, images):
        return distances(adversarial, images, NORMS[self.norm])


def _bump(side):
    """Two bumps of opposite sign, one above the other, `[side, side]`, of norm 1.

    At a distance of k pixels from the middle of a bump, in the maximum norm, its height is the sum of `1 / (n + 1)^2`
    over all n from k on.
    """
    halves = []
    for height in (side // 2, side - side // 2):
        rows, columns = np.arange(height)[:, None] - height // 2, np.arange(side)[None, :] - side // 2
        ring = np.maximum(abs(rows), abs(columns))
        heights = np.cumsum(1.0 / np.arange(side + 1, 0, -1) ** 2)[::-1]
        half = heights[ring]
        halves.append(half / max(np.linalg.norm(half), 1e-12))
    bump = np.concatenate([halves[0], -halves[1]])
    return (bump / np.linalg.norm(bump)).astype("float32")
