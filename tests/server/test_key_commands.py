"""`bosal keys`: what it makes of a file that others read, write or link to."""

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from typer.testing import CliRunner

from bosal_server.key_commands import keys
from bosal_server.security.caller import Scope
from bosal_server.security.keys import ApiKey, KeyRing, load_keys, make_key, save_keys


def run(*arguments: str, file: Path, code: int = 0) -> str:
    outcome = CliRunner().invoke(keys, [*arguments, f"--key-file={file}"], env={"COLUMNS": "300"})
    assert outcome.exit_code == code, outcome.output
    assert outcome.exception is None or isinstance(outcome.exception, SystemExit)
    return click.unstyle(outcome.output).strip()


def names(file: Path) -> list[str]:
    return [key.name for key in load_keys(file)]


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "new" / "keys.json"
    text = run("create", "alice", "--scope=recipes", "--max-choices=3", "--expires=2d", file=file)
    (entry,) = load_keys(file)
    now = datetime.now(UTC)
    assert KeyRing([entry], salt=b"").caller(text, now).name == "alice"
    assert entry.expires is not None
    assert 47 < (entry.expires - now).total_seconds() / 3600 <= 48
    listed = run("list", file=file)
    assert listed.startswith(f"{entry.id}  alice  recipes, 3 choices, made ")
    assert text.split("_")[2] not in listed
    run("revoke", entry.id, file=file)
    assert names(file) == []
    assert "holds no key" in run("revoke", entry.id, file=file, code=2)


def test_a_key_whose_time_is_over_is_listed_as_such(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, old = make_key("old", [Scope.GENERATE], expires=datetime(2020, 1, 1, tzinfo=UTC))
    save_keys(file, [old])
    assert "EXPIRED 2020-01-01" in run("list", file=file)


def test_a_link_stays_and_what_it_leads_to_is_changed(tmp_path: Path) -> None:
    """Or a key would be revoked in one file and go on in the one that the server reads."""
    file, link = tmp_path / "real" / "keys.json", tmp_path / "link.json"
    run("create", "alice", file=file)
    link.symlink_to(file)
    run("create", "bob", file=link)
    assert link.is_symlink()
    assert names(file) == ["alice", "bob"]
    run("revoke", load_keys(link)[0].id, file=link)
    assert names(file) == ["bob"]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".lock")] == []


def test_who_could_read_the_file_still_can(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run("create", "alice", file=file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    run("create", "bob", file=file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_the_file_stays_the_servers_own(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run("create", "alice", file=file)
    os.chown(file, 12_345, 54_321)
    run("create", "bob", file=file)
    assert (file.stat().st_uid, file.stat().st_gid) == (12_345, 54_321)


def test_a_file_that_cannot_be_written_is_named_and_no_key_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    output = run("create", "alice", file=tmp_path / "a-file" / "keys.json", code=2)
    assert "cannot write" in output
    assert "bosal_" not in output.replace("bosal_server", "")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "keys.json"
    run("create", "alice", file=file)
    monkeypatch.setattr(os, "fsync", full)
    output = run("create", "bob", file=file, code=2)
    assert "No space left on device" in output
    assert re.search(r"bosal_[0-9a-f]{12}_", output) is None
    assert names(file) == ["alice"]


def test_commands_at_once_lose_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    run("create", "first", file=file)

    def add(number: int) -> None:
        from bosal_server.key_commands import _changing

        with _changing(file) as entries:
            entries.append(make_key(f"key {number}", [Scope.GENERATE])[1])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(16)))
    assert len(names(file)) == 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", ""), "at most 64 printable characters"),
        (("create", "a\nb"), "at most 64 printable characters"),
        (("create", "x" * 65), "at most 64 printable characters"),
        (("create", "x", "--expires=5m"), "no span like"),
        (("create", "x", "--expires=0h"), "no span like"),
        (("create", "x", "--expires=9999999d"), "no span like"),
        (("create", "x", "--scope=admin"), "generate"),
        (("create", "x", "--max-priority=top"), "none of low, normal, high"),
        (("create", "x", "--max-choices=0"), "max-choices"),
        (("create", "x", f"--tokens-per-minute={10**40}"), "tokens-per-minute"),
    ],
)
def test_a_wrong_word_is_named_and_makes_no_file(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "keys.json"
    assert message in run(*arguments, file=file, code=2)
    assert not file.exists()


def test_entries_are_written_as_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    entry: ApiKey = make_key("Ünïcode 名", [Scope.RECIPES], max_choices=2, tokens_per_minute=2**53)[
        1
    ]
    save_keys(file, [entry])
    assert load_keys(file) == [entry]
