"""What an attacker may do to an image."""

import dataclasses
from typing import Self

import numpy as np

from clustr_keras.attacks.arguments import check_norm
from clustr_keras.quotient import quotient


@dataclasses.dataclass(frozen=True, order=True)
class ThreatModel:
    """Any change of the pixels, within [0, 1], whose norm is at most eps.

    Args:
        norm: `"l_inf"` or `"l_2"`.
        eps: Float, pixels in [0, 1].

    Raises:
        ValueError: If the norm is another one, or eps is not a positive finite number.

    Example:

    >>> str(ThreatModel("l_inf", 8 / 255))
    'l_inf 8/255'
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if not 0 < self.eps < np.inf:
            raise ValueError(f"eps must be a positive finite number; got {self.eps}.")

    def __str__(self) -> str:
        return f"{self.norm} {_shown(self.eps)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `"l_inf:8/255"` or `"l_2:0.5"`.

        Args:
            text: String, norm and eps with a colon between them.

        Raises:
            ValueError: If it is not of that form.

        Example:

        >>> ThreatModel.parse("l_2:0.5")
        ThreatModel(norm='l_2', eps=0.5)
        """
        norm, _, eps = text.partition(":")
        try:
            value = quotient(eps)
        except ValueError as error:
            example = "l_inf:8/255 or l_2:0.5"
            raise ValueError(f"a threat model is a norm and an eps, such as {example}; got {text!r}.") from error
        return cls(norm, value)


# The paper's l_inf radii, and in l_2 those that certified accuracy is quoted at.
DEFAULT_THREAT_MODELS = (
    *(ThreatModel("l_inf", eps / 255) for eps in (2.0, 8.0, 16.0, 25.5)),
    *(ThreatModel("l_2", eps) for eps in (36 / 255, 0.5, 1.0, 1.58)),
)


def _shown(eps):
    """As so many 255ths, or halves of them, where that is a short way to say it; as a decimal otherwise."""
    halves = eps * 510
    return f"{eps * 255:g}/255" if eps < 0.15 and abs(halves - round(halves)) < 1e-6 else f"{eps:.4g}"
