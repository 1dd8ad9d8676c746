"""What may be opened to whom."""

from pathlib import Path

import pytest

from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.security.exposure import check, is_loopback, listeners

FILE = Path("x")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_needs_neither_key_nor_certificate(host: str) -> None:
    assert is_loopback(host)
    check(ServerConfig(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_the_network_needs_both(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InvalidConfig, match="--key-file.*--tls-certificate"):
        check(ServerConfig(host=host))
    with pytest.raises(InvalidConfig, match="--tls-certificate"):
        check(ServerConfig(host=host, key_file=FILE))
    with pytest.raises(InvalidConfig, match="--key-file"):
        check(ServerConfig(host=host, tls_certificate=FILE, tls_key=FILE))
    check(ServerConfig(host=host, tls_certificate=FILE, tls_key=FILE, key_file=FILE))
    check(ServerConfig(host=host, tls_certificate=FILE, tls_key=FILE, tls_client_ca=FILE))
    check(ServerConfig(host=host, allow_insecure=True))


def test_half_a_certificate_is_refused() -> None:
    for wrong in (
        ServerConfig(tls_certificate=FILE),
        ServerConfig(tls_key=FILE),
        ServerConfig(tls_client_ca=FILE),
    ):
        with pytest.raises(InvalidConfig, match="tls_"):
            check(wrong)


def test_every_port_is_listed() -> None:
    config = ServerConfig(host="0.0.0.0", key_file=FILE, metrics_host="::")
    rpc, metrics = listeners(config)
    assert (rpc.reach, rpc.transport) == ("the network", "plain text")
    assert rpc.access.startswith("API keys")
    assert (metrics.reach, metrics.address) == ("the network", "[::]:9464")
    certified = ServerConfig(tls_certificate=FILE, tls_key=FILE, tls_client_ca=FILE)
    assert next(iter(listeners(certified))).access == "any of the authority's certificates"
    assert [one.what for one in listeners(ServerConfig(metrics_port=-1))] == ["gRPC"]
