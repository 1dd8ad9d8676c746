"""Who a client is, and whom it believes: what its connection needs beside an address."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict

import grpc

from bosal_client.errors import InvalidRequest

__all__ = ["Identity"]

_SYSTEM = "system"


class Options(TypedDict):
    """What `Client` and `AsyncClient` take beside an address."""

    credentials: grpc.ChannelCredentials | None
    api_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An API key and TLS files, each of which may be missing."""

    api_key: str = ""
    # Authorities that vouch for the server, in PEM; `system`: this machine's; "": no TLS.
    tls_ca: str = ""
    client_certificate: str = ""
    client_key: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read BOSAL_API_KEY, BOSAL_TLS_CA, BOSAL_CLIENT_CERTIFICATE and BOSAL_CLIENT_KEY."""
        return cls(
            # A key that was read from a file ends with its line.
            api_key=environment.get("BOSAL_API_KEY", "").strip(),
            tls_ca=environment.get("BOSAL_TLS_CA", ""),
            client_certificate=environment.get("BOSAL_CLIENT_CERTIFICATE", ""),
            client_key=environment.get("BOSAL_CLIENT_KEY", ""),
        )

    def options(self) -> Options:
        """Return what either client is made with; fails as `credentials` does."""
        return Options(credentials=self.credentials(), api_key=self.api_key)

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what `Client` takes; None without TLS.

        Raises:
            InvalidRequest: a file is missing, does not hold what it should, or does not go with
                the other.
        """
        if bool(self.client_certificate) != bool(self.client_key):
            raise InvalidRequest("a client's certificate and its key go together")
        if not self.tls_ca:
            if self.client_certificate:
                raise InvalidRequest("a client's certificate needs TLS: set BOSAL_TLS_CA")
            return None
        own: dict[str, bytes] = {}
        if self.client_certificate:
            own = {
                "certificate_chain": _content(self.client_certificate),
                "private_key": _content(self.client_key),
            }
            _check_pair(self.client_certificate, self.client_key)
        return grpc.ssl_channel_credentials(root_certificates=_authorities(self.tls_ca), **own)


def _authorities(tls_ca: str) -> bytes:
    """Return authorities in PEM; gRPC's own list is not this machine's, so it is never used."""
    found = _of_this_machine() if tls_ca == _SYSTEM else _content(tls_ca)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=found.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        where = "this machine" if tls_ca == _SYSTEM else tls_ca
        raise InvalidRequest(f"{where} has no certificates of authorities in PEM") from None
    return found


def _of_this_machine() -> bytes:
    """Read what OpenSSL trusts here; SSL_CERT_FILE and SSL_CERT_DIR name others."""
    places = ssl.get_default_verify_paths()
    files = [Path(places.cafile)] if places.cafile else []
    if not files and places.capath:
        files = sorted(Path(places.capath).glob("*.[0-9]"))
    return b"\n".join(_content(str(file)) for file in files)


def _check_pair(certificate: str, key: str) -> None:
    """Refuse what gRPC would only log, to try again and again to connect."""
    try:
        # A password would be asked for on the terminal.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or "it cannot be read"
        said = str(why).lower().replace("_", " ")
        raise InvalidRequest(
            f"{certificate} and {key} are no certificate and key: {said}"
        ) from None


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from None
