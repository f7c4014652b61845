import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from support.pgd_networks import DIM, ORDER, SHAPE, Network, images_of, norm_of, norms

from clustr_keras.attacks import ProjectedGradientDescent, margin


def cross_entropy(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


class Linear:
    """Two classes split by a hyperplane, with the distances to it known in closed form."""

    def __init__(self, seed=0):
        self.normal = np.random.default_rng(seed).normal(size=DIM).astype("float32")
        self.offset = np.float32(-0.5 * self.normal.sum())

    def __call__(self, images):
        score = tf.linalg.matvec(tf.reshape(images, (-1, DIM)), self.normal) + self.offset
        return tf.stack([-score, score], axis=-1)

    def distance(self, images, norm):
        normal = self.normal.astype("float64")
        score = images.reshape(-1, DIM).astype("float64") @ normal + float(self.offset)
        # Of the dual norm: l_2 for l_2, l_1 for l_inf.
        return np.abs(score) / np.linalg.norm(normal, ord=2 if norm == "l_2" else 1), (score > 0).astype("int64")


def cleverhans(network, images, labels, eps, step, steps, norm):
    """PGD of CleverHans after 1 to `steps` steps; of each example the first flip, or where it is after all of them."""
    adversarial, is_right = images.copy(), np.ones(len(images), bool)
    for count in range(1, steps + 1):
        moved = projected_gradient_descent(
            network,
            tf.constant(images),
            eps,
            step,
            count,
            ORDER[norm],
            clip_min=0.0,
            clip_max=1.0,
            y=tf.constant(labels),
        )
        adversarial[is_right] = moved.numpy()[is_right]
        is_right &= np.argmax(network(tf.constant(adversarial)), axis=-1) == labels
    return adversarial


@norms
@pytest.mark.parametrize("steps", [1, 7])
def test_one_start_on_cross_entropy_is_the_pgd_of_cleverhans(norm, steps):
    network, images = Network(), images_of(13)
    labels = network.classes(images)
    eps, step = (0.4, 0.1) if norm == "l_2" else (0.15, 0.04)
    attack = ProjectedGradientDescent(
        network, norm, steps=steps, restarts=1, step_size=step, loss=cross_entropy, batch_size=8
    )
    theirs = cleverhans(network, images, labels, eps, step, steps, norm)
    result = attack(images, labels, eps)
    assert_allclose(result.adversarial, theirs, atol=3e-6)
    assert_array_equal(result.class_ids, network.classes(theirs))
    assert norm_of(result.adversarial - images, norm).max() > 0


@norms
def test_on_the_digits_it_is_the_pgd_of_cleverhans(classifier, digits, norm):
    _, (images, _) = digits
    images = images[:20]
    labels = classifier.predict(images, verbose=0).argmax(1)
    eps, step = (0.3, 0.05) if norm == "l_2" else (0.05, 0.01)
    attack = ProjectedGradientDescent(
        classifier, norm, steps=5, restarts=1, step_size=step, loss=cross_entropy, batch_size=20
    )
    theirs = cleverhans(classifier, images, labels, eps, step, 5, norm)
    ours = attack(images, labels, eps).adversarial
    # At a gradient of 0 up to rounding a sign may go either way, so of single pixels under l_inf most must agree.
    assert np.mean(np.abs(ours - theirs) < 1e-5) > (0.995 if norm == "l_inf" else 0.99999)


@norms
def test_by_default_a_step_is_two_and_a_half_eps_over_the_number_of_steps(norm):
    network, images = Network(1), images_of(9, 1, 0.3, 0.7)
    labels = network.classes(images)
    explicit = ProjectedGradientDescent(network, norm, steps=5, restarts=1, step_size=0.05, batch_size=9)
    default = ProjectedGradientDescent(network, norm, steps=5, restarts=1, batch_size=9)
    assert_allclose(
        default(images, labels, 0.1).adversarial, explicit(images, labels, 0.1).adversarial, rtol=0, atol=1e-6
    )


@norms
@pytest.mark.parametrize("decay", [False, True])
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-6, 1e-3, 0.1, 3.0]))
def test_no_attempt_leaves_its_own_ball_or_the_pixel_range(norm, decay, seed, scale):
    attack = ATTACKS[norm, decay]
    generator = np.random.default_rng(seed)
    images = generator.choice([0.0, 1.0, 0.1, 0.999], (11, *SHAPE)).astype("float32")
    eps = generator.uniform(0, scale, 11)
    eps[0] = 0.0
    result = attack(images, generator.integers(0, 4, 11), eps)
    distance = norm_of(result.adversarial.astype("float64") - images.astype("float64"), norm)
    assert (distance <= eps).all()
    assert_allclose(result.distance, distance, rtol=1e-12)
    assert result.distance.dtype == np.float64
    assert result.adversarial.dtype == np.float32
    assert result.adversarial.min() >= 0.0
    assert result.adversarial.max() <= 1.0


