"""How bounds compose along the graph: of the map from a model's input to one tensor."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

from clustr_keras.lipschitz.graph import UnknownBoundError
from clustr_keras.lipschitz.registry import LayerBound


@dataclasses.dataclass(frozen=True)
class Signal:
    """Of the map from the model's input to one tensor: Lipschitz bound, affine bounds of norm and rounding error.

    With `n` the norm of the input: exact value at most `norm[0] n + norm[1]`, error at most `error[0] n + error[1]`,
    and every value so far, computed ones included, at most `peak[0] n + peak[1]`. `norm` and `peak` hold as long as
    `error` is known.
    """

    lipschitz: float = 1.0
    norm: tuple[float, float] = (1.0, 0.0)
    error: tuple[float, float] | None = (0.0, 0.0)
    peak: tuple[float, float] = (1.0, 0.0)

    def then(self, layer: LayerBound) -> "Signal":
        """The map followed by an operation with the `LayerBound` given."""
        if not (math.isfinite(layer.lipschitz) and layer.lipschitz >= 0.0):
            raise UnknownBoundError(f"the bound of an operation is {layer.lipschitz}; it is not Lipschitz.")
        lipschitz = product_upward(self.lipschitz, layer.lipschitz)
        norm = _pair(up(layer.lipschitz * n) for n in self.norm)
        if self.error is None or layer.rounding is None:
            return Signal(lipschitz, norm, None, self.peak)
        rounding = layer.rounding
        norm = (norm[0], up(norm[1] + rounding.offset))
        # An error made before is stretched by the layer, whose own error is that at the rounded value.
        slope, intercept = (
            up(layer.lipschitz * e + rounding.relative * (n + e)) for n, e in zip(self.norm, self.error, strict=True)
        )
        error = (slope, up(intercept + rounding.absolute))
        peak = _pair(max(p, up(n + e)) for p, n, e in zip(self.peak, norm, error, strict=True))
        return Signal(lipschitz, norm, error, peak)


def merged(signals: Sequence[Signal], factors: Sequence[float], merging: str) -> Signal:
    """Several tensors as one: with `f` the factors, `D = sum f_i d_i`, or `sqrt(sum (f_i d_i)^2)` for `"root"`.

    Distances, norms and errors merge alike. For the root of affine bounds, Minkowski's inequality gives
    `sqrt(sum (a_i n + b_i)^2) <= sqrt(sum a_i^2) n + sqrt(sum b_i^2)`.
    """
    if len(signals) == 1 and factors == (1.0,):
        return signals[0]
    merge = {"sum": sum_upward, "root": root_upward}[merging]

    def merge_pairs(pairs):
        weighted = [[product_upward(f, v) for v in pair] for f, pair in zip(factors, pairs, strict=True)]
        return _pair(merge([pair[k] for pair in weighted]) for k in range(2))

    lipschitz = merge([product_upward(f, s.lipschitz) for f, s in zip(factors, signals, strict=True)])
    norm = merge_pairs([s.norm for s in signals])
    peak = _pair(max(s.peak[k] for s in signals) for k in range(2))
    if any(s.error is None for s in signals):
        return Signal(lipschitz, norm, None, peak)
    return Signal(lipschitz, norm, merge_pairs([s.error for s in signals]), peak)


def _pair(values: Iterable[float]) -> tuple[float, float]:
    first, second = values
    return first, second


def up(value: float) -> float:
    """A float64 that is no smaller than the exact result of the few operations that led to `value >= 0`."""
    return value * (1.0 + 2.0**-50)


def product_upward(a: float, b: float) -> float:
    """`a * b`, rounded upward."""
    product = a * b
    if not math.isfinite(product):
        return math.inf
    return product if Fraction(product) >= Fraction(a) * Fraction(b) else math.nextafter(product, math.inf)


def sum_upward(values: Sequence[float]) -> float:
    """The sum, rounded upward."""
    if not math.isfinite(sum(values)):
        return math.inf
    total = math.fsum(values)
    return total if Fraction(total) >= sum(map(Fraction, values)) else math.nextafter(total, math.inf)


def root_upward(values: Sequence[float]) -> float:
    """The root of the sum of squares, rounded upward."""
    largest = max(values)
    if largest == 0.0 or not math.isfinite(largest) or sum(v > 0.0 for v in values) == 1:
        return largest
    return up(largest * math.sqrt(math.fsum((v / largest) ** 2 for v in values)))
