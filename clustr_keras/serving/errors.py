"""The one error of serving, with its names in gRPC and in HTTP."""

from typing import Self

# Canonical codes; the position is the number that gRPC and TensorFlow use for it.
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

# How TensorFlow Serving reports each code over REST; the ones not named here are 500.
_HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}

# The way back is not unique (400 is three codes): the commonest one. 502 is what a proxy says of a server that is down.
_CODE_OF_HTTP_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

# In bytes, of which gRPC makes three where they are not ASCII.
_LONGEST_MESSAGE = 2000


class ServingError(Exception):
    """A request that a server refused or could not answer.

    Args:
        code: Name of a gRPC status code, `"NOT_FOUND"` for example.
        message: What was wrong.
        http_status: HTTP status to answer with, if not the usual one of `code`.

    Example:
    >>> try:
    ...     client.predict(images)
    ... except ServingError as error:
    ...     print(error.code, error.message)
    """

    def __init__(self, code: str, message: str, http_status: int | None = None) -> None:
        """Long messages are cut: gRPC carries them in a header, and headers are limited to 8 KiB."""
        if code not in CODES:
            raise ValueError(f"code must be the name of a gRPC status; got {code!r}. Known: {', '.join(CODES)}.")
        encoded = message.encode(errors="replace")
        if len(encoded) > _LONGEST_MESSAGE:
            message = encoded[:_LONGEST_MESSAGE].decode(errors="ignore") + " ..."
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http_status = http_status or _HTTP_STATUS.get(code, 500)

    @classmethod
    def from_http(cls, status: int, message: str) -> Self:
        """The error that an HTTP answer with this status and text stands for."""
        return cls(_CODE_OF_HTTP_STATUS.get(status, "UNKNOWN"), message, http_status=status)
