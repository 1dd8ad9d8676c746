"""What a configuration opens to whom: said by `serve --check`, judged before every start."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

from bosal_server.config import InvalidConfig, ServerConfig


@dataclass(frozen=True, slots=True)
class Listener:
    """One port, and who can reach and use it."""

    what: str
    address: str
    reach: str
    transport: str
    access: str


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listeners(config: ServerConfig) -> Iterator[Listener]:
    """Yield the ports a server of this configuration opens."""
    if config.tls_certificate is None:
        transport = "plain text"
    elif config.tls_client_ca is None:
        transport = "TLS"
    else:
        transport = "TLS, client certificates"
    access = "anybody" if config.tls_client_ca is None else "any of the authority's certificates"
    if config.key_file is not None:
        access = "API keys; health: anybody"
    address = _address(config.host, config.port)
    yield Listener("gRPC", address, _reach(config.host), transport, access)
    if config.metrics_port >= 0:
        yield Listener(
            "metrics, probes",
            _address(config.metrics_host, config.metrics_port),
            _reach(config.metrics_host),
            "plain text",
            "anybody, read only",
        )


def check(config: ServerConfig) -> None:
    """Refuse a configuration that lets strangers in or shows keys to whoever listens.

    Raises:
        InvalidConfig: says what is missing.
    """
    if (config.tls_certificate is None) != (config.tls_key is None):
        raise InvalidConfig("tls_certificate and tls_key go together")
    if config.tls_client_ca is not None and config.tls_certificate is None:
        raise InvalidConfig("tls_client_ca needs tls_certificate and tls_key")
    if is_loopback(config.host) or config.allow_insecure:
        return
    missing = []
    if config.key_file is None and config.tls_client_ca is None:
        missing.append("--key-file (or client certificates with --tls-client-ca)")
    if config.tls_certificate is None:
        missing.append("--tls-certificate and --tls-key")
    if missing:
        raise InvalidConfig(
            f"{config.host} can be reached by other machines: give {' and '.join(missing)}, "
            "or --allow-insecure where something else keeps strangers out"
        )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reach(host: str) -> str:
    return "this machine" if is_loopback(host) else "the network"
