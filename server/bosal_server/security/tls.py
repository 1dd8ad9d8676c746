"""The server's side of TLS: certificates that can be replaced while it runs."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc

from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.security.certificates import Certificate, certificates

# What the metrics call the certificates.
SERVER: Final = "server"
CLIENT_CA: Final = "client_ca"


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where certificate and key are, and whose client certificates are believed, in PEM."""

    certificate: Path
    key: Path
    # Clients must bring a certificate of this authority.
    client_ca: Path | None = None


class TlsCredentials:
    """Hands out what the files held when they were last read."""

    def __init__(self, files: TlsFiles, clock: Callable[[], datetime] = _now) -> None:
        """Read the files.

        Raises:
            InvalidConfig: they are not a certificate and its key, or these are not good now.
        """
        self._files = files
        self._clock = clock
        # The latter by what metrics call them: of the chain the first to end, of the clients'
        # authorities the last.
        self._current, self.certificates = self._read()
        self._is_changed = False

    @classmethod
    def of(cls, config: ServerConfig) -> "TlsCredentials | None":
        """Read a server's files; None: it speaks plain text."""
        if config.tls_certificate is None or config.tls_key is None:
            return None
        return cls(
            TlsFiles(
                certificate=config.tls_certificate,
                key=config.tls_key,
                client_ca=config.tls_client_ca,
            )
        )

    def warnings(self) -> list[str]:
        """Say which certificates end soon."""
        found = (one.warning(self._clock()) for one in self.certificates.values())
        return [warning for warning in found if warning is not None]

    def reload(self) -> None:
        """Read the files again; connections that are open keep theirs."""
        self._current, self.certificates = self._read()
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

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, Mapping[str, Certificate]]:
        files = self._files
        key, certificate, client_ca = found = _contents(files)
        _check_pair(files)
        if _contents(files) != found:
            # Whoever renews them replaces one after the other.
            raise InvalidConfig(f"{files.certificate} and {files.key} changed as they were read")
        decisive = _decisive(files, certificate, client_ca, self._clock())
        pair = grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)
        return pair, decisive


def _decisive(
    files: TlsFiles, certificate: bytes, client_ca: bytes | None, now: datetime
) -> Mapping[str, Certificate]:
    """Return the certificates that say how long connections can be made.

    The server's own must be good now. One further up its chain may be superfluous, an old root's
    say, so that its end is only warned of. Of the clients' authorities one is enough.
    """
    chain = certificates(files.certificate, certificate)
    chain[0].check(now)
    found = {SERVER: min(chain, key=lambda one: one.ends)}
    if files.client_ca is not None and client_ca is not None:
        last = max(certificates(files.client_ca, client_ca), key=lambda one: one.ends)
        last.check(now)
        found[CLIENT_CA] = last
    return found


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