ATTACKS = {
    (norm, decay): ProjectedGradientDescent(Network(2), norm, steps=3, restarts=3, batch_size=4, decay=decay)
    for norm in ORDER
    for decay in (False, True)
}


@norms
def test_a_ball_in_many_dimensions_is_kept_too(norm):
    def logits(images):
        flat = tf.reshape(images, (tf.shape(images)[0], -1))
        return tf.stack([tf.zeros_like(flat[:, 0]), tf.reduce_sum(tf.sin(1000.0 * flat), axis=1)], axis=-1)

    images = np.random.default_rng(0).uniform(0, 1, (3, 128, 128, 3)).astype("float32")
    eps = np.array([1e-4, 0.01, 4.0 if norm == "l_2" else 0.3])
    attack = ProjectedGradientDescent(logits, norm, steps=3, restarts=3, batch_size=3)
    result = attack(images, np.array([1, 1, 1]), eps)
    distance = norm_of(result.adversarial.astype("float64") - images.astype("float64"), norm)
    assert (distance <= eps).all()
    assert (distance[1:] > 0.5 * eps[1:]).all()


@pytest.mark.parametrize("decay", [False, True])
@norms
def test_a_linear_classifier_flips_just_above_its_distance_and_not_just_below(norm, decay):
    model = Linear()
    images = images_of(40, 3, 0.4, 0.6)  # far enough from 0 and 1 for the pixel range to play no part
    distance, labels = model.distance(images, norm)
    attack = ProjectedGradientDescent(model, norm, steps=10, restarts=1, batch_size=16, decay=decay)
    assert distance.max() < 0.35
    assert attack(images, labels, distance * 1.001 + 1e-5).is_flipped.all()
    below = attack(images, labels, distance * 0.999 - 1e-5 * (distance > 1e-2))
    assert not below.is_flipped[distance > 1e-2].any()


@norms
def test_an_adversarial_image_is_of_the_class_that_is_reported(norm):
    network, images = Network(4), images_of(30, 4)
    labels = network.classes(images)
    result = ProjectedGradientDescent(network, norm, steps=5, restarts=2, batch_size=7)(images, labels, 0.15)
    assert_array_equal(network.classes(result.adversarial), result.class_ids)
    assert_array_equal(result.is_flipped, result.class_ids != labels)
    assert result.class_ids.dtype == np.int64
    assert set(result.is_flipped) == {False, True}


def test_an_example_that_is_wrong_already_is_a_flip_of_no_size():
    model, images = Linear(), images_of(6, 5, 0.4, 0.6)
    _, classes = model.distance(images, "l_2")
    result = ProjectedGradientDescent(model, "l_2", restarts=1, batch_size=6)(images, 1 - classes, 0.0)
    assert result.is_flipped.all()
    assert_array_equal(result.distance, 0.0)
    assert_array_equal(result.adversarial, images)


def record_batches(model, images):
    """A model that notes which of `images` are the centers of the balls that it is called in."""
    batches = []

    def note(batch):
        flat = np.asarray(batch).reshape(len(batch), -1)[:, None] - images.reshape(len(images), -1)
        batches.append(np.abs(flat).max(-1).argmin(1))
        return np.float32(0.0)

    def logits(batch):
        noted = tf.py_function(note, [batch], tf.float32)
        with tf.control_dependencies([noted]):
            return tf.identity(model(batch))

    return logits, batches


@norms
def test_an_example_already_flipped_is_not_attacked_again(norm):
    model, images = Linear(), images_of(12, 6, 0.3, 0.7)
    distance, labels = model.distance(images, norm)
    hopeless = np.arange(12) % 3 == 0
    eps = np.where(hopeless, 0.5 * distance, 1.5 * distance + 1e-4)
    logits, batches = record_batches(model, images)
    steps, restarts, batch_size = 2, 3, 4
    result = ProjectedGradientDescent(logits, norm, steps=steps, restarts=restarts, batch_size=batch_size)(
        images, labels, eps
    )
    assert_array_equal(result.is_flipped, ~hopeless)
    runs = steps + 1
    of_first_start, of_others = batches[: 3 * runs], batches[3 * runs :]
    assert set(np.concatenate(of_first_start)) == set(range(12))
    # Four examples are left, which is one batch for each further start.
    assert len(of_others) == (restarts - 1) * runs
    assert set(np.concatenate(of_others)) == set(np.flatnonzero(hopeless))


