"""How sure a share of a sample is."""

from scipy.stats import binomtest

from clustr_keras.types import Bools


def wilson_interval(share: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share that was seen in a random sample.

    Args:
        share: Float in [0, 1], of the sample.
        count: Integer, size of the sample.
        confidence: Float.

    Returns:
        Two floats, its ends.

    Example:

    >>> tuple(round(end, 3) for end in wilson_interval(0.9, 500))
    (0.871, 0.923)

    Reference:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
    """
    interval = binomtest(round(share * count), count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def is_clearly_less(is_standing: Bools, others: Bools, count: float) -> bool:
    """Whether fewer of the same examples stand by more than a count, and beyond chance.

    Args:
        is_standing, others: bool `[B]`, which examples stand one attack, and another one.
        count: Float, a difference that does not matter.

    Returns:
        Boolean; chance is ruled out by the exact test on pairs, one-sided with p < 0.025.

    Example:

    >>> is_clearly_less(np.arange(100) < 80, np.arange(100) < 90, 2)
    True

    Reference:
        McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 1947.
    """
    lost, won = int((others & ~is_standing).sum()), int((is_standing & ~others).sum())
    return lost - won > count and bool(binomtest(lost, lost + won, alternative="greater").pvalue < 0.025)
