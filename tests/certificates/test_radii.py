import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import nnls
from scipy.special import logsumexp
from support.clouds import class_of_nearest_center, clouds, hyperplane_distance
from support.examples import examples
from support.gradients import gradient

from clustr_keras.certificates import (
    distance_logits,
    exact_radius,
    nearest_cluster,
    nearest_radius,
    soft_radius,
    squared_distances,
    union_radius,
)

pytestmark = pytest.mark.usefixtures("wide")


@given(clouds())
@examples(60)
def test_union_is_the_winning_logit_and_never_below_nearest(cloud):
    z, centers = cloud
    nearest, union = np.asarray(nearest_radius(z, centers)), np.asarray(union_radius(z, centers))
    assert_allclose(union, np.asarray(distance_logits(z, centers)).max(axis=-1), rtol=1e-9, atol=1e-12)
    assert (nearest <= union + 1e-12).all()
    if centers.shape[1] == 1:
        assert_allclose(nearest, union, rtol=1e-12)


@given(clouds(), st.integers(0, 2**32 - 1))
@examples(60)
def test_no_point_inside_the_radius_has_another_class(cloud, seed):
    z, centers = cloud
    directions = np.random.default_rng(seed).normal(size=(200, *z.shape))
    # Towards every center as well: the shortest way out leads there.
    directions = np.concatenate([directions, (centers[:, :, None] - z).reshape(-1, *z.shape)])
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    radius = np.asarray(union_radius(z, centers))
    moved = z + 0.999999 * radius[:, None] * directions
    classes = class_of_nearest_center(moved.reshape(-1, z.shape[1]), centers).reshape(len(directions), -1)
    assert (classes == class_of_nearest_center(z, centers)).all()


@given(clouds(max_clusters=1))
@examples(60)
def test_one_center_per_class_makes_the_radius_tight(cloud):
    z, centers = cloud
    flat = centers[:, 0]
    for point, radius in zip(z, np.asarray(nearest_radius(z, centers)), strict=True):
        winner = class_of_nearest_center(point[None], centers)[0]
        feet = [
            point
            - hyperplane_distance(point, flat[winner], rival)
            * (flat[winner] - rival)
            / np.linalg.norm(flat[winner] - rival)
            for index, rival in enumerate(flat)
            if index != winner
        ]
        assert_allclose(min(np.linalg.norm(foot - point) for foot in feet), radius, rtol=1e-9)


def test_the_lipschitz_bound_divides_the_radius():
    z, centers = np.array([[0.0, 1.0]]), np.array([[[0.0, 0.0]], [[4.0, 0.0]]])
    assert_allclose(nearest_radius(z, centers), [2.0])
    assert_allclose(nearest_radius(z, centers, lipschitz=4.0), [0.5])
    assert_allclose(union_radius(z, centers, lipschitz=4.0), [0.5])


def test_one_class_alone_has_an_infinite_radius():
    assert np.isposinf(nearest_radius(np.zeros((1, 2)), np.ones((1, 3, 2)))).all()
    assert np.isposinf(union_radius(np.zeros((1, 2)), np.ones((1, 3, 2)))).all()


def test_a_far_center_does_not_blur_the_near_ones():
    # Relative to 1000, float32 tells no two points of the unit square apart that are closer than 1e-4.
    centers = np.array([[[0.5, 0.3]], [[0.501, 0.3]], [[1000.0, 0.3]]], "float32")
    z = np.random.default_rng(0).uniform(size=(500, 2)).astype("float32")
    expected = ((z[:, None, None].astype("float64") - centers) ** 2).sum(-1)
    assert_allclose(squared_distances(z, centers), expected, rtol=1e-5, atol=1e-9)
    expected = class_of_nearest_center(z.astype("float64"), centers)
    assert_array_equal(nearest_cluster(z, centers)[0], expected)
    for radius in (nearest_radius(z, centers), union_radius(z, centers)):
        assert np.min(radius) >= 0.0


@pytest.mark.parametrize("shapes", [((3,), (2, 1, 3)), ((4, 3), (2, 3)), ((4, 3), (2, 1, 5))])
def test_wrong_shapes_are_named(shapes):
    with pytest.raises(ValueError, match=r"must be \[B, D\] and centers \[C, K, D\]"):
        nearest_radius(np.zeros(shapes[0]), np.zeros(shapes[1]))


