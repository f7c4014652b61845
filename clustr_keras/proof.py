"""What was proved of a backbone, and what is built on that."""

import dataclasses
from typing import Self

import keras
import numpy as np

from clustr_keras.certification import Certifier
from clustr_keras.heads import ClusterHead
from clustr_keras.lipschitz import LipschitzBound, bound, condense
from clustr_keras.lipschitz.arithmetic import is_ieee_float32
from clustr_keras.lipschitz.blocked import blocked
from clustr_keras.types import Ints


@dataclasses.dataclass
class Proof:
    """A backbone as it is deployed, its bound, and the certifiers that were made of both.

    Not a dict or a list: Keras would track, and save, that.

    Args:
        deployed: `keras.Model` with plain weights and short sums, see `lipschitz.condense` and `lipschitz.blocked`.
        bound: `LipschitzBound` of it.
        fingerprint: uint8 `[32]`, of the backbone that it was made from.
    """

    deployed: keras.Model
    bound: LipschitzBound
    fingerprint: Ints
    _certifiers: dict[tuple, Certifier] = dataclasses.field(default_factory=dict, init=False)

    @classmethod
    def of(cls, backbone: keras.Model, fingerprint: Ints) -> Self:
        """Deploys a backbone with a given fingerprint, and proves its bound."""
        deployed = blocked(condense(backbone))
        return cls(deployed, bound(deployed), fingerprint)

    def certifier(self, head: ClusterHead, method: str) -> Certifier:
        """The certifier with a head's centers as they are now; made afresh when they have changed.

        Raises:
            ValueError: If a center is not finite.
        """
        centers = keras.ops.convert_to_numpy(head.centers)
        if not np.isfinite(centers).all():
            raise ValueError("the cluster centers hold a NaN or an infinity; nothing can be certified.")
        variance = keras.ops.convert_to_numpy(head.variance).tobytes() if method == "soft" else None
        key = (method, is_ieee_float32(), centers.tobytes(), variance)
        if key not in self._certifiers:
            self._certifiers[key] = Certifier(self.deployed, head, self.bound, method)
        return self._certifiers[key]
