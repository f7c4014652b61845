"""The attacks of an evaluation, by name."""

from collections.abc import Callable, Collection

from clustr_keras.attacks import (
    CarliniWagner,
    SquareAttack,
    TargetedProjectedGradientDescent,
    cross_entropy,
    dlr,
    margin,
)
from clustr_keras.attacks.attack import Attack
from clustr_keras.evaluation.target import Target

# Step of the paper's protocol in l_inf; in l_2 it has none, and 2.5 eps / steps is taken.
_PAPER_STEP = 2 / 255


def _paper_pgd(steps):
    def make(target, norm, **options):
        step = _PAPER_STEP if norm == "l_inf" else None
        return target.pgd(
            norm, steps=steps, restarts=10, step_size=step, loss=cross_entropy, random_start=True, **options
        )

    return make


def _pgd(loss, classes=2):
    def make(target, norm, **options):
        if target.num_classes < classes:
            return None
        return target.pgd(norm, steps=100, restarts=5, loss=loss, decay=True, **options)

    return make


def _targeted(target, norm, **options):
    if target.num_classes < 3:
        return None
    targets = min(9, target.num_classes - 1)
    return TargetedProjectedGradientDescent(
        target.compiled_logits, norm, steps=100, targets=targets, decay=True, **options
    )


def _carlini_wagner(target, norm, batch_size, seed):
    return CarliniWagner(target.compiled_logits, batch_size=batch_size) if norm == "l_2" else None


def _square(target, norm, **options):
    return SquareAttack(target.compiled_logits, norm, queries=1000, **options)


def _autoattack(target, norm, **options):
    from clustr_keras.attacks.auto_attack import AutoAttack

    return AutoAttack(target.compiled_logits, target.num_classes, target.image_shape, norm, **options)


# In the order of the cascade: what is quick and strong comes first.
ATTACKS: dict[str, Callable[..., Attack | None]] = {
    "pgd-20": _paper_pgd(20),
    "pgd-margin": _pgd(margin),
    "pgd-dlr": _pgd(dlr, classes=3),
    "pgd-targeted": _targeted,
    "pgd-100": _paper_pgd(100),
    "carlini-wagner": _carlini_wagner,
    "square": _square,
    "autoattack": _autoattack,
}
DEFAULT_ATTACKS = tuple(name for name in ATTACKS if name != "autoattack")


def attack_suite(
    target: Target, norm: str, names: Collection[str] = DEFAULT_ATTACKS, batch_size: int = 256, seed: int = 0
) -> dict[str, Attack]:
    """Makes the attacks of one norm.

    - `pgd-20`, `pgd-100`: the paper's protocol, PGD on the cross-entropy with 10 restarts and steps of 2/255;
    - `pgd-margin`, `pgd-dlr`: 100 steps from 5 starts on losses that do not saturate, large steps first;
    - `pgd-targeted`: such steps towards each of the 9 classes with the largest logits;
    - `carlini-wagner`: in l_2;
    - `square`: black-box, 1000 queries;
    - `autoattack`: that of ART, if the extra is installed.

    Args:
        target: `Target`.
        norm: `"l_inf"` or `"l_2"`.
        names: Some of these names.
        batch_size, seed: Integers.

    Returns:
        Dict, name -> attack, in the order of the cascade, without those that do not go with norm or classes.

    Raises:
        ValueError: If there is no attack of a name, or none of them goes with norm and classes.

    Example:

    >>> list(attack_suite(target, "l_inf", ["square", "pgd-20"]))
    ['pgd-20', 'square']
    """
    unknown = set(names) - set(ATTACKS)
    if unknown:
        raise ValueError(f"there is no attack {', '.join(sorted(unknown))}; expected some of {', '.join(ATTACKS)}.")
    made = {
        name: make(target, norm, batch_size=batch_size, seed=seed) for name, make in ATTACKS.items() if name in names
    }
    suite = {name: attack for name, attack in made.items() if attack is not None}
    if not suite:
        raise ValueError(
            f"of the attacks {', '.join(sorted(names)) or '(none)'} none is for {norm} and {target.num_classes} "
            "classes, so that nothing would be shown. Add another one, for example pgd-margin."
        )
    return suite
