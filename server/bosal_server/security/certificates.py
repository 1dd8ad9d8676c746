"""How long certificates are good for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from bosal_server.config import InvalidConfig

# Who renews by hand needs some days; what renews by itself does so weeks ahead.
_SOON: Final = timedelta(days=14)
_MINUTE: Final = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate of a file, and the time it is good for."""

    file: Path
    begins: datetime
    ends: datetime

    def check(self, now: datetime) -> None:
        """Raise InvalidConfig unless the certificate is good now."""
        if now > self.ends:
            raise InvalidConfig(f"{self.file}: the certificate expired at {self.ends:{_MINUTE}}")
        if now < self.begins:
            raise InvalidConfig(
                f"{self.file}: the certificate is good from {self.begins:{_MINUTE}}, and this "
                f"machine's clock says {now:{_MINUTE}}"
            )

    def warning(self, now: datetime) -> str | None:
        """Say that the certificate ends soon, or has ended, if so."""
        left = self.ends - now
        if left > _SOON:
            return None
        when = f"in {left.days} days" if left.days > 1 else f"in {left // timedelta(hours=1)} hours"
        said = f"expires {when}," if left > timedelta(0) else "holds one that expired"
        return f"{self.file} {said} at {self.ends:{_MINUTE}}"


def certificates(file: Path, pem: bytes) -> list[Certificate]:
    """Return the certificates of a file's content, in their order.

    Raises:
        InvalidConfig: there are none.
    """
    try:
        return [
            Certificate(file=file, begins=one.not_valid_before_utc, ends=one.not_valid_after_utc)
            for one in x509.load_pem_x509_certificates(pem)
        ]
    except ValueError as error:
        raise InvalidConfig(f"{file}: no certificates: {error}") from None
