"""An attack that knows the cluster centers and heads for the cells of the nearest rivals."""

import tensorflow as tf
from cleverhans.tf2.utils import clip_eta

from clustr_keras import certificates
from clustr_keras.attacks.cells import RivalCells, nearest_rivals
from clustr_keras.attacks.pgd import ProjectedGradientDescent
from clustr_keras.attacks.steps import repeated
from clustr_keras.certification import Certifier

# How far behind the faces of a rival's cell the attack aims, as a share of the way there.
_DEPTH = 1e-3


class BisectorAttack(ProjectedGradientDescent):
    """Leads each image's embedding to the foot on the Voronoi cells of its nearest rivals, in an l_2 ball.

    One rival after the other: at each step the embedding's projection on the rival's cell is the target, and the image
    moves against the gradient of the distance to it, as far as that would take it if the backbone were linear. It
    stops at the first flip. Unlike the margin, the distance to a cell has a gradient that leads into its corners, so
    that with K > 1 the attack does not go to and fro between two faces. For the identity as backbone the first step
    ends at the foot itself.

    Args:
        certifier: `Certifier`, from `model.certifier()`.
        steps: Integer, gradient steps for each rival.
        rivals: Integer, number of rival centers tried; at most all.
        batch_size: Integer.

    Raises:
        ValueError: If `steps`, `rivals` or `batch_size` < 1.

    Example:

    >>> attack = BisectorAttack(model.certifier())
    >>> attack(x_test, y_test, eps=0.5).is_flipped.mean()

    Reference:
        Moosavi-Dezfooli et al., DeepFool, CVPR 2016, for the length of the steps.
    """

    def __init__(self, certifier: Certifier, steps: int = 30, rivals: int = 8, batch_size: int = 256) -> None:
        num_classes, clusters, _ = certifier.centers.shape
        rivals = min(rivals, (num_classes - 1) * clusters)
        super().__init__(certifier.deployed_logits, "l_2", steps=steps, restarts=rivals, batch_size=batch_size)
        self.certifier = certifier

    @property
    def name(self) -> str:
        """What reports call this attack."""
        return f"bisector l_2, {self.steps} steps x {self.restarts} rivals"

    def _attack(self, x, labels, eps, is_random, step, seed, rows, steps):
        del is_random, step, rows
        axes = list(range(1, x.shape.rank))
        centers = tf.convert_to_tensor(self.certifier.centers)
        cells = self._cells(self._embed(x), centers, labels, rank=seed[1])

        def stepped(index, adversarial, is_flipped):
            with tf.GradientTape() as tape:
                tape.watch(adversarial)
                embeddings = self._embed(adversarial)
                to_cell = embeddings - tf.stop_gradient(cells.project(embeddings))
                half_square = 0.5 * tf.reduce_sum(to_cell**2, axis=-1)
            gradient = tape.gradient(half_square, adversarial)
            is_flipped |= tf.argmax(certificates.distance_logits(embeddings, centers), axis=-1) != labels
            # Newton's step to distance 0, shorter and shorter on the ball's surface, where it cannot be made.
            slope = tf.sqrt(tf.reduce_sum(gradient**2, axis=axes, keepdims=True))
            length = tf.math.divide_no_nan(2.0 * tf.reshape(half_square, tf.shape(slope)), slope)
            longest = 2.0 * eps * (1.0 - tf.cast(index, tf.float32) / tf.cast(steps, tf.float32))
            direction = tf.math.divide_no_nan(gradient, slope)
            moved = tf.clip_by_value(adversarial - tf.minimum(length, longest) * direction, 0.0, 1.0)
            moved = tf.clip_by_value(x + clip_eta(moved - x, 2, eps), 0.0, 1.0)
            return tf.where(tf.reshape(is_flipped, tf.shape(slope)), adversarial, moved), is_flipped

        adversarial, _ = repeated(steps, stepped, x, tf.zeros_like(labels, tf.bool))
        logits = self.logits(adversarial)
        return adversarial, self.loss(labels, logits), tf.argmax(logits, axis=-1)

    def _cells(self, embeddings, centers, labels, rank):
        ids = nearest_rivals(embeddings, centers, labels, self.restarts)
        rivals = tf.gather(tf.reshape(centers, (-1, centers.shape[-1])), tf.gather(ids, rank, axis=1))
        cells = RivalCells(tf.gather(centers, labels), rivals)
        distance = tf.norm(embeddings - cells.project(embeddings), axis=-1, keepdims=True)
        # Beside the share, what float32 cannot tell from the face itself; never past the rival center.
        size = tf.norm(embeddings - rivals, axis=-1, keepdims=True) + tf.reduce_max(cells.half_gaps, -1, keepdims=True)
        least = tf.reduce_min(cells.half_gaps, axis=-1, keepdims=True)
        cells.depth = tf.minimum(_DEPTH * distance + 1e-6 * size, 0.5 * least)
        return cells

    def _embed(self, images):
        return tf.cast(self.certifier.backbone(images, training=False), tf.float32)
