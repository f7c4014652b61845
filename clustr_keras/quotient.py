"""Numbers as people write radii."""


def quotient(text: str) -> float:
    """Reads a number or a fraction.

    Args:
        text: Such as `"0.5"` or `"8/255"`.

    Returns:
        A float.

    Raises:
        ValueError: If it is neither, or the denominator is 0.

    Example:

    >>> quotient("51/255")
    0.2
    """
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{text!r} is no number, such as 0.5 or 36/255.") from error
