"""What the store knows of users."""

import stat
from contextlib import closing
from pathlib import Path

import pytest

from bosal_server.config import InvalidConfig
from bosal_server.database import Database
from bosal_server.experiments.privacy import Pseudonyms, exposure_id


def test_a_key_is_made_once_and_is_nobody_elses(tmp_path: Path) -> None:
    file = tmp_path / "units.key"
    first, second = Pseudonyms.load(file), Pseudonyms.load(file)
    assert first.unit("exp", "me") == second.unit("exp", "me")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Pseudonyms.load(tmp_path / "other.key").unit("exp", "me") != first.unit("exp", "me")


def test_servers_of_one_database_share_one_key(database: Database, tmp_path: Path) -> None:
    first = Pseudonyms.open(database, tmp_path / "units.key")
    assert Pseudonyms.open(database, tmp_path / "units.key").unit("e", "u") == first.unit("e", "u")
    with pytest.raises(InvalidConfig, match="--unit-key"):
        Pseudonyms.open(database, tmp_path / "other.key")


def test_the_key_lies_beside_the_database(tmp_path: Path) -> None:
    with closing(Database.open(str(tmp_path / "bosal.db"))) as database:
        Pseudonyms.open(database, None)
    assert (tmp_path / "units.key").exists()


def test_a_temporary_database_has_a_temporary_key() -> None:
    with closing(Database.open("temporary")) as database:
        one, other = (Pseudonyms.open(database, None) for _ in range(2))
        assert one.unit("e", "u") != other.unit("e", "u")


def test_a_unit_is_another_in_every_experiment() -> None:
    names = Pseudonyms(bytes(32))
    assert len({names.unit("a", "bc"), names.unit("ab", "c"), names.text("a", "bc")}) == 3
    assert b"bc" not in names.unit("a", "bc")


@pytest.mark.parametrize("content", ["short", "zz" * 32, "ab" * 8, "ü"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "units.key"
    file.write_text(content)
    with pytest.raises(InvalidConfig, match=r"units\.key"):
        Pseudonyms.load(file)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="No such file"):
        Pseudonyms.load(tmp_path / "missing" / "units.key")


def test_a_request_is_one_exposure() -> None:
    assert exposure_id("e", 1, b"u", "r") == exposure_id("e", 1, b"u", "r")
    others = [("f", 1, b"u", "r"), ("e", 2, b"u", "r"), ("e", 1, b"v", "r"), ("e", 1, b"u", "s")]
    assert len({exposure_id("e", 1, b"u", "r"), *(exposure_id(*one) for one in others)}) == 5
