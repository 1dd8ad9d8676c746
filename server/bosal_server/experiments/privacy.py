"""Units and prompts as the store knows them: by HMAC, so that nobody can guess them back."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Self

from sqlalchemy import insert, select

from bosal_server.config import InvalidConfig
from bosal_server.database import Database
from bosal_server.experiments.tables import KEY

KEY_BYTES = 32
ID_BYTES = 16


class Pseudonyms:
    """Turns what users are called into what the store calls them."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read the key of a file; make it if it is not there.

        Raises:
            InvalidConfig: the file cannot be read or made, or holds no key.
        """
        try:
            try:
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                text = file.read_text("ascii").strip()
            else:
                text = secrets.token_hex(KEY_BYTES)
                with os.fdopen(descriptor, "w") as made:
                    made.write(text + "\n")
            key = bytes.fromhex(text)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or "it does not hold hexadecimal digits"
            raise InvalidConfig(f"cannot use the key of units in '{file}': {cause}") from None
        if len(key) < ID_BYTES:
            raise InvalidConfig(f"the key of units in '{file}' has fewer than 32 digits")
        return cls(key)

    @classmethod
    def open(cls, database: Database, file: Path | None) -> Self:
        """Read the key of a database's units: a file's, or (None) one beside it.

        Raises:
            InvalidConfig: the file is of no use, or units are stored under another key.
        """
        if file is None and database.is_temporary:
            return cls(secrets.token_bytes(KEY_BYTES))
        names = cls.load(file or database.folder / "units.key")
        fingerprint = names.text("", "").hex()
        with database.write() as connection:
            known = connection.execute(select(KEY.c.fingerprint)).scalar()
            if known is None:
                connection.execute(insert(KEY).values(fingerprint=fingerprint))
        if known not in (None, fingerprint):
            raise InvalidConfig(
                f"units in {database} are stored under another key; servers that share a "
                "database must share the file that --unit-key names"
            )
        return names

    def unit(self, experiment: str, unit: str) -> bytes:
        """Return a unit's name in the store; another in every experiment."""
        return self._digest(b"unit", experiment, unit)

    def text(self, experiment: str, text: str) -> bytes:
        """Return what tells one instruction from others."""
        return self._digest(b"text", experiment, text)

    def _digest(self, domain: bytes, *fields: str) -> bytes:
        mac = hmac.new(self._key, domain, hashlib.sha256)
        for field in fields:
            data = field.encode("utf-8", "surrogatepass")
            mac.update(len(data).to_bytes(4, "big"))
            mac.update(data)
        return mac.digest()[:ID_BYTES]


def exposure_id(experiment: str, phase: int, unit: bytes, request_id: str) -> bytes:
    """Return the same exposure for the same request, however often it is tried."""
    digest = hashlib.sha256(unit)
    for field in (experiment, str(phase), request_id):
        data = field.encode("utf-8")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return digest.digest()[:ID_BYTES]


def outcome_key(key: str) -> bytes:
    """Return what the store keeps of an idempotency key."""
    return hashlib.sha256(key.encode("utf-8")).digest()[:ID_BYTES]
