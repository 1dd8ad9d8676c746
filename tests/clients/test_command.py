"""How the command `bosal` ends: interrupted while it is imported, or with nobody reading."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.clients.command import bosal
from tests.live_server import LiveServer, environment

COMMAND = (sys.executable, "-m", "bosal_command")


def interrupted_at_imports_of(module: str, folder: Path) -> tuple[int, str]:
    """Run a command and interrupt it while it imports a module; return how it ended."""
    package = folder.joinpath(*module.split("."))
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import os, time\nos.write(1, b'importing\\n')\ntime.sleep(60)\n"
    )
    paths = os.pathsep.join((str(folder), *sys.path))
    with subprocess.Popen(
        [*COMMAND, "models", "--server=127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONPATH=paths),
        text=True,
        # The tests may run where interrupts are ignored, as behind a shell's `&`.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "importing\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, errors


def test_an_interrupt_while_the_command_is_imported_is_quiet(tmp_path: Path) -> None:
    assert interrupted_at_imports_of("grpc", tmp_path) == (130, "")


def test_an_interrupt_is_ignored_where_its_starter_ignores_it() -> None:
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "from bosal_client import cli; "
        "cli.main = lambda: print(signal.getsignal(signal.SIGINT).name); "
        "from bosal_command.main import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
    )
    assert ended.stdout == "SIG_IGN\n", ended.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("rules",), ("recipes", "show", "steered")])
def test_output_that_nobody_reads_ends_a_command_as_the_system_ends_it(
    server: LiveServer, arguments: tuple[str, ...]
) -> None:
    assert len(bosal(server, *arguments).stdout) > 0
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        ended = subprocess.run(
            [*COMMAND, *arguments],
            stdout=closed,
            stderr=subprocess.PIPE,
            env=environment(BOSAL_SERVER=server.address),
        )
    assert (ended.returncode, ended.stderr) == (-signal.SIGPIPE, b"")


ENDS = """
import atexit, sys, threading, time
from bosal_command.ending import prompt_end

class Heavy:
    def __del__(self): sys.stderr.write("taken apart")

def late():
    time.sleep(0.2)
    sys.stdout.write("thread ")

with prompt_end():
    heavy = Heavy()
    atexit.register(lambda: sys.stdout.write("registered "))
    threading.Thread(target=late).start()
    raise SystemExit({code})
"""


@pytest.mark.parametrize(("code", "told"), [("0", 0), ("None", 0), ("70", 70)])
def test_a_process_that_ends_keeps_its_promises_and_takes_nothing_apart(
    code: str, told: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS.format(code=code)],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (told, "thread registered ", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_an_end_whose_output_cannot_be_written_is_a_failure() -> None:
    program = "from bosal_command.ending import prompt_end\nwith prompt_end(): print('lost')"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, env=environment()
        )
    assert ended.returncode != 0
    assert b"No space left" in ended.stderr
