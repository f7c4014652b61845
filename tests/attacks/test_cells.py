import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls

from clustr_keras.attacks.cells import RivalCells, nearest_rivals


def foot(z, own, rival):
    """The point nearest to `z` that is nearer to `rival` than to any of `own`: Lawson and Hanson's LDP, in float64."""
    difference = own - rival
    normals = difference / np.linalg.norm(difference, axis=1, keepdims=True)
    heights = ((z - rival) ** 2).sum() - ((z - own) ** 2).sum(axis=1)
    heights /= 2 * np.linalg.norm(difference, axis=1)
    # Of all s with -normals @ s >= heights the shortest.
    system = np.vstack([-normals.T, heights])
    target = np.append(np.zeros(len(z)), 1.0)
    residual = system @ nnls(system, target)[0] - target
    return z - residual[:-1] / residual[-1]


def cloud(seed, examples=40, clusters=3, dim=4):
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(examples, dim)).astype("float32")
    own = (z[:, None] + generator.normal(size=(examples, clusters, dim))).astype("float32")
    rival = (z + 3 * generator.normal(size=(examples, dim))).astype("float32")
    return z, own, rival


@pytest.mark.parametrize("clusters", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [2, 8])
def test_a_projection_is_the_nearest_point_of_the_rivals_cell(clusters, dim):
    z, own, rival = cloud(clusters, clusters=clusters, dim=dim)
    projected = RivalCells(tf.constant(own), tf.constant(rival)).project(tf.constant(z)).numpy()
    truth = [foot(*(array.astype("float64") for array in arrays)) for arrays in zip(z, own, rival, strict=True)]
    distance = np.linalg.norm(projected - z, axis=1)
    assert_allclose(distance, np.linalg.norm(truth - z, axis=1), rtol=5e-4, atol=1e-5)
    assert_allclose(projected, truth, atol=0.05)


def test_the_depth_is_kept_from_every_face_and_no_more_than_that():
    z, own, rival = cloud(7)

    def least_height(points):
        gaps = ((points[:, None] - own) ** 2).sum(-1) - ((points - rival) ** 2).sum(-1)[:, None]
        return (gaps / (2 * np.linalg.norm(own - rival[:, None], axis=-1))).min(axis=1)

    cells = RivalCells(tf.constant(own), tf.constant(rival), depth=0.05)
    projected = cells.project(tf.constant(z)).numpy().astype("float64")
    assert_allclose(least_height(projected), np.maximum(least_height(z.astype("float64")), 0.05), atol=1e-3)


def test_a_center_that_coincides_with_a_rival_sends_nothing_to_infinity():
    z, own, rival = cloud(8)
    own[:, 1] = rival
    projected = RivalCells(tf.constant(own), tf.constant(rival), depth=0.01).project(tf.constant(z)).numpy()
    assert np.isfinite(projected).all()
    assert np.abs(projected).max() < 100


def test_rivals_come_in_the_order_of_their_distances():
    generator = np.random.default_rng(9)
    centers = generator.normal(size=(4, 3, 5)).astype("float32")
    z = generator.normal(size=(30, 5)).astype("float32")
    labels = generator.integers(0, 4, 30)
    ids = nearest_rivals(tf.constant(z), tf.constant(centers), tf.constant(labels), 9).numpy()
    flat = centers.reshape(12, 5).astype("float64")
    for row in range(30):
        own = centers[labels[row]].astype("float64")
        here = z[row].astype("float64")
        to_cell = {b: np.linalg.norm(foot(here, own, flat[b]) - here) for b in range(12) if b // 3 != labels[row]}
        assert set(ids[row]) == set(to_cell)
        in_order = np.array([to_cell[b] for b in ids[row]])
        assert (np.diff(in_order) >= -2e-3 * in_order.max()).all()
    few = nearest_rivals(tf.constant(z), tf.constant(centers), tf.constant(labels), 3)
    assert_array_equal(few, ids[:, :3])