def distance_to_rival_cells(z, centers):
    """Independent: least distance programming by non-negative least squares, rival by rival."""
    winner = ((z - centers) ** 2).sum(-1).min(-1).argmin()
    own, best = centers[winner], np.inf
    for rival in np.delete(centers, winner, axis=0).reshape(-1, len(z)):
        gaps = own - rival
        lengths = np.linalg.norm(gaps, axis=-1)
        h = (gaps * (z - (own + rival) / 2)).sum(-1) / lengths
        if (h <= 0).all():
            return 0.0
        # min ||x|| subject to n_a . x <= -h_a, by Lawson and Hanson's reduction.
        matrix = np.vstack([-(gaps / lengths[:, None]).T, h])
        target = np.zeros(len(z) + 1)
        target[-1] = 1.0
        residual = matrix @ nnls(matrix, target, maxiter=1000)[0] - target
        best = min(best, np.linalg.norm(residual[:-1] / residual[-1]))
    return best


def are_apart(centers):
    flat = centers.reshape(-1, centers.shape[-1])
    gaps = np.linalg.norm(flat[:, None] - flat, axis=-1)
    return (gaps + np.eye(len(flat)) * gaps.max()).min() >= 1e-3 * gaps.max()


@given(clouds(batch=16))
@examples(150)
def test_exact_radius_is_the_distance_to_the_rivals_cells(cloud):
    z, centers = cloud
    assume(are_apart(centers))
    nearest, union, exact = (np.asarray(radius(z, centers)) for radius in (nearest_radius, union_radius, exact_radius))
    assert (nearest <= union).all()
    assert (union <= exact).all()
    truth = np.array([distance_to_rival_cells(point, centers) for point in z])
    assert (exact <= truth * (1 + 1e-6) + 1e-12).all()
    assert (exact >= truth * (1 - 1e-4)).all()


@given(clouds(batch=16))
@examples(150)
def test_exact_radius_in_float32_never_exceeds_the_truth(cloud):
    z, centers = (array.astype("float32") for array in cloud)
    assume(are_apart(centers))
    exact = np.asarray(exact_radius(z, centers))
    assert exact.dtype == np.float32
    truth = np.array([distance_to_rival_cells(*(a.astype("float64") for a in (point, centers))) for point in z])
    assert (exact <= truth * (1 + 1e-12)).all()
    assert_allclose(exact, truth, rtol=1e-4, atol=1e-6)


@given(clouds(max_classes=3, max_dim=4, batch=4), st.integers(5, 7))
@examples(30)
def test_more_than_four_clusters_are_swept(cloud, clusters):
    z, centers = cloud
    rng = np.random.default_rng(0)
    centers = np.concatenate(
        [centers, rng.normal(size=(len(centers), clusters - centers.shape[1], z.shape[1]))], axis=1
    )
    assume(are_apart(centers))
    union, exact = np.asarray(union_radius(z, centers)), np.asarray(exact_radius(z, centers))
    truth = np.array([distance_to_rival_cells(point, centers) for point in z])
    assert (union <= exact).all()
    assert (exact <= truth * (1 + 1e-6) + 1e-12).all()


def among_close_rivals(rng, shape):
    """Embeddings among rivals that are close to each other, where hyperplanes taken one by one tell too little."""
    centers = rng.normal(size=shape)
    centers[1:] *= 0.05
    return centers.mean((0, 1)) + rng.normal(size=(20, shape[-1])), centers


def test_a_sweep_over_more_than_four_clusters_closes_most_of_the_gap():
    z, centers = among_close_rivals(np.random.default_rng(0), (3, 6, 3))
    union, exact = np.asarray(union_radius(z, centers)), np.asarray(exact_radius(z, centers))
    truth = np.array([distance_to_rival_cells(point, centers) for point in z])
    assert (truth - union).mean() > 0.02 * truth.mean()
    assert (truth - exact).mean() < 0.1 * (truth - union).mean()


@pytest.mark.parametrize("seed", range(40))
def test_exact_radius_is_exact_where_many_rivals_are_close(seed):
    z, centers = among_close_rivals(np.random.default_rng(seed), (6, 4, 3))
    truth = np.array([distance_to_rival_cells(point, centers) for point in z])
    assert_allclose(exact_radius(z, centers), truth, rtol=1e-6, atol=1e-12)


