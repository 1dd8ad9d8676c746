"""`bosal demo-ab` as a user runs it."""

from pathlib import Path

import pytest
from tests.clients.command import run_here

from bosal_server import demo_ab


def test_a_page_that_cannot_be_written_is_refused_by_its_flag_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_ab, "serving", None)
    ended = run_here("demo-ab", "--users=2", f"--html={tmp_path}/no/page.html", variables={})
    assert ended.returncode == 2, ended.stderr
    assert "--html" in ended.stderr


def test_it_says_how_far_it_is_where_no_terminal_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_ab, "_TELL_EVERY_SECONDS", 0.05)
    page = tmp_path / "page.html"
    ended = run_here("demo-ab", "--users=3", f"--html={page}", variables={"COLUMNS": "100"})
    assert ended.returncode == 0, ended.stderr
    told = ended.stderr.splitlines()
    assert told[0] == "starting a server"
    assert "0 of 3 users have been served" in told
    assert told[-2] == "3 of 3 users have been served"
    assert told[-1].endswith("run again for the shadow variant")
    assert "brevity" in ended.stdout
    assert "users have been" not in ended.stdout
    assert "<html" in page.read_text("utf-8")
