"""API keys: made, kept as hashes in one file, recognised in constant time.

A key is `bosal_ID_SECRET`. The id finds the entry; of the secret, 256 random bits, the file holds
only the SHA-256, which for that much entropy needs no salt and no slow hash.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bosal_server.config import InvalidConfig
from bosal_server.security.caller import Caller, Priority, Scope
from bosal_server.security.errors import KeyExpired, KeyInvalid, KeyMissing

_KEY: Final = re.compile(r"bosal_([0-9a-f]{12})_([0-9a-f]{64})")
# Compared with when the id is unknown, so that an answer takes as long as for a known one.
_NOBODY: Final = bytes(32)
_FIELDS: Final = {
    "id", "name", "sha256", "scopes", "max_choices", "tokens_per_minute", "max_priority",
    "created", "expires",
}  # fmt: skip
_MAX_FILE_BYTES: Final = 16 * 1024 * 1024
# A float, which a quota is counted in, still tells it from its neighbours.
MAX_COUNT: Final = 2**53
_MAX_KEY_CHARACTERS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as the file holds it."""

    id: str
    name: str
    sha256: bytes
    scopes: frozenset[Scope]
    max_choices: int | None = None
    tokens_per_minute: int | None = None
    max_priority: Priority = Priority.NORMAL
    created: datetime
    expires: datetime | None = None

    def document(self) -> dict[str, Any]:
        """Return the entry of the file."""
        entry: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "sha256": self.sha256.hex(),
            "scopes": sorted(self.scopes),
            "max_priority": self.max_priority.name.lower(),
            "created": self.created.isoformat(),
        }
        if self.max_choices is not None:
            entry["max_choices"] = self.max_choices
        if self.tokens_per_minute is not None:
            entry["tokens_per_minute"] = self.tokens_per_minute
        if self.expires is not None:
            entry["expires"] = self.expires.isoformat()
        return entry

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> "ApiKey":
        """Read an entry of the file.

        Raises:
            ValueError: says what is wrong.
        """
        unknown = set(entry) - _FIELDS
        if unknown:
            raise ValueError(f"unknown field '{min(unknown)}'")
        try:
            key = cls(
                id=entry["id"],
                name=entry["name"],
                sha256=bytes.fromhex(entry["sha256"]),
                scopes=frozenset(map(Scope, entry["scopes"])),
                max_choices=_count(entry, "max_choices"),
                tokens_per_minute=_count(entry, "tokens_per_minute"),
                max_priority=Priority[entry.get("max_priority", "normal").upper()],
                created=_moment(entry["created"]),
                expires=_moment(entry["expires"]) if "expires" in entry else None,
            )
        except KeyError as error:
            raise ValueError(f"no or a wrong {error}") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a value of the wrong type: {error}") from None
        if not isinstance(key.id, str) or not isinstance(key.name, str):
            raise ValueError("a value of the wrong type: id or name is no text")
        if not re.fullmatch(r"[0-9a-f]{12}", key.id) or len(key.sha256) != 32:
            raise ValueError("id or sha256 is not what `bosal keys create` writes")
        return key


def make_key(
    name: str,
    scopes: Iterable[Scope],
    *,
    max_choices: int | None = None,
    tokens_per_minute: int | None = None,
    max_priority: Priority = Priority.NORMAL,
    expires: datetime | None = None,
) -> tuple[str, ApiKey]:
    """Return a new key's text, which is nowhere else, and its entry."""
    identity, secret = secrets.token_hex(6), secrets.token_hex(32)
    entry = ApiKey(
        id=identity,
        name=name,
        sha256=_digest(secret),
        scopes=frozenset(scopes),
        max_choices=max_choices,
        tokens_per_minute=tokens_per_minute,
        max_priority=max_priority,
        created=datetime.now(UTC).replace(microsecond=0),
        expires=expires,
    )
    return f"bosal_{identity}_{secret}", entry


