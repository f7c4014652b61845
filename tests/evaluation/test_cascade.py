import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.attacks import AttackResult
from clustr_keras.evaluation.cascade import cascade, threat_results
from clustr_keras.evaluation.flips import Flips
from clustr_keras.evaluation.stages import Stages
from clustr_keras.evaluation.threat_model import ThreatModel

COUNT = 6
IMAGES = np.zeros((COUNT, 2, 2, 1), "float32")
LABELS = np.zeros(COUNT, "int64")


class Known:
    """Flips example i exactly if eps is at least `needed[i]`; the index of an image is its first pixel."""

    norm = "l_2"

    def __init__(self, name, needed, minimizes_norm=False):
        self.name, self.needed, self.minimizes_norm = name, np.asarray(needed, float), minimizes_norm
        self.calls = []

    def __call__(self, images, labels, eps, progress=None):
        rows = np.rint(images[:, 0, 0, 0] * 100).astype(int)
        self.calls.append((rows.tolist(), eps))
        is_flipped = self.needed[rows] <= eps
        adversarial = images.copy()
        adversarial[is_flipped, 1, 1, 0] = self.needed[rows][is_flipped]
        distance = np.where(is_flipped, self.needed[rows], 0.0)
        return AttackResult(adversarial, is_flipped, np.where(is_flipped, 1, labels), distance)


@pytest.fixture
def images():
    images = IMAGES.copy()
    images[:, 0, 0, 0] = np.arange(COUNT) / 100
    return images


def run(attacks, images, epses, class_ids=LABELS, subset=(0, 1, 2)):
    threats = [ThreatModel("l_2", eps) for eps in epses]
    named = {attack.name: attack for attack in attacks}
    flips = Flips(images, LABELS)
    return threat_results(cascade(named, threats, class_ids, np.array(subset), flips, Stages(None)), class_ids, flips)


def test_the_worst_case_is_taken_example_by_example(images):
    first, second = Known("first", [0.1, 0.9, 0.9, 0.9, 0.9, 0.9]), Known("second", [0.9, 0.2, 0.1, 0.9, 0.9, 0.9])
    (result,) = run([first, second], images, [0.3])
    assert_array_equal(result.is_standing, [False, False, False, True, True, True])
    assert [score.cumulative for score in result.scores] == pytest.approx([5 / 6, 3 / 6])
    assert [score.attacked for score in result.scores] == [6, 5]
    assert [score.alone for score in result.scores] == pytest.approx([2 / 3, 1 / 3])
    assert result.robust_accuracy == 0.5
    assert_array_equal(result.flipped_to, [1, 1, 1, 0, 0, 0])
    assert_array_equal(result.adversarial[:, 1, 1, 0], np.float32([0.1, 0.2, 0.1, 0, 0, 0]))


def test_what_fell_at_a_smaller_eps_is_not_attacked_at_a_larger_one(images):
    attack = Known("only", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    results = run([attack], images, [0.35, 0.15, 0.55], subset=[5])
    assert [result.threat_model.eps for result in results] == [0.15, 0.35, 0.55]
    assert [result.robust_accuracy for result in results] == pytest.approx([5 / 6, 3 / 6, 1 / 6])
    assert [rows for rows, _ in attack.calls if rows != [5]] == [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [3, 4, 5]]


def test_wrong_predictions_are_not_attacked_and_count_as_lost(images):
    attack = Known("only", np.ones(COUNT))
    class_ids = np.array([1, 0, 0, 0, 0, 2])
    (result,) = run([attack], images, [0.5], class_ids, subset=[0, 1])
    assert attack.calls[0][0] == [1, 2, 3, 4]
    assert result.robust_accuracy == pytest.approx(4 / 6)
    assert result.scores[0].alone == 0.5
    assert_array_equal(result.flipped_to, class_ids)


def test_an_attack_that_minimizes_the_norm_runs_once(images):
    attack = Known("minimal", [0.1, 0.2, 0.3, 0.4, 0.9, 0.9], minimizes_norm=True)
    results = run([attack], images, [0.15, 0.35, 0.45], subset=[0, 4])
    assert attack.calls == [([0, 1, 2, 3, 4, 5], 0.45)]
    assert [result.robust_accuracy for result in results] == pytest.approx([5 / 6, 3 / 6, 2 / 6])
    assert [result.scores[0].alone for result in results] == [0.5, 0.5, 0.5]
    assert_array_equal(results[0].adversarial[1], images[1])


def test_what_an_attack_finds_alone_counts_for_all(images):
    """In the cascade an attack may draw other starts than alone."""

    class SecondTime(Known):
        def __call__(self, images, labels, eps, progress=None):
            return super().__call__(images, labels, eps if self.calls else 0.0)

    (result,) = run([SecondTime("late", np.full(COUNT, 0.2))], images, [0.3])
    (score,) = result.scores
    assert (score.alone, score.cumulative) == (0.0, 0.5)
    assert_array_equal(result.is_standing, [False, False, False, True, True, True])
