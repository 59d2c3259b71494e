"""The check of a server by its settings."""

import pytest

from s3_server import free_ports
from umrgen.errors import UmrgenError
from umrgen.server.health import check_health, health_url
from umrgen.server.settings import Settings


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:3099/readyz"),
        ("::", "http://[::1]:3099/readyz"),
        ("10.0.0.7", "http://10.0.0.7:3099/readyz"),
        ("localhost", "http://localhost:3099/readyz"),
    ],
)
def test_the_address_is_that_of_the_settings(host: str, url: str) -> None:
    assert health_url(Settings(host=host, port=3099)) == url


def test_a_server_that_does_not_run_is_an_error() -> None:
    (port,) = free_ports(1)
    with pytest.raises(UmrgenError, match=f"no server responds at http://127.0.0.1:{port}/readyz"):
        check_health(Settings(port=port))