class KeyRing:
    """The keys of a server; immutable, so a reload swaps one for another between two calls."""

    def __init__(self, keys: Iterable[ApiKey], *, salt: bytes) -> None:
        """`salt` is the process's own secret: a key's cache cannot be guessed from its id."""
        self._keys = {key.id: key for key in keys}
        self._callers = {
            key.id: Caller(
                key_id=key.id,
                name=key.name,
                scopes=key.scopes,
                cache_salt=hmac.digest(salt, key.id.encode(), "sha256"),
                max_choices=key.max_choices,
                tokens_per_minute=key.tokens_per_minute,
                max_priority=key.max_priority,
            )
            for key in self._keys.values()
        }

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def caller(self, presented: str, now: datetime) -> Caller:
        """Return whom a key stands for.

        Raises:
            KeyMissing: nothing was presented.
            KeyInvalid: it is no key of this server.
            KeyExpired: it was one.
        """
        if not presented:
            raise KeyMissing
        match = _KEY.fullmatch(presented[:_MAX_KEY_CHARACTERS])
        identity, secret = match.groups() if match else ("", "")
        key = self._keys.get(identity)
        expected = _NOBODY if key is None else key.sha256
        if not hmac.compare_digest(_digest(secret), expected) or key is None:
            raise KeyInvalid
        self.check(identity, now)
        return self._callers[identity]

    def check(self, identity: str, now: datetime) -> None:
        """Raise KeyInvalid or KeyExpired unless a key of this id is in force."""
        key = self._keys.get(identity)
        if key is None:
            raise KeyInvalid
        if key.expires is not None and now >= key.expires:
            raise KeyExpired(key.name)


def load_keys(path: Path) -> list[ApiKey]:
    """Read a key file.

    Raises:
        InvalidConfig: it cannot be read, holds what it may not, or others could write it.
    """
    try:
        status = path.stat()
        if stat.S_IMODE(status.st_mode) & stat.S_IWOTH:
            raise InvalidConfig(f"{path}: everybody may write this file; chmod o-w it")
        if status.st_size > _MAX_FILE_BYTES:
            raise InvalidConfig(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path}: not JSON: {error}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise InvalidConfig(f"{path}: there is no list 'keys'")
    if len(document) > 1:
        raise InvalidConfig(f"{path}: unknown field '{min(set(document) - {'keys'})}'")
    keys: dict[str, ApiKey] = {}
    for index, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise ValueError("not an object")
            key = ApiKey.parse(entry)
        except ValueError as error:
            raise InvalidConfig(f"{path}: keys[{index}]: {error}") from None
        if key.id in keys:
            raise InvalidConfig(f"{path}: keys[{index}]: the id {key.id} is there twice")
        keys[key.id] = key
    return list(keys.values())


def save_keys(path: Path, keys: Iterable[ApiKey]) -> None:
    """Replace a key file in one move; of a link, the file it leads to.

    A new file is its owner's alone. One that is there keeps owner and mode, so that the server,
    which is another user's, goes on reading it.

    Raises:
        OSError: it cannot be written, or not as its owner's; it is as it was.
    """
    path = path.resolve()
    text = json.dumps({"keys": [key.document() for key in keys]}, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            if path.exists():
                _hand_over(file.fileno(), path.stat())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _hand_over(file: int, like: os.stat_result) -> None:
    """Give a file, made readable by its maker alone, the owner and mode of another."""
    mine = os.fstat(file)
    if (mine.st_uid, mine.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(file, like.st_uid, like.st_gid)
    os.fchmod(file, stat.S_IMODE(like.st_mode))


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; of a name that is there twice only one would count."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field '{twice}' is there twice")
    return dict(pairs)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _count(entry: Mapping[str, Any], name: str) -> int | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        raise ValueError(f"{name} must be a whole number from 1 to {MAX_COUNT}")
    return value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"'{text}' says no time zone")
    return moment
