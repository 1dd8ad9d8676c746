"""The server's side of TLS: certificates that can be replaced while it runs."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bosal_server.config import InvalidConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where certificate and key are, and whose client certificates are believed, in PEM."""

    certificate: Path
    key: Path
    # Clients must bring a certificate of this authority.
    client_ca: Path | None = None


class TlsCredentials:
    """Hands out what the files held when they were last read."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises InvalidConfig if the files are not a certificate and its key."""
        self._files = files
        self._current = self._read()
        self._is_changed = False

    def reload(self) -> None:
        """Read the files again; connections that are open keep theirs."""
        self._current = self._read()
        self._is_changed = True

    def server_credentials(self) -> grpc.ServerCredentials:
        # Typed as if it had to return something every time.
        fetch: Any = self._fetch
        wants_client = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._current, fetch, wants_client)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at each handshake, from its own thread; None: nothing is new."""
        if not self._is_changed:
            return None
        self._is_changed = False
        return self._current

    def _read(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        key, certificate, client_ca = found = _contents(files)
        _check_pair(files)
        if _contents(files) != found:
            # Whoever renews them replaces one after the other.
            raise InvalidConfig(f"{files.certificate} and {files.key} changed as they were read")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _check_pair(files: TlsFiles) -> None:
    """Find out before gRPC does, which would fail every handshake without a word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def refuse() -> str:
        # Without this OpenSSL would ask at the terminal, and the server would wait for an answer.
        raise InvalidConfig(f"{files.key}: the key is encrypted, and this server has no password")

    try:
        context.load_cert_chain(files.certificate, files.key, password=refuse)
    except (OSError, ssl.SSLError) as error:
        cause = getattr(error, "reason", None) or error.strerror or error
        raise InvalidConfig(
            f"{files.certificate} and {files.key} are not a certificate and its key: {cause}"
        ) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ssl.SSLError) as error:
            cause = getattr(error, "reason", None) or error.strerror or error
            raise InvalidConfig(f"{files.client_ca}: no certificates: {cause}") from None


def _contents(files: TlsFiles) -> tuple[bytes, bytes, bytes | None]:
    client_ca = None if files.client_ca is None else _content(files.client_ca)
    return _content(files.key), _content(files.certificate), client_ca


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}") from None
