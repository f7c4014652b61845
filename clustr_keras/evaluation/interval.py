"""How sure a share of a sample is."""

from scipy.stats import binomtest


def wilson_interval(share, count, confidence=0.95):
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


def is_clearly_below(share, other, count, points=0.02):
    """Whether a share is below another one of as large a sample by more than some points, with intervals apart.

    Args:
        share, other: Floats in [0, 1].
        count: Integer, size of each sample.
        points: Float.

    Example:

    >>> is_clearly_below(0.60, 0.70, 500), is_clearly_below(0.60, 0.63, 500)
    (True, False)
    """
    return other - share > points and wilson_interval(share, count)[1] < wilson_interval(other, count)[0]