def test_no_start_is_made_once_all_are_flipped():
    model, images = Linear(), images_of(5, 7, 0.4, 0.6)
    distance, labels = model.distance(images, "l_2")
    logits, batches = record_batches(model, images)
    result = ProjectedGradientDescent(logits, "l_2", steps=3, restarts=50, batch_size=5)(
        images, labels, 1.5 * distance + 1e-4
    )
    assert result.is_flipped.all()
    assert len(batches) == 4


@norms
def test_steps_that_decay_find_more(norm):
    network, images = Network(5), images_of(200, 5)
    labels = network.classes(images)
    eps = 0.08 if norm == "l_inf" else 0.25
    plain, decaying = (
        ProjectedGradientDescent(network, norm, steps=20, restarts=1, batch_size=200, decay=decay)(images, labels, eps)
        for decay in (False, True)
    )
    assert 0.05 < plain.is_flipped.mean() < 0.95
    assert decaying.is_flipped.mean() >= plain.is_flipped.mean()
    for attempt in (plain, decaying):
        assert (norm_of(attempt.adversarial - images, norm) <= eps * (1 + 1e-6)).all()
    losses = [margin(labels, network(tf.constant(a.adversarial))).numpy() for a in (plain, decaying)]
    assert losses[1].mean() > losses[0].mean()


@norms
def test_steps_that_decay_end_at_the_best_point_on_the_way(norm):
    network, images = Network(6), images_of(30, 6)
    labels = network.classes(images)
    seen = []

    def recorded(images):
        logits = network(images)
        tf.py_function(lambda loss: seen.append(loss.numpy()), [margin(labels, logits)], [])
        return logits

    attack = ProjectedGradientDescent(recorded, norm, steps=7, restarts=1, batch_size=30, decay=True)
    found = attack(images, labels, 0.3).adversarial
    best = np.max([loss for loss in seen if len(loss) == 30], axis=0)
    assert_allclose(margin(labels, network(tf.constant(found))), best, rtol=1e-5, atol=1e-6)


@norms
def test_with_decay_the_first_step_is_two_eps(norm):
    network, images = Network(1), images_of(9, 1, 0.3, 0.7)
    labels = network.classes(images)
    explicit, default = (
        ProjectedGradientDescent(network, norm, steps=5, restarts=2, step_size=size, batch_size=9, decay=True)
        for size in (0.2, None)
    )
    assert_allclose(default(images, labels, 0.1).adversarial, explicit(images, labels, 0.1).adversarial, atol=1e-6)
    assert default.name.endswith("2 restarts, decaying")


@norms
def test_further_starts_find_what_the_image_itself_does_not_lead_to(norm):
    def logits(images):
        # A plateau around the image; only past it does the way lead on to the other class.
        climb = tf.reduce_mean(tf.abs(images - 0.5), axis=(1, 2, 3))
        return tf.stack([tf.fill(tf.shape(climb), 0.05), climb], axis=-1)

    images = np.full((4, *SHAPE), 0.5, "float32")
    eps = 0.1 * np.sqrt(DIM) if norm == "l_2" else 0.1
    labels = np.zeros(4, int)

    def is_flipped(**settings):
        return ProjectedGradientDescent(logits, norm, batch_size=4, **settings)(images, labels, eps).is_flipped

    assert not is_flipped(restarts=1).any()
    assert is_flipped(restarts=3).all()
    assert is_flipped(restarts=1, random_start=True).any()


@norms
def test_an_example_that_no_start_flips_shows_the_attempt_with_the_largest_loss(norm):
    network, images = Network(8), images_of(20, 8)
    labels = network.classes(images)
    losses = []
    for restarts in (1, 2, 4):
        attack = ProjectedGradientDescent(network, norm, steps=1, restarts=restarts, step_size=1e-3, batch_size=20)
        result = attack(images, labels, 0.05)
        losses.append(np.where(result.is_flipped, np.inf, margin(labels, network(result.adversarial))))
    assert (losses[1] >= losses[0] - 1e-6).all()
    assert (losses[2] >= losses[1] - 1e-6).all()
    assert (losses[2] > losses[0]).any()


