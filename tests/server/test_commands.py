"""`serve` and `demo` as an operator runs them."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.clients.command import run_here
from tests.live_server import environment

from bosal_server import commands
from bosal_server.config import ServerConfig


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bosal_server", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(OMP_NUM_THREADS="1", COLUMNS="140", **variables),
    )


def test_help_costs_no_heavy_import() -> None:
    program = (
        "import sys; import bosal_server.commands; "
        "print([name for name in ('torch', 'transformers', 'pydantic') if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
    )
    assert output.stdout.strip() == "[]", output.stderr


def test_every_option_has_a_variable() -> None:
    shown = run_here("serve", "--help", variables={"COLUMNS": "140"}).stdout
    assert "Examples" in shown
    flags = re.findall(r"--([a-z][a-z-]+) ", shown)
    # `--check` ends the command; it configures nothing.
    options = {flag for flag in flags if not flag.startswith("no-")} - {"help", "check"}
    # An option that may be repeated is one variable, in the plural.
    repeated = {flag: f"{flag}s" for flag in ("model", "python-type", "shared-scaffold")}
    options = {repeated.get(flag, flag) for flag in options}
    variables = set(re.findall(r"BOSAL_([A-Z_]+)", shown))
    assert {option.replace("-", "_").upper() for option in options} == variables


def test_the_help_states_the_defaults() -> None:
    shown = run_here("serve", "--help", variables={"COLUMNS": "140"}).stdout
    config = ServerConfig()
    for value in (config.host, config.port, config.metrics_port, config.max_running):
        assert f"[default: {value}]" in shown


def test_a_missing_package_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['torch'] = None; "
        "sys.argv = ['bosal', 'serve']; import bosal_server.__main__"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: `bosal serve` needs packages that are not installed (torch): "
        "pip install 'bosal[server]'\n"
    )


@pytest.mark.parametrize("command", ["demo", "demo-ab"])
def test_a_demo_without_the_servers_packages_says_what_to_install_and_begins_nothing(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    ended = run_here(command, variables={})
    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: `bosal {command}` needs packages that are not installed (torch): "
        "pip install 'bosal[server]'\n"
    )


def test_what_cannot_be_opened_is_said_before_anything_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bosal_server.main", None)
    ended = run_here("serve", "--host=0.0.0.0", variables={})
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: 0.0.0.0 can be reached by other machines")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_here("serve", f"--port={port}", variables={})
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: cannot listen at 127.0.0.1:{port}: ")


def test_a_wrong_option_is_refused() -> None:
    for arguments, message in (
        (("--port=99999",), "65535"),
        (("--max-waiting=0",), "--max-waiting"),
        (("--recipes=/no/such/folder",), "/no/such/folder"),
        (("--model=a=x", "--model=a=y"), "'a'"),
        (("--log-level=loud",), "loud"),
    ):
        ended = run_here("serve", *arguments, variables={})
        assert ended.returncode == 2, arguments
        assert message in ended.stderr


def test_options_come_from_the_environment_too() -> None:
    ended = run_here("serve", variables={"BOSAL_MODELS": "a=x a=y"})
    assert ended.returncode == 2
    assert "two models are called 'a'" in ended.stderr


def test_the_demo_shows_both_and_stops_its_server(tiny_model: Path) -> None:
    ended = run("demo", f"--model=tiny={tiny_model}", "--recipe=rules", "--max-tokens=12")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == "starting a server\n"
    for recipe in ("plain", "rules"):
        figures = rf"^--- {recipe}: first token \d+ ms, \d+ tokens/s, \d+ tokens$"
        assert len(re.findall(figures, ended.stdout, re.MULTILINE)) == 3
    address = re.match(r"a server is ready at (\S+)", ended.stdout)
    assert address is not None
    assert not _listens(int(address[1].rpartition(":")[2]))


def test_a_demo_that_fails_says_so() -> None:
    ended = run("demo", "--model=a=x", "--model=a=y")
    assert ended.returncode == 1
    assert "two models are called 'a'" in ended.stderr
    assert "error: the server did not start" in ended.stderr
    assert "Traceback" not in ended.stderr


def _listens(port: int) -> bool:
    table = Path("/proc/net/tcp")
    if not table.exists():
        return False
    lines = table.read_text().splitlines()[1:]
    return any(
        fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in map(str.split, lines)
    )
