"""One configuration of three sources: which of them counts, and what is refused by name."""

import subprocess
import tomllib
from contextlib import chdir
from pathlib import Path

import pytest
from tests.clients.command import run_here

from bosal_server import config_reference
from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.config_file import read
from bosal_server.masking import without_password
from bosal_server.options import SETTINGS, check_variables
from bosal_server.settings import build

ROOT = Path(__file__).parents[2]


def show(folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    with chdir(folder):
        return run_here("config", "show", *options, variables={"COLUMNS": "300"} | variables)


def test_a_flag_counts_before_a_variable_before_the_file_before_the_default(
    tmp_path: Path,
) -> None:
    (tmp_path / "bosal.toml").write_text("port = 1\nmax_running = 1\nmax_waiting = 1\n")
    shown = show(tmp_path, "--port=3", BOSAL_PORT="2", BOSAL_MAX_RUNNING="2")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "# settings of bosal.toml"
    assert "port = 3  # flag" in lines
    assert "max_running = 2  # BOSAL_MAX_RUNNING" in lines
    assert "max_waiting = 1  # file" in lines
    assert f"max_batch_tokens = {ServerConfig().max_batch_tokens}" in lines


def test_what_is_shown_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    options = ("--model=a=x", "--model=b=./y z", "--trust-remote-code", "--drain-seconds=1.5")
    first = show(tmp_path, *options, "--log-level=debug")
    values = tomllib.loads(first.stdout)
    assert values["models"] == ["a=x", "b=./y z"]
    assert (values["trust_remote_code"], values["drain_seconds"]) == (True, 1.5)
    (tmp_path / "again.toml").write_text(first.stdout)
    second = show(tmp_path, "--config=again.toml")
    assert tomllib.loads(second.stdout) == values


def test_the_shown_configuration_holds_every_setting(tmp_path: Path) -> None:
    shown = show(tmp_path).stdout
    for one in SETTINGS:
        assert f"{one.name} = " in shown or f"# {one.name} is not set" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_runing = 3", "there is no setting 'max_runing'; did you mean 'max_running'?"),
        ("max-running = 3", "did you mean 'max_running'?"),
        ("nonsense = 3", "there is no setting 'nonsense'"),
        ('port = "50051"', "port: must be a whole number, not '50051'"),
        ("port = true", "port: must be a whole number, not true"),
        ("port = 50051.0", "port: must be a whole number, not 50051.0"),
        ("port = 70000", "port: is 70000; it must be at most 65535"),
        ("drain_seconds = nan", "drain_seconds: is nan; it must be at least 0"),
        ("trust_remote_code = 1", "trust_remote_code: must be true or false, not 1"),
        ("host = 1", "host: must be a text, not 1"),
        ('models = "a"', "models: must be a list of texts"),
        ("models = [1]", "models: must be a list of texts"),
        ('runner = "tensorrt"', "runner: must be one of auto, openvino, torch, not 'tensorrt'"),
        ('recipes = "/no/such"', "recipes: there is no folder '/no/such'"),
        ("[limits]\nmax_choices = 1", "there is no setting 'limits'"),
        ("port = ", "not TOML"),
        ("models = " + "[" * 5000, "not TOML"),
        ("drain_seconds = inf", "drain_seconds: is inf; it must be at most 86400"),
        ("max_request_bytes = 1_000_000_000", "it must be at most 67108864"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bosal.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig) as failure:
        read(file, SETTINGS)
    assert str(failure.value).startswith(f"{file}: ")
    assert message in str(failure.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    shown = show(tmp_path, "--config=none.toml")
    assert shown.returncode == 2
    assert "none.toml: No such file" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_no_number_is_infinite(tmp_path: Path) -> None:
    """The clocks of event loop and transport count in whole milliseconds."""
    for one in SETTINGS:
        if one.kind is float:
            assert one.minimum is not None, one.name
            assert one.maximum is not None, one.name
    shown = show(tmp_path, "--max-connection-idle-seconds=inf")
    assert shown.returncode == 2
    assert "--max-connection-idle-seconds" in shown.stderr


def test_a_misspelt_variable_is_refused_and_a_strange_one_is_not() -> None:
    check_variables({"BOSAL_PORT": "1", "BOSAL_SERVER": "x", "BOSAL_SERVICE_HOST": "10.0.0.1"})
    with pytest.raises(InvalidConfig, match="BOSAL_MAX_RUNING; did you mean BOSAL_MAX_RUNNING"):
        check_variables({"BOSAL_MAX_RUNING": "1"})


def test_defaults_are_the_dataclasses_own() -> None:
    assert build(ServerConfig, {}) == ServerConfig()
    defaults = {one.name: one.default for one in SETTINGS}
    assert build(ServerConfig, defaults) == ServerConfig()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bosal:geheim@db:5432/x?sslmode=require",
        "postgresql://:geheim@db/x",
        # What psycopg reads too, or nothing could: it is shown all the same.
        "postgresql://db/x?user=bosal&password=geheim&sslmode=require",
        "postgresql://bosal@db/x?sslmode=require&sslpassword=geheim",
        "postgresql://bosal:ge/heim@db/x",
        "postgresql://bosal:ge@geheim@db/x",
        "postgresql://[::1/bosal:geheim@x",
    ],
)
def test_passwords_of_urls_are_masked(url: str) -> None:
    shown = without_password(url)
    assert "geheim" not in shown
    assert "heim@" not in shown
    assert "********" in shown


def test_a_shown_configuration_has_no_password(tmp_path: Path) -> None:
    shown = show(tmp_path, "--database=postgresql://db/x?user=bosal&password=geheim")
    assert 'database = "postgresql://db/x?user=bosal&password=********"' in shown.stdout


def test_what_holds_no_password_is_shown_as_it_is() -> None:
    for text in ("bosal.db", "http://127.0.0.1:4317/v1", "postgresql://db:5432/x?sslmode=require"):
        assert without_password(text) == text


def test_the_page_of_settings_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == config_reference.reference(), "run `make docs`"
