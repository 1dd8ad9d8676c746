"""The command `bosal` against a server of the tests: in this process, or in one of its own."""

import subprocess
import sys
from collections.abc import Mapping

from tests.live_server import LiveServer, environment
from typer.testing import CliRunner

from bosal_client.cli import application


def run_here(
    *arguments: str, variables: Mapping[str, str], stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run a command here: a process for each would spend its time on imports."""
    ended = CliRunner().invoke(
        application(), arguments, input=stdin, env=variables, prog_name="bosal"
    )
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout, ended.stderr)


def bosal(
    server: LiveServer, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run a command here, against a server."""
    variables = {"BOSAL_SERVER": server.address, "COLUMNS": "100"}
    return run_here(*arguments, variables=variables, stdin=stdin)


def bosal_process(
    server: LiveServer, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does."""
    ended = subprocess.run(
        [sys.executable, "-m", "bosal_client", *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        env=environment(BOSAL_SERVER=server.address, COLUMNS="100"),
    )
    return subprocess.CompletedProcess(
        ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
    )
