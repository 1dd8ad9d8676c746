"""Keys: what the file holds, whom a key stands for, and what is refused by name."""

import hashlib
import hmac
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bosal_server.config import InvalidConfig
from bosal_server.security import keys as keys_module
from bosal_server.security.caller import Caller, Priority, Scope, acting_as, current_caller
from bosal_server.security.errors import KeyExpired, KeyInvalid, KeyMissing
from bosal_server.security.keys import KeyRing, load_keys, make_key, save_keys

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SALT = bytes(range(32))


def test_a_key_is_found_by_its_text_alone() -> None:
    text, entry = make_key("alice", [Scope.GENERATE], tokens_per_minute=7)
    other_text, other = make_key("bob", [Scope.RECIPES])
    ring = KeyRing([entry, other], salt=SALT)
    caller = ring.caller(text, NOW)
    assert (caller.name, caller.scopes, caller.tokens_per_minute) == (
        "alice",
        frozenset({Scope.GENERATE}),
        7,
    )
    assert ring.caller(other_text, NOW).name == "bob"


def test_the_file_holds_the_hash_and_not_the_key(tmp_path: Path) -> None:
    text, entry = make_key("alice", [Scope.GENERATE, Scope.RECIPES])
    file = tmp_path / "keys.json"
    save_keys(file, [entry])
    secret = text.split("_")[2]
    assert secret not in file.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_keys(file) == [entry]
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


def test_a_wrong_key_is_refused_in_every_form() -> None:
    text, entry = make_key("alice", [Scope.GENERATE])
    ring = KeyRing([entry], salt=SALT)
    last = "0" if text[-1] != "0" else "1"
    for wrong in (
        text[:-1] + last,
        text[:-1],
        text + "0",
        text.upper(),
        f"bosal_{'0' * 12}_{text.split('_')[2]}",
        "x",
        "x" * 1_000_000,
        "bosal__",
    ):
        with pytest.raises(KeyInvalid):
            ring.caller(wrong, NOW)
    with pytest.raises(KeyMissing):
        ring.caller("", NOW)


def test_every_refusal_compares_whole_hashes_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text, entry = make_key("alice", [Scope.GENERATE])
    ring = KeyRing([entry], salt=SALT)
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(
        keys_module, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare)})
    )
    for presented in (f"bosal_{entry.id}_{'0' * 64}", f"bosal_{'0' * 12}_{'0' * 64}", "nonsense"):
        with pytest.raises(KeyInvalid):
            ring.caller(presented, NOW)
    ring.caller(text, NOW)
    assert compared == [(32, 32)] * 4


def test_a_key_ends_when_it_says() -> None:
    text, entry = make_key("alice", [Scope.GENERATE], expires=NOW)
    ring = KeyRing([entry], salt=SALT)
    assert ring.caller(text, NOW - timedelta(seconds=1)).name == "alice"
    with pytest.raises(KeyExpired):
        ring.caller(text, NOW)


def test_a_key_that_is_gone_is_noticed_by_who_asks_again() -> None:
    _, entry = make_key("alice", [Scope.GENERATE], expires=NOW)
    KeyRing([entry], salt=SALT).check(entry.id, NOW - timedelta(seconds=1))
    with pytest.raises(KeyExpired):
        KeyRing([entry], salt=SALT).check(entry.id, NOW)
    with pytest.raises(KeyInvalid):
        KeyRing([], salt=SALT).check(entry.id, NOW)


def test_nobody_signs_with_anothers_name() -> None:
    assert acting_as("me") == "me"
    token = current_caller.set(Caller(key_id="0" * 12, name="alice"))
    try:
        assert [acting_as(claimed) for claimed in ("", "alice", "server")] == [
            "alice",
            "alice",
            "alice (server)",
        ]
    finally:
        current_caller.reset(token)


def test_each_key_has_a_cache_of_its_own_that_its_id_does_not_tell() -> None:
    (text, one), (other_text, two) = (make_key(name, [Scope.GENERATE]) for name in "ab")
    ring = KeyRing([one, two], salt=SALT)
    salts = {ring.caller(key, NOW).cache_salt for key in (text, other_text)}
    assert len(salts) == 2
    assert b"" not in salts
    again = KeyRing([one], salt=bytes(32))
    assert again.caller(text, NOW).cache_salt not in salts


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"scope": []}, "unknown field 'scope'"),
        ({"scopes": ["everything"]}, "everything"),
        ({"sha256": "zz"}, "hex"),
        ({"sha256": "00"}, "sha256"),
        ({"id": "../../etc"}, "id"),
        ({"max_choices": 0}, "max_choices"),
        ({"max_choices": True}, "max_choices"),
        ({"max_choices": 10**400}, "max_choices"),
        ({"scopes": ["admin"]}, "admin"),
        ({"tokens_per_minute": "many"}, "tokens_per_minute"),
        ({"max_priority": "highest"}, "HIGHEST"),
        ({"expires": "2026-01-01"}, "time zone"),
        ({"created": 3}, "type"),
        ({"id": 3}, "type"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    _, key = make_key("alice", [Scope.GENERATE])
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.document(), key.document() | entry]}))
    with pytest.raises(InvalidConfig) as failure:
        load_keys(file)
    assert "keys[1]" in str(failure.value)
    assert message in str(failure.value)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, key = make_key("alice", [Scope.GENERATE])
    for text, message in (
        ("{", "not JSON"),
        ("[]", "no list 'keys'"),
        (json.dumps({"keys": [3]}), "not an object"),
        (json.dumps({"keys": [key.document()] * 2}), "twice"),
        (json.dumps({"keys": [key.document()], "key": []}), "unknown field 'key'"),
        ('{"keys": [], "keys": []}', "'keys' is there twice"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidConfig, match=message):
            load_keys(file)
    file.chmod(0o666)
    with pytest.raises(InvalidConfig, match="everybody may write"):
        load_keys(file)


def test_priorities_have_an_order() -> None:
    assert Priority.LOW < Priority.NORMAL < Priority.HIGH
