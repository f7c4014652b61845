import re

import pytest

from clustr_keras.serving.endpoint import Endpoint


@pytest.mark.parametrize(
    ("target", "protocol", "address", "is_local", "is_encrypted"),
    [
        ("localhost:8500", "grpc", "localhost:8500", True, False),
        ("grpc://127.0.0.1:8500/", "grpc", "127.0.0.1:8500", True, False),
        ("grpcs://example.org:443", "grpc", "example.org:443", False, True),
        ("[::1]:8500", "grpc", "[::1]:8500", True, False),
        ("http://localhost:8501", "rest", "http://localhost:8501", True, False),
        ("https://example.org/models/", "rest", "https://example.org/models", False, True),
        # Names and addresses that only look as if they were on this machine.
        ("127.example.org:1", "grpc", "127.example.org:1", False, False),
        ("localhost.example.org:1", "grpc", "localhost.example.org:1", False, False),
        ("http://0.0.0.0:1", "rest", "http://0.0.0.0:1", False, False),
        ("http://example.org:1/localhost", "rest", "http://example.org:1/localhost", False, False),
    ],
)
def test_targets(target, protocol, address, is_local, is_encrypted):
    endpoint = Endpoint.parse(target)
    assert (endpoint.protocol, endpoint.address, endpoint.is_local) == (protocol, address, is_local)
    assert (endpoint.tls is not None) == is_encrypted


@pytest.mark.parametrize(
    "target",
    [
        *("", "localhost", "localhost:x", "localhost:99999", "grpc://localhost", "grpcs://localhost"),
        *("localhost:1/path", "ftp://localhost:1", "http://", "https:///v1"),
        *("http://localhost:x", "http://localhost:1?x=1", "https://localhost#x"),
    ],
)
def test_a_target_of_no_known_form_is_an_error(target):
    with pytest.raises(ValueError, match=r'"host:port".*got ' + re.escape(repr(target))):
        Endpoint.parse(target)


@pytest.mark.parametrize("target", ["me:s3cret@localhost:1", "https://me:s3cret@localhost:1", "http://me@localhost"])
def test_a_target_with_a_password_is_an_error_that_keeps_it(target):
    with pytest.raises(ValueError, match=r"before 'localhost'.*metadata=") as caught:
        Endpoint.parse(target)
    assert "s3cret" not in str(caught.value)
