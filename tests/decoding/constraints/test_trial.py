"""The process that validates texts and tries constraints, and when it is killed."""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer

import pytest

from bosal_decoding.constraints import trial as trial_module
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.trial import TrialKilled, TrialProcess


def test_a_text_is_validated_in_a_process_of_its_own(compiler: ConstraintCompiler) -> None:
    schema = '{"type":"array","uniqueItems":true}'
    assert compiler.validate(schema, "[1, 2]").result() is True
    assert compiler.validate(schema, "[1, 1]").result() is False
    assert compiler.validate(schema, "[1").result() is False


@pytest.mark.parametrize(
    ("keyword", "dialect"),
    [
        ("$dynamicRef", "https://json-schema.org/draft/2020-12/schema"),
        ("$recursiveRef", "https://json-schema.org/draft/2019-09/schema"),
        ("$ref", "https://json-schema.org/draft/2020-12/schema"),
    ],
)
def test_validating_never_fetches_what_a_schema_refers_to(
    compiler: ConstraintCompiler, keyword: str, dialect: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        schema = {
            "$schema": dialect,
            # So that the reference, which holds no address, is one to another document.
            "$id": f"http://127.0.0.1:{listener.getsockname()[1]}/mine",
            "type": "object",
            keyword: "yours",
        }
        assert compiler.validate(json.dumps(schema), "{}").result() is None
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert compiler.validate('{"type":"null"}', "null").result() is True


def test_validating_follows_a_reference_within_the_schema(compiler: ConstraintCompiler) -> None:
    schema = {
        "$id": "http://example.org/mine",
        "$ref": "count",
        "$defs": {"count": {"$id": "count", "type": "integer"}},
    }
    assert compiler.validate(json.dumps(schema), "3").result() is True
    assert compiler.validate(json.dumps(schema), '"3"').result() is False


def test_a_validation_that_takes_too_long_is_given_up(compiler: ConstraintCompiler) -> None:
    # Backtracks for ages in a regex engine that holds every other thread up meanwhile.
    schema = '{"pattern":"^(a|a)*$"}'
    assert compiler.validate(schema, f'"{"a" * 60}b"').result() is None
    assert compiler.validate('{"type":"null"}', "null").result() is True


def test_a_process_that_does_not_answer_is_killed_and_started_again() -> None:
    trial = TrialProcess()
    try:
        assert trial.ask({"do": "start"}, 10) == {}
        first = trial.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(TrialKilled):
            trial.ask({"do": "start"}, 0.2)
        assert trial.ask({"do": "start"}, 10) == {}
        assert trial.pid != first
    finally:
        trial.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's clock")
def test_a_process_that_is_kept_from_the_processor_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial_module, "_PATIENCE", 1000.0)
    trial = TrialProcess()
    try:
        trial.ask({"do": "start"}, 10)
        assert trial.pid is not None
        os.kill(trial.pid, signal.SIGSTOP)
        # Asleep for longer than it may work.
        Timer(0.4, os.kill, (trial.pid, signal.SIGCONT)).start()
        assert trial.ask({"do": "start"}, 0.2) == {}
    finally:
        trial.close()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("library", "part"), [("llguidance", "llguidance"), ("jsonschema", "rpds")]
)
def test_a_process_has_read_its_library_before_time_is_counted(library: str, part: str) -> None:
    trial = TrialProcess(library=library)
    try:
        trial.ask({"do": "start"}, 10)
        assert part in Path(f"/proc/{trial.pid}/maps").read_text()
    finally:
        trial.close()


def test_a_process_that_wants_too_much_memory_gives_an_answer() -> None:
    trial = TrialProcess(max_bytes=256 << 20)
    try:
        schema = {
            "anyOf": [{"type": "string", "pattern": f"^(.{{0,900}}x{n})*$"} for n in range(60)]
        }
        grammar = {"grammars": [{"json_schema": schema}]}
        with suppress(TrialKilled):
            trial.ask({"do": "compile", "grammar": json.dumps(grammar), "limits": {}}, 20)
        assert trial.ask({"do": "start"}, 10) == {}
    finally:
        trial.close()
