"""Which examples make up a magnet batch."""

import keras
import numpy as np

from clustr_keras.types import Bools, Floats, Ints, Tensor


class ClusterSampler:
    """Draws seed cluster, impostor clusters and examples of each batch of an epoch.

    The seed cluster is drawn with probability proportional to the mean of the last losses of its examples. Its
    impostors are the m - 1 clusters of other classes whose centers are nearest to its own. From each of these m
    clusters up to d examples are drawn without replacement.

    Batch t of an epoch is drawn from the losses of all epochs before and of this one's steps up to `t - 1 - lag`; no
    later loss has a part in it, whenever it arrives. Its random numbers are a function of seed, epoch and t. So the
    batches depend neither on who asks for them nor when.

    Args:
        labels: Class ids `[N]`.
        num_classes: Integer C.
        clusters_per_class: Integer K.
        clusters_per_batch: Integer m.
        examples_per_cluster: Integer d.
        lag: Integer, at least 0.
        seed: Integer, at least 0.
    """

    def __init__(
        self,
        labels: Ints,
        num_classes: int,
        clusters_per_class: int,
        clusters_per_batch: int,
        examples_per_cluster: int,
        lag: int,
        seed: int,
    ) -> None:
        self.labels = labels
        self.clusters_per_class = clusters_per_class
        self.num_clusters = num_classes * clusters_per_class
        self.clusters_per_batch = clusters_per_batch
        self.examples_per_cluster = examples_per_cluster
        self.lag = lag
        self.seed = seed
        self.example_losses = np.zeros(len(labels), "float32")
        self.has_loss = np.zeros(len(labels), bool)
        # Until there are clusters.
        self.assignments: Ints = np.zeros(0, "int64")
        self.centers: Floats = np.zeros((num_classes, clusters_per_class, 0), "float32")
        self._members: list[Ints] = []
        self.epoch = -1  # none has begun

    def assign(self, assignments: Ints, centers: Floats) -> None:
        """Takes the cluster `class * K + k` of each example, `[N]`, and the centers `[C, K, D]`."""
        self.assignments = assignments
        self.centers = centers
        order = np.argsort(assignments, kind="stable")
        bounds = np.searchsorted(assignments[order], np.arange(1, self.num_clusters))
        self._members = np.split(order, bounds)

    @property
    def has_clusters(self) -> bool:
        """Whether there are clusters to draw from."""
        return bool(self._members)

    @property
    def is_in_epoch(self) -> bool:
        """Whether an epoch has begun, and has not ended."""
        return self.epoch >= 0

    def begin_epoch(self, epoch: int) -> None:
        """Starts an epoch."""
        if self.is_in_epoch:
            self.end_epoch()  # it was cut short; what arrived counts, however many batches were drawn ahead
        self.epoch = epoch
        self._draws: list[tuple[Ints, Ints]] = []
        self._losses: list[Tensor] = []
        self._recorded = 0

    def end_epoch(self) -> None:
        """Records the losses that no batch has waited for."""
        self._record(len(self._losses))
        self.epoch = -1

    def add_losses(self, losses: Tensor) -> None:
        """Takes the losses of the next step, one per drawn row, as a tensor that is read when it is needed."""
        self._losses.append(losses)

    def set_losses(self, example_losses: Floats, has_loss: Bools) -> None:
        """Replaces all losses, between two epochs; one that was cut short is forgotten."""
        self.example_losses, self.has_loss = example_losses, has_loss
        self.epoch = -1

    @property
    def steps_done(self) -> int:
        """Number of steps of this epoch whose losses have arrived."""
        return len(self._losses)

    def is_due(self, step: int) -> bool:
        """Whether the losses of a step are the next ones to come."""
        return self.is_in_epoch and len(self._losses) == step < len(self._draws)

    def can_draw(self, step: int) -> bool:
        """Whether the losses have arrived that the batch of a step is drawn from."""
        return self.is_in_epoch and step - self.lag <= len(self._losses)

    def draw(self, step: int) -> tuple[Ints, Ints]:
        """Rows of the data and their clusters, two int arrays of equal length; those of one cluster stand together."""
        while len(self._draws) <= step:
            self._record(len(self._draws) - self.lag)
            self._draws.append(self._next_draw())
        return self._draws[step]

    def losses_so_far(self) -> tuple[Floats, Bools]:
        """Losses and which examples have one, with all that have arrived; what is drawn later stays as it would be."""
        losses, has_loss = self.example_losses.copy(), self.has_loss.copy()
        if self.is_in_epoch:
            for step in range(self._recorded, len(self._losses)):
                self._record_step(step, losses, has_loss)
        return losses, has_loss

    def _record(self, steps):
        for step in range(self._recorded, steps):
            self._record_step(step, self.example_losses, self.has_loss)
            self._losses[step] = None
            self._recorded = step + 1

    def _record_step(self, step, example_losses, has_loss):
        rows, _ = self._draws[step]
        losses = keras.ops.convert_to_numpy(self._losses[step])[: len(rows)]
        # A step that overflows under float16 changes no weight; its losses say nothing either.
        known = np.isfinite(losses)
        example_losses[rows[known]] = losses[known]
        has_loss[rows[known]] = True

    def _next_draw(self):
        # The fourth number keeps this stream apart from the augmentation's, whose three end in an implied 0.
        rng = np.random.default_rng([self.seed, self.epoch, len(self._draws), 1])
        seed_cluster = rng.choice(self.num_clusters, p=self._seed_probabilities())
        chosen = [seed_cluster, *self._impostors(seed_cluster)]
        rows = [self._some_members(cluster, rng) for cluster in chosen]
        return np.concatenate(rows), np.repeat(chosen, [len(of_cluster) for of_cluster in rows])

    def _seed_probabilities(self):
        losses = cluster_losses(self.example_losses, self.has_loss, self.assignments, self.num_clusters)
        weights = losses if losses.any() else np.ones(self.num_clusters)
        weights = np.where([len(members) > 0 for members in self._members], weights, 0.0)
        return weights / weights.sum()

    def _impostors(self, seed_cluster):
        centers = self.centers.reshape(self.num_clusters, -1).astype("float64")
        distances = np.sum((centers - centers[seed_cluster]) ** 2, axis=-1)
        own_class = seed_cluster // self.clusters_per_class
        rivals = [
            cluster
            for cluster in np.argsort(distances, kind="stable")
            if cluster // self.clusters_per_class != own_class and len(self._members[cluster])
        ]
        return rivals[: self.clusters_per_batch - 1]

    def _some_members(self, cluster, rng):
        members = self._members[cluster]
        return rng.choice(members, min(self.examples_per_cluster, len(members)), replace=False)


def cluster_losses(example_losses: Floats, has_loss: Bools, assignments: Ints, num_clusters: int) -> Floats:
    """Mean loss of each cluster, over those of its examples that have one.

    Clusters without any get the mean of the others, or 0 if there is no other.

    Args:
        example_losses: Floats `[N]`.
        has_loss: Booleans `[N]`.
        assignments: Cluster of each example, ints `[N]`.
        num_clusters: Integer.

    Returns:
        float64 `[num_clusters]`.

    Example:

    >>> cluster_losses(np.array([1.0, 3.0, 0.0]), np.array([True, True, False]), np.array([0, 0, 1]), num_clusters=3)
    [2.0, 2.0, 2.0]
    """
    seen = assignments[has_loss]
    counts = np.bincount(seen, minlength=num_clusters)
    sums = np.bincount(seen, weights=example_losses[has_loss], minlength=num_clusters)
    means = sums / np.maximum(counts, 1)
    is_visited = counts > 0
    return np.where(is_visited, means, means[is_visited].mean() if is_visited.any() else 0.0)