@norms
def test_starts_are_uniform_in_the_ball(norm):
    """Without a slope attempts stay at their starts: with u the share of the radius, u^dim is uniform in [0, 1]."""
    seen = []

    def flat(images):
        noted = tf.py_function(lambda batch: (seen.append(batch.numpy()), np.float32(0.0))[1], [images], tf.float32)
        with tf.control_dependencies([noted]):
            return 0.0 * images[:, 0, 0] + tf.constant([1.0, 0.0])

    count, eps = 500, 0.4
    images = np.full((count, *SHAPE), 0.5, "float32")
    attack = ProjectedGradientDescent(flat, norm, steps=1, restarts=3, batch_size=count)
    attack(images, np.zeros(count, int), eps)
    assert_allclose(seen[0], images, atol=1e-6)
    offsets = (np.stack([seen[2], seen[4]]).astype("float64") - 0.5).reshape(2 * count, DIM) / eps
    share = np.linalg.norm(offsets, ord=ORDER[norm], axis=1)
    assert stats.kstest(share**DIM, "uniform").pvalue > 1e-3
    assert np.abs(offsets.mean(axis=0)).max() < 0.08
    # No two attempts share a start, nor any two pixels their offsets.
    assert len(np.unique(offsets.round(6), axis=0)) == 2 * count
    assert np.abs(np.corrcoef(offsets.T) - np.eye(DIM)).max() < 0.15


@norms
def test_the_model_is_traced_once_over_calls_batches_and_eps(norm):
    network, images = Network(9), images_of(23, 9)
    labels = network.classes(images)
    attack = ProjectedGradientDescent(network, norm, steps=3, restarts=2, batch_size=8)
    attack(images[:8], labels[:8], 0.01)
    network.python_runs = 0
    attack(images, labels, 0.05)
    attack(images[:3], labels[:3], np.linspace(0.1, 0.2, 3))
    attack(images[:1], labels[:1].astype("int32"), 1)
    assert network.python_runs == 0


def test_the_number_of_steps_does_not_multiply_the_traces():
    images = images_of(4, 10)
    runs = []
    for steps in (1, 30):
        network = Network(10)
        ProjectedGradientDescent(network, steps=steps, restarts=1, batch_size=4)(images, np.zeros(4, int), 0.1)
        runs.append(network.python_runs)
    assert runs[0] == runs[1] <= 4


@norms
def test_the_same_seed_gives_the_same_result_and_another_does_not(norm):
    network, images = Network(11), images_of(10, 11)
    labels = network.classes(images)

    def attack(seed):
        return ProjectedGradientDescent(network, norm, steps=1, restarts=3, step_size=1e-3, batch_size=4, seed=seed)(
            images, labels, 0.03
        )

    first, again, other = attack(5), attack(5), attack(6)
    assert_array_equal(first.adversarial, again.adversarial)
    assert_array_equal(first.is_flipped, again.is_flipped)
    assert not np.array_equal(first.adversarial, other.adversarial)


@norms
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_what_happens_to_an_example_does_not_depend_on_the_others(norm, batch_size):
    network, images = Network(12), images_of(10, 12)
    labels = network.classes(images)
    attack = ProjectedGradientDescent(network, norm, steps=4, restarts=3, batch_size=batch_size)
    together = attack(images, labels, 0.05)
    # Everything but the example at 7 is replaced by what flips at once.
    others = images_of(10, 13)
    others[7] = images[7]
    labels_2 = (network.classes(others) + 1) % 4
    labels_2[7] = labels[7]
    eps = np.where(np.arange(10) == 7, 0.05, 0.5)
    apart = attack(others, labels_2, eps)
    assert_allclose(apart.adversarial[7], together.adversarial[7], atol=1e-6)
    assert apart.is_flipped[7] == together.is_flipped[7]


def test_progress_rises_to_the_number_of_attempts():
    network, images = Network(14), images_of(10, 14)
    labels = network.classes(images)
    seen = []
    ProjectedGradientDescent(network, steps=2, restarts=3, batch_size=4)(images, labels, 0.1, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 30
    assert seen[0] == 4


def test_what_goes_in_is_not_changed():
    network, images = Network(15), images_of(5, 15)
    copy, labels = images.copy(), network.classes(images)
    ProjectedGradientDescent(network, steps=2, restarts=2, batch_size=5)(images, labels, 0.3)
    assert_array_equal(images, copy)
