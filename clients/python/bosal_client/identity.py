"""Who a client is, and whom it believes: what its connection needs beside an address."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from bosal_client.errors import InvalidRequest

__all__ = ["Identity"]

_SYSTEM = "system"


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
            api_key=environment.get("BOSAL_API_KEY", ""),
            tls_ca=environment.get("BOSAL_TLS_CA", ""),
            client_certificate=environment.get("BOSAL_CLIENT_CERTIFICATE", ""),
            client_key=environment.get("BOSAL_CLIENT_KEY", ""),
        )

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what `Client` takes; None without TLS.

        Raises:
            InvalidRequest: a file cannot be read, or one of two that belong together is missing.
        """
        if bool(self.client_certificate) != bool(self.client_key):
            raise InvalidRequest("a client's certificate and its key go together")
        if not self.tls_ca:
            if self.client_certificate:
                raise InvalidRequest("a client's certificate needs TLS: set BOSAL_TLS_CA")
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.tls_ca == _SYSTEM else _content(self.tls_ca),
            private_key=_content(self.client_key) if self.client_key else None,
            certificate_chain=_content(self.client_certificate)
            if self.client_certificate
            else None,
        )


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from None
