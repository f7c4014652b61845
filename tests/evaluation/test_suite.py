import pytest
import tensorflow as tf

from clustr_keras.attacks import cross_entropy, dlr, margin
from clustr_keras.evaluation.suite import ATTACKS, DEFAULT_ATTACKS, attack_suite
from clustr_keras.evaluation.target import Target


def suite(norm, classes=10, **arguments):
    target = Target(lambda images: tf.zeros((len(images), classes)), (8, 8, 1), classes, "under test")
    return attack_suite(target, norm, **arguments)


@pytest.mark.parametrize(
    ("name", "norm", "expected"),
    [
        ("pgd-20", "l_inf", {"steps": 20, "restarts": 10, "step_size": 2 / 255, "loss": cross_entropy}),
        ("pgd-100", "l_inf", {"steps": 100, "restarts": 10, "step_size": 2 / 255, "loss": cross_entropy}),
        ("pgd-100", "l_2", {"steps": 100, "restarts": 10, "step_size": None, "loss": cross_entropy}),
        ("pgd-margin", "l_inf", {"steps": 100, "restarts": 5, "decay": True, "loss": margin}),
        ("pgd-dlr", "l_2", {"steps": 100, "restarts": 5, "decay": True, "loss": dlr}),
        ("pgd-targeted", "l_inf", {"steps": 100, "restarts": 9, "decay": True}),
        ("square", "l_2", {"queries": 1000}),
    ],
)
def test_attacks_are_as_hard_as_the_documentation_says(name, norm, expected):
    attack = suite(norm, names=[name], batch_size=7, seed=3)[name]
    assert {field: getattr(attack, field) for field in expected} == expected
    assert (attack.norm, attack.batch_size, attack.seed) == (norm, 7, 3)


def test_the_order_is_that_of_the_cascade_and_autoattack_is_asked_for():
    assert list(suite("l_2")) == [name for name in ATTACKS if name != "autoattack"] == list(DEFAULT_ATTACKS)
    assert list(suite("l_2", names=["square", "pgd-20"])) == ["pgd-20", "square"]


def test_what_does_not_go_with_norm_or_classes_is_left_out():
    assert set(DEFAULT_ATTACKS) - set(suite("l_inf")) == {"carlini-wagner"}
    assert set(DEFAULT_ATTACKS) - set(suite("l_2", classes=2)) == {"pgd-dlr", "pgd-targeted"}
    assert suite("l_2", classes=4, names=["pgd-targeted"])["pgd-targeted"].restarts == 3
    with pytest.raises(ValueError, match="none is for l_inf and 10 classes"):
        suite("l_inf", names=["carlini-wagner"])
    with pytest.raises(ValueError, match="there is no attack magic"):
        suite("l_2", names=["magic"])


def test_carlini_wagner_gets_the_batch_size():
    attack = suite("l_2", names=["carlini-wagner"], batch_size=5)["carlini-wagner"]
    assert (attack.norm, attack.batch_size) == ("l_2", 5)
