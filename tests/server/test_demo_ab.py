"""`bosal demo-ab` as a user runs it."""

from pathlib import Path

from typer.testing import CliRunner

from bosal_client.cli import application


def test_a_page_that_cannot_be_written_is_refused_by_its_flag(tmp_path: Path) -> None:
    ended = CliRunner().invoke(
        application(), ["demo-ab", "--users=2", f"--html={tmp_path}/no/page.html"]
    )
    assert ended.exit_code == 2, ended.output
    assert "--html" in ended.output
