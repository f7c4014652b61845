"""What may go with each request besides its inputs: how long it may take, and metadata."""

import math
import re
from collections.abc import Mapping

_NAME = re.compile(r"[0-9a-z_.-]+")
# The protocols fill these in.
_RESERVED = {"connection", "content-length", "content-type", "host", "te", "transfer-encoding"}


def check_timeout(timeout: float) -> float:
    """The timeout, if it is one.

    Args:
        timeout: Seconds.

    Returns:
        `timeout`.

    Raises:
        ValueError: If it is not finite and greater than 0.
    """
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be greater than 0 and finite, in seconds; got {timeout}.")
    return timeout


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Metadata in a form that both protocols carry: gRPC metadata and HTTP headers have the same names.

    Args:
        metadata: Name to text, or None.

    Returns:
        A dictionary, names in lower case.

    Raises:
        ValueError: If a name or a value cannot be sent. Values are not shown, as they may be secret.

    Example:
    >>> check_metadata({"Authorization": "Bearer c2VjcmV0"})
    {'authorization': 'Bearer c2VjcmV0'}
    """
    checked = {}
    for name, value in (metadata or {}).items():
        key = name.lower() if isinstance(name, str) else ""
        if not _NAME.fullmatch(key) or key in _RESERVED or key.startswith("grpc-") or key.endswith("-bin"):
            raise ValueError(
                f"names in metadata are of letters, digits, '_', '.' and '-', do not begin with 'grpc-' or end in "
                f"'-bin', and are none of {sorted(_RESERVED)}; got {name!r}."
            )
        if not (isinstance(value, str) and value and value.isascii() and value.isprintable()):
            raise ValueError(
                f"values in metadata must be printable ASCII strings that are not empty; that of {name!r} is not (it "
                "is not shown, as it may be secret). A token read from a file needs .strip()."
            )
        checked[key] = value
    return checked
