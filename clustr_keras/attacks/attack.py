"""What every attack takes and gives."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeAlias

from clustr_keras.types import ArrayLike, Bools, Floats, Ints, Tensor

Logits: TypeAlias = Callable[[Tensor], Tensor]
"""What is attacked: TensorFlow operations from images `[B, H, W, C]` to logits `[B, C]`, such as a Keras model.

AutoGraph does not rewrite it: a Python function that branches on tensors needs `tf.function` around it.
"""

AttackLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""What is ascended: from labels `[B]` and logits `[B, C]` to a value for each example, `[B]`."""

Progress: TypeAlias = Callable[[int], object]
"""Is told how many attempts are over."""


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The worst case of an attack for each example.

    Args:
        adversarial: float32 images `[B, H, W, C]` in [0, 1]: a flip if one was found, else the attempt with the
            largest loss.
        is_flipped: bool `[B]`, whether the attacked model gives `adversarial` another class than the label.
        class_ids: int64 `[B]`, the class of `adversarial`.
        distance: float64 `[B]`, norm of `adversarial - image`, recomputed in float64 from the final float32 images.
    """

    adversarial: Floats
    is_flipped: Bools
    class_ids: Ints
    distance: Floats


class Attack(Protocol):
    """An attack in the balls of one norm, `"l_2"` or `"l_inf"`.

    One whose `minimizes_norm` is there and true finds with one large eps what it finds with all smaller ones.
    """

    @property
    def norm(self) -> str:
        """`"l_2"` or `"l_inf"`."""

    @property
    def name(self) -> str:
        """What reports call this attack."""

    def attempts(self, count: int) -> int:
        """What `progress` counts up to for `count` images."""

    def __call__(
        self, images: ArrayLike, labels: ArrayLike, eps: ArrayLike, progress: Progress | None = None
    ) -> AttackResult:
        """Attacks images; see `ProjectedGradientDescent.__call__`."""