def test_exact_radius_of_a_wedge_is_known():
    # Two own centers above, a rival far above them: the way leads around both hyperplanes to their intersection.
    centers = np.array([[[-1.0, 1.0], [1.0, 1.0]], [[0.0, 3.0], [0.0, -9.0]]])
    z = np.array([[0.0, 0.0]])
    assert_allclose(exact_radius(z, centers), [distance_to_rival_cells(z[0], centers)], rtol=1e-9)
    assert np.asarray(exact_radius(z, centers)) > 1.1 * np.asarray(union_radius(z, centers))


def test_rivals_beyond_those_projected_on_are_bounded_from_below():
    z, centers = among_close_rivals(np.random.default_rng(0), (30, 3, 3))
    truth = np.array([distance_to_rival_cells(point, centers) for point in z])
    exact = np.asarray(exact_radius(z, centers))
    union = np.asarray(union_radius(z, centers))
    assert (exact <= truth * (1 + 1e-9)).all()
    assert (exact >= union).all()
    assert (truth - exact).mean() < 0.1 * (truth - union).mean()


def test_the_gradient_of_the_exact_radius_agrees_with_finite_differences():
    rng = np.random.default_rng(3)
    z, centers = rng.normal(size=(6, 4)), rng.normal(size=(4, 3, 4))
    of_radii = gradient(lambda z: exact_radius(z, centers), z)
    # Away from kinks the radius changes at rate 1 per unit along its gradient.
    assert_allclose(np.linalg.norm(of_radii, axis=-1), 1.0, rtol=1e-5)
    for row in range(6):
        step = np.zeros_like(z)
        step[row, 1] = 1e-6
        slope = (np.sum(exact_radius(z + step, centers)) - np.sum(exact_radius(z - step, centers))) / 2e-6
        assert_allclose(of_radii[row, 1], slope, rtol=1e-4, atol=1e-6)


def soft_class(points, centers, variance):
    squared = ((points[:, None, None] - centers) ** 2).sum(-1)
    return logsumexp(-squared / (2 * variance), axis=-1).argmax(-1)


@given(clouds(), st.floats(0.05, 20.0), st.integers(0, 2**32 - 1))
@examples(60)
def test_no_point_inside_the_soft_radius_has_another_soft_class(cloud, variance, seed):
    z, centers = cloud
    radius = np.asarray(soft_radius(z, centers, variance=variance))
    directions = np.random.default_rng(seed).normal(size=(100, *z.shape))
    directions = np.concatenate([directions, (centers[:, :, None] - z).reshape(-1, *z.shape)])
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    moved = z + 0.999999 * radius[:, None] * directions
    classes = soft_class(moved.reshape(-1, z.shape[1]), centers, variance).reshape(len(directions), -1)
    assert (classes == soft_class(z, centers, variance)).all()


def test_soft_radius_is_tight_for_two_single_centers():
    assert_allclose(soft_radius([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]], variance=3.0), [2.0], rtol=1e-6)
    assert_allclose(soft_radius([[0.0, 1.0]], [[[0.0, 0.0]], [[4.0, 0.0]]], lipschitz=4.0), [0.5], rtol=1e-6)


def test_soft_radius_refuses_unequal_variances():
    with pytest.raises(ValueError, match="one variance for all clusters; got values from 1 to 2"):
        soft_radius(np.zeros((1, 2)), np.ones((2, 1, 2)), variance=[[1.0], [2.0]])
    with pytest.raises(ValueError, match="must be positive"):
        soft_radius(np.zeros((1, 2)), np.ones((2, 1, 2)), variance=0.0)


@pytest.mark.parametrize("radius", [exact_radius, soft_radius])
def test_degenerate_centers_give_zero_or_infinity_and_never_nan(radius):
    z = np.array([[0.3, 0.4]])
    assert np.isposinf(radius(z, np.ones((1, 2, 2)))).all()
    coincident = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    assert_allclose(radius(z, coincident), [0.0], atol=1e-12)
    twins = np.array([[[1.0, 0.0], [1.0, 0.0]], [[-1.0, 0.0], [-1.0, 0.0]]])
    assert_allclose(radius(z, twins), [0.3], rtol=1e-6)
