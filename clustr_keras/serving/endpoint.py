"""Where a client's requests go: which server, and which model there."""

import ipaddress
import os
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from clustr_keras.serving.tls import Tls

# How each scheme is spoken, and whether it is encrypted.
_SCHEMES = {"grpc": ("grpc", False), "grpcs": ("grpc", True), "http": ("rest", False), "https": ("rest", True)}


@dataclass(frozen=True)
class Endpoint:
    """A server.

    Attributes:
        protocol: `"grpc"` or `"rest"`.
        address: `host:port` for gRPC; for REST the URL before `/v1`.
        is_local: Whether it is on this machine, by its name.
        tls: A `Tls`, or None for a connection in the clear.
    """

    protocol: str
    address: str
    is_local: bool
    tls: Tls | None

    @classmethod
    def parse(
        cls,
        target: str,
        ca_certificate: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> Self:
        """The server that a target names.

        Args:
            target: `"host:port"`, or `"scheme://host:port"` with one of grpc, grpcs, http and https.
            ca_certificate, client_certificate: As for `Tls`, with grpcs and https only.

        Returns:
            An `Endpoint`.

        Raises:
            ValueError: If `target` is of another form, or takes no certificates.
            OSError: If a certificate cannot be read.

        Example:
        >>> Endpoint.parse("127.0.0.1:8500")
        Endpoint(protocol='grpc', address='127.0.0.1:8500', is_local=True, tls=None)
        """
        parts = urlsplit(target if "://" in target else f"grpc://{target}")
        protocol, is_encrypted = _SCHEMES.get(parts.scheme, (None, False))
        is_address = _is_bare_address if protocol == "grpc" else _is_base_url
        if protocol is None or not parts.hostname or not is_address(parts):
            raise ValueError(
                f'target must be "host:port" or "grpc://host:port" for gRPC, or "http://host:port" or '
                f'"https://host:port" for REST; "grpcs://host:port" is gRPC over TLS; got {target!r}.'
            )
        if parts.username is not None:  # not shown: there may be a password
            raise ValueError(
                f"target must not hold a user name or password; it has one before {parts.hostname!r}. Pass "
                'metadata={"authorization": ...}, which goes with every request.'
            )
        if not is_encrypted and (ca_certificate is not None or client_certificate is not None):
            encrypted = f"grpcs://{parts.netloc}" if protocol == "grpc" else f"https://{parts.netloc}"
            raise ValueError(
                f"ca_certificate and client_certificate are for encrypted connections, and {target!r} is in the clear. "
                f"Pass {encrypted!r}, or no certificates."
            )
        return cls(
            protocol=protocol,
            address=parts.netloc if protocol == "grpc" else target.rstrip("/"),
            is_local=_is_loopback(parts.hostname),
            tls=Tls(ca_certificate, client_certificate) if is_encrypted else None,
        )


@dataclass(frozen=True)
class ModelChoice:
    """A model, and which of its versions.

    Args:
        name: The model's name.
        version: Integer; None leaves the choice to the server, or to `label`.
        label: A name that the server gives to one of the versions.

    Raises:
        ValueError: If both `version` and `label` are given, or one is not of its kind.
    """

    name: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError(
                f"version and label exclude each other; got version={self.version!r} and label={self.label!r}. "
                "Pass the one that should decide."
            )
        if self.version is not None and not (isinstance(self.version, int) and self.version >= 0):
            raise ValueError(
                f"version must be an integer of at least 0; got {self.version!r}. A name such as 'stable' is a label: "
                "pass label=."
            )
        if self.label is not None and not (isinstance(self.label, str) and self.label):
            raise ValueError(f"label must be a string that is not empty; got {self.label!r}.")


def _is_bare_address(parts):
    try:
        return parts.port is not None and parts.path in ("", "/")
    except ValueError:  # a port that is no number, or out of range
        return False


def _is_base_url(parts):
    try:
        return parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        return False


def _is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
