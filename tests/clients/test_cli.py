"""The command `bosal` as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text
from tests.clients.command import bosal, bosal_process, run_here
from tests.live_server import LiveServer, environment, eventually
from typer.testing import CliRunner

from bosal_client import Client, InvalidRequest, cli, render
from bosal_client.cli import application
from bosal_client.command_help import flowing
from bosal_client.replay import Difference, InvalidRecord, Record, Replay

ENDLESS = ("--set", 'logit_bias.ids={"0":-1000}')


def test_generate_prints_the_text(server: LiveServer) -> None:
    options = ("Hello", "--max-tokens=12", "--seed=5")
    shown = bosal_process(server, "generate", *options)
    recorded = json.loads(bosal(server, "generate", *options, "--json").stdout)
    assert shown.returncode == 0
    assert shown.stderr == ""
    assert shown.stdout.rstrip("\n") == recorded["choices"][0]["text"].rstrip("\n")


def test_generate_reads_standard_input(server: LiveServer) -> None:
    options = ("--max-tokens=8", "--seed=5", "--json")
    argument = bosal(server, "generate", "Grüße 🙂", *options)
    piped = bosal_process(server, "generate", *options, stdin="Grüße 🙂\n".encode())
    dashed = bosal(server, "generate", "-", *options, stdin="Grüße 🙂".encode())
    expected = json.loads(argument.stdout)["choices"]
    assert json.loads(piped.stdout)["choices"] == expected
    assert json.loads(dashed.stdout)["choices"] == expected


def test_json_holds_request_and_result(server: LiveServer) -> None:
    options = ("--max-tokens=4", "--n=2", "--logprobs=1", "--seed=9", "--recipe=rules")
    record = json.loads(bosal(server, "generate", "Hello", *options, "--json").stdout)
    assert record["request"] == {"prompt": "Hello", "logprobs": 1}
    assert record["started"]["seed"] == 9
    assert record["started"]["recipe"]["rules"]
    assert [choice["index"] for choice in record["choices"]] == [0, 1]
    first = record["choices"][0]
    assert len(first["logprobs"]["raw"]) == len(first["token_ids"])
    assert record["timings"]["total"] > 0


def test_set_overrides_a_rule(server: LiveServer) -> None:
    options = ("--set", "top_k.k=1", "--set", 'stop_strings.values=["zz"]', "--max-tokens=2")
    record = json.loads(bosal(server, "generate", "Hello", *options, "--json").stdout)
    assert record["started"]["recipe"]["rules"] == [
        {"rule": "top_k", "k": 1},
        {"rule": "stop_strings", "values": ["zz"]},
    ]


def test_several_answers_are_told_apart(server: LiveServer) -> None:
    shown = bosal(server, "generate", "Hello", "-n", "2", "--max-tokens=3", *ENDLESS)
    assert shown.stdout.startswith("--- 0 (max_tokens)\n")
    assert "\n--- 1 (max_tokens)\n" in shown.stdout


def test_lists_are_tab_separated_in_a_pipe(server: LiveServer) -> None:
    recipes = [line.split("\t") for line in bosal(server, "recipes").stdout.splitlines()]
    names = [row[0] for row in recipes]
    assert {"in-context", "plain", "rules", "steered"} <= set(names)
    assert names == sorted(names)
    assert [row[0] for row in recipes if row[2] == "default"] == ["plain"]
    lines = [line.split("\t") for line in bosal(server, "rules").stdout.splitlines()]
    sources = {line[0]: line[-1] for line in lines}
    assert "Hewitt et al. 2024" in sources["eos_ramp"]
    assert all(sources.values())
    assert "did you mean 'top_p'?" in bosal(server, "rules", "top_pp").stderr
    (model,) = bosal(server, "models").stdout.splitlines()
    assert model.startswith("tiny\tdefault\tLlamaForCausalLM\t")


def test_a_shown_recipe_is_a_document_a_server_takes(server: LiveServer, tmp_path: Path) -> None:
    from bosal_decoding.recipe import load_folder, load_shipped

    for name in load_shipped():
        shown = bosal(server, "recipes", "show", name)
        (tmp_path / f"{name}.yaml").write_text(shown.stdout, "utf-8")
    assert load_folder(tmp_path) == load_shipped()


def test_lists_as_json(server: LiveServer) -> None:
    assert json.loads(bosal(server, "models", "--json").stdout)[0]["name"] == "tiny"
    assert json.loads(bosal(server, "recipes", "--json").stdout)[0]["name"] == "contrastive"
    every = json.loads(bosal(server, "rules", "--json").stdout)
    assert {"top_p", "eos_ramp"} <= {one["name"] for one in every}
    assert all(one["source"] and one["params_schema"] for one in every)
    rule = json.loads(bosal(server, "rules", "top_p", "--json").stdout)
    assert rule["name"] == "top_p"
    assert rule["params_schema"]["properties"]["p"]


def test_a_rule_is_explained(server: LiveServer) -> None:
    shown = bosal(server, "rules", "eos_ramp").stdout
    assert shown.startswith("eos_ramp\n")
    assert "weight: number" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("generate", "Hi", "--recipe=steerd"), 2, "did you mean 'steered'?"),
        (("generate", "Hi", "--model=tin"), 2, "did you mean 'tiny'?"),
        (("generate", "Hi", "--max-tokens=600"), 2, "context of 512"),
        (("generate", ""), 2, "error: instruction: there is nothing to answer\n"),
        (("generate", "Hi", "--set", "top_p.p=2"), 2, "overrides[0].p"),
        (("generate", "Hi", "--set", "top_p=2"), 2, "RULE.PARAM=VALUE"),
        (("generate", "Hi", "--frobnicate"), 2, "--frobnicate"),
        (("generate", "Hi", "--seed=x"), 2, "seed"),
        (("generate", "Hi", "--timeout=0.001"), 124, "error: "),
        (("generate", "Hi", "--python-type="), 2, "python_type"),
        (("generate", "Hi", "--logprobs=2"), 2, "--logprobs: only --json and --batch"),
        (("generate", "Hi", "--concurrency=2"), 2, "--concurrency: it is for --batch"),
        (("generate", "Hi", "--schema=."), 2, "--schema"),
        (("recipes", "show", "plane"), 2, "did you mean 'plain'?"),
        (("recipes", "lint", "no-such-file.yaml"), 2, "no-such-file.yaml"),
        (("recipes", "archive", "plain"), 2, "read-only"),
        (("generate", "Hi", "--recipe=./no-such-file.yaml"), 2, "no-such-file.yaml"),
        (("rules", "no_such_rule"), 2, "eos_ramp"),
        (("models", "--server=127.0.0.1:1"), 69, "bosal serve"),
        (("replay", "no-such-file.json"), 2, "no-such-file.json"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_a_mistake_is_one_friendly_message_and_an_exit_code(
    server: LiveServer, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ended = bosal(server, *arguments)
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_input_that_is_not_utf8_is_refused(server: LiveServer) -> None:
    ended = bosal_process(server, "generate", stdin=b"ab\xff")
    assert ended.returncode == 2
    assert "not UTF-8 (byte 2)" in ended.stderr


def test_every_command_explains_itself(server: LiveServer) -> None:
    for command in ("generate", "recipes", "rules", "models", "replay"):
        shown = bosal(server, command, "--help")
        assert shown.returncode == 0
        assert "Examples" in shown.stdout
        assert f"bosal {command}" in shown.stdout


def test_a_command_whose_package_is_missing_says_so_whatever_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bosal_server.top_command", None)
    ended = run_here("top", "--once", "and more", variables={"COLUMNS": "100"})
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: `bosal top` needs packages that are not installed (bosal_server.top_command): "
        "pip install 'bosal[server]'\n"
    )
    listed = run_here("--help", variables={"COLUMNS": "100"}).stdout
    assert "pip install 'bosal[server]'" in listed


def test_an_interrupt_before_the_command_begins_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "application", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130


def test_paragraphs_of_help_flow() -> None:
    text = "Ask.\n\nOne line\nand its end.\n\n  an example\n\n  another\n"
    shown = Text.from_markup(flowing(text)).plain
    assert shown == "Ask.\n\nOne line and its end.\n\n  an example\n  another\n"
    assert flowing(flowing(text)) == flowing(text)
    shown = CliRunner().invoke(application(), ["serve", "--help"], env={"COLUMNS": "400"}).output
    assert "by its environment variable, and by its name in bosal.toml; a flag comes" in shown


def test_examples_are_indented_lines_below_each_other() -> None:
    for command in (["generate"], ["explain"], ["models"], ["recipes"], ["serve"]):
        shown = CliRunner().invoke(application(), [*command, "--help"], env={"COLUMNS": "120"})
        lines = [line.rstrip() for line in shown.output.splitlines()]
        first = lines.index(" Examples") + 2
        examples = lines[first : lines.index("", first)]
        assert len(examples) >= 2, command
        assert all(line.startswith("   ") and "bosal " in line for line in examples), examples


def test_interrupting_cancels_the_call(server: LiveServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bosal_client", "generate", "Hi", "--max-tokens=480", *ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(BOSAL_SERVER=server.address),
    )
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert eventually(lambda: server.metric("bosal_running_groups") == 0)


def test_a_closed_pipe_is_no_error(server: LiveServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bosal_client", "generate", "Hi", "--max-tokens=480", *ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(BOSAL_SERVER=server.address),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == -signal.SIGPIPE
    assert eventually(lambda: server.metric("bosal_running_groups") == 0)


def test_a_record_is_replayed(server: LiveServer, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    options = ("--max-tokens=24", "-n", "2", "--logprobs=0", "--recipe=rules")
    record.write_text(bosal(server, "generate", "Hello", *options, "--json").stdout, "utf-8")
    replayed = bosal(server, "replay", str(record))
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout.startswith("equal: ")
    assert replayed.stderr == ""

    piped = bosal(server, "replay", "-", stdin=record.read_bytes())
    assert piped.stdout == replayed.stdout


def test_a_record_of_another_server_is_told_apart(server: LiveServer, tmp_path: Path) -> None:
    content = json.loads(
        bosal(server, "generate", "Hello", "--max-tokens=9", "--json", *ENDLESS).stdout
    )
    content["started"]["model_digest"] = "0123"
    content["started"]["versions"]["torch"] = "1.0"
    was = content["choices"][0]["token_ids"][4]
    content["choices"][0]["token_ids"][4] = was + 1
    record = tmp_path / "record.json"
    record.write_text(json.dumps(content), "utf-8")
    replayed = bosal(server, "replay", str(record))
    assert replayed.returncode == 1
    assert replayed.stdout == (
        f"different: choice 0, position 4: was token {was + 1}, is token {was}\n"
    )
    assert "warning: model_digest was 0123" in replayed.stderr
    assert "warning: version of torch was 1.0" in replayed.stderr


def test_what_is_no_record_is_refused(server: LiveServer, tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    record.write_text('{"request": {}}')
    ended = bosal(server, "replay", str(record))
    assert ended.returncode == 2
    assert "not a record" in ended.stderr


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"request": {"prompt": "", "logprobs": null}}',
        b'{"request": {"prompt": "x", "logprobs": null}, "started": {}, "choices": []}',
        b'{"request": {"prompt": "x", "logprobs": null}, "started": [], "choices": []}',
        b'{"request": {"prompt": "x", "logprobs": null}, "started": {"model": "m", "recipe":'
        b' {"scaffold": 3}, "seed": -1, "max_tokens": -4, "num_choices": 1}, "choices": []}',
    ],
)
def test_only_a_record_is_a_record(content: bytes) -> None:
    with pytest.raises(InvalidRecord, match="not a record"):
        Record.parse(content)


def test_a_record_with_fewer_choices_differs_where_they_end() -> None:
    generation: Any = SimpleNamespace(
        choices=[SimpleNamespace(token_ids=(1, 2)), SimpleNamespace(token_ids=(3,))]
    )
    record = Record(prompt="x", logprobs=None, started={}, token_ids=((1, 2),))
    assert Replay(record=record, generation=generation).difference() == Difference(
        choice=1, position=0, recorded=None, replayed=3
    )


def test_the_version_is_told() -> None:
    told = CliRunner().invoke(application(), ["--version"])
    assert told.exit_code == 0
    assert told.output == f"bosal {version('bosal')}\n"


def test_an_experiment_serves_a_unit_its_variant_and_says_which(
    server: LiveServer,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variants = [
        {"key": "control", "recipe": "plain", "weight": 0.5, "control": True},
        {"key": "ruled", "recipe": "rules", "weight": 0.5},
    ]
    liked = {"name": "liked", "kind": "proportion", "direction": "increase", "role": "primary"}
    client.experiments.create({"name": "asked", "variants": variants, "metrics": [liked]})
    with pytest.raises(InvalidRequest) as failure:
        client.experiments.start("asked", acknowledged_guardrails=["slow"])
    assert failure.value.field == "acknowledged_guardrails[0]"
    client.experiments.start("asked")
    served = client.experiments.assign("asked", "user-17").variant
    options = ["--experiment=asked", "--unit=user-17", "--max-tokens=2", "--json"]
    shown = CliRunner().invoke(
        application(), ["generate", "Hi", *options], env={"BOSAL_SERVER": server.address}
    )
    assert shown.exit_code == 0, shown.output
    assignment = json.loads(shown.stdout)["started"]["assignment"]
    assert (assignment["variant"], assignment["reason"]) == (served, "assigned")
    assert assignment["exposure_id"]
    client.experiments.pause("asked")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    render.footer(client.generate("Hi", experiment="asked", unit="user-17", max_tokens=2))
    assert "asked: control (paused)" in " ".join(capsys.readouterr().err.split())
    client.experiments.stop("asked")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--unit=u"], "--unit"),
        (["--experiment=e"], "--unit"),
        (["--experiment=e", "--unit=u", "--recipe=plain"], "--recipe"),
        (["--experiment=e", "--unit=u", "--set=top_k.k=1"], "--set"),
    ],
)
def test_half_an_experiment_is_refused(options: list[str], hint: str) -> None:
    refused = CliRunner().invoke(application(), ["generate", "Hi", *options])
    assert refused.exit_code == 2
    assert hint in refused.output
