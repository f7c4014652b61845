"""Check of networks whose stages halve the resolution."""


def check_halved(input_shape, stages):
    """Checks that images can be halved once in each stage.

    Args:
        input_shape: Shape of one image.
        stages: Integer, the number of stages.

    Raises:
        ValueError: If the shape is not `(H, W, C)` with H and W divisible by `2^stages`.

    Example:

    >>> check_halved((28, 28, 1), stages=2)
    """
    if len(input_shape) != 3 or any(size is None or size % 2**stages for size in input_shape[:2]):
        raise ValueError(
            f"input_shape must be (H, W, C) with H and W divisible by {2**stages}, for {stages} stages "
            f"that halve them; got {tuple(input_shape)}. Use fewer stages, or pad or resize the images."
        )
