import numpy as np
import pytest
from numpy.testing import assert_array_equal

from clustr_keras.attacks import AttackResult, ProjectedGradientDescent, cross_entropy, margin
from clustr_keras.evaluation.stages import Stages, settings_of


def result(value=0.5):
    return AttackResult(np.full((2, 3, 3, 1), value), np.array([True, False]), np.array([1, 0]), np.array([0.1, 0.2]))


def test_a_finished_stage_is_not_run_again(tmp_path):
    first = Stages(tmp_path, np.zeros(3), "0")
    first(["pgd", 0.1, [0, 1]], result)

    def fail():
        raise AssertionError("ran again")

    again = Stages(tmp_path, np.zeros(3), "0")
    loaded = again(["pgd", 0.1, [0, 1]], fail)
    for field in ("adversarial", "is_flipped", "class_ids", "distance"):
        assert_array_equal(getattr(loaded, field), getattr(result(), field))
    assert (first.resumed, again.resumed) == (0, 1)


@pytest.mark.parametrize(
    ("depends_on", "settings"),
    [((np.ones(3), "0"), ["pgd"]), ((np.zeros(3), "1"), ["pgd"]), ((np.zeros(3), "0"), ["pgd", 2])],
)
def test_another_stage_is_run(tmp_path, depends_on, settings):
    Stages(tmp_path, np.zeros(3), "0")(["pgd"], result)
    other = Stages(tmp_path, *depends_on)(settings, lambda: result(0.25))
    assert other.adversarial.max() == 0.25


def test_one_that_is_cut_short_leaves_nothing(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    stages = Stages(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stages(["pgd"], interrupted)
    assert not list(tmp_path.iterdir())
    assert stages(["pgd"], result).is_flipped[0]


def test_without_a_folder_nothing_is_kept():
    assert Stages(None)(["pgd"], result).adversarial.max() == 0.5


@pytest.mark.parametrize(
    "change",
    [
        {"step_size": 0.1},
        {"loss": margin},
        {"decay": True},
        {"random_start": True},
        {"seed": 1},
        {"batch_size": 7},
        {"steps": 19},
    ],
)
def test_every_setting_of_an_attack_is_told_apart(change):
    settings = {"logits": lambda x: x, "norm": "l_inf", "steps": 20, "step_size": 0.2, "loss": cross_entropy}
    first, again, other = (ProjectedGradientDescent(**{**settings, **each}) for each in ({}, {}, change))
    assert settings_of(first) == settings_of(again) != settings_of(other)
