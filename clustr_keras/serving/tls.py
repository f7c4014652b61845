"""What proves a server to a client, and a client to a server, over an encrypted connection."""

import os
import pathlib
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc


class Tls:
    """Certificates of one client, for both protocols.

    Args:
        ca_certificate: Path of a PEM file: the authorities that a server's certificate may come from. None for the
            public ones.
        client_certificate: Pair of paths, a PEM certificate (chain) and its unencrypted PEM key, by which the client
            proves who it is. None if the server does not ask.

    Attributes:
        ssl_context: An `ssl.SSLContext`, for HTTP.

    Raises:
        ValueError: If a file does not hold what it should.
        OSError: If a file cannot be read.
    """

    def __init__(
        self,
        ca_certificate: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    ) -> None:
        if client_certificate is not None and (isinstance(client_certificate, str) or len(client_certificate) != 2):
            raise ValueError(
                f"client_certificate must be a pair of files, the certificate and its key; got {client_certificate!r}."
            )
        self._ca = _read(ca_certificate)
        self._certificate, self._key = map(_read, client_certificate or (None, None))
        # gRPC would report a bad file with the first request only, and as a server that is not there.
        try:
            self.ssl_context = _trusting(ca_certificate)
            if client_certificate is not None:
                # Without a password OpenSSL would ask for one on the terminal, and wait.
                self.ssl_context.load_cert_chain(*client_certificate, password="")
        except ssl.SSLError as error:
            raise ValueError(
                f"ca_certificate must be a PEM file of certificates, and client_certificate a PEM certificate and its "
                f"unencrypted PEM key; got {ca_certificate!r} and {client_certificate!r}: {error}."
            ) from error

    def grpc_credentials(self) -> "grpc.ChannelCredentials":
        """The same, for a gRPC channel."""
        import grpc

        return grpc.ssl_channel_credentials(self._ca, self._key, self._certificate)


def _trusting(ca_certificate):
    if ca_certificate is not None:
        return ssl.create_default_context(cafile=ca_certificate)
    import httpx  # it brings the public authorities along, where the system may have none

    return httpx.create_ssl_context()


def _read(path):
    return None if path is None else pathlib.Path(path).read_bytes()
