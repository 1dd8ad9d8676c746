"""`bosal generate --batch`: every line answered once, however often the run is interrupted."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from google.rpc.error_details_pb2 import RetryInfo
from tests.clients.command import bosal
from tests.live_server import LiveServer, environment

from bosal.v1 import generation_pb2, generation_pb2_grpc
from bosal_client import GenerationOptions
from bosal_client.batch import Batch
from bosal_client.batch_file import Answers, BatchError, read_requests
from bosal_client.errors import InternalError


def answers(file: Path) -> dict[int, Any]:
    found = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len({answer["line"] for answer in found}) == len(found)
    return {answer["line"]: answer for answer in found}


def test_a_batch_is_answered_resumed_and_the_same_as_one_by_one(
    server: LiveServer, tmp_path: Path
) -> None:
    asked, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [
        json.dumps("Hello"),
        "",
        json.dumps({"id": "mine", "prompt": "The cat", "max_tokens": 3, "recipe": "rules"}),
        json.dumps({"messages": [{"role": "user", "text": "The dog"}], "seed": 8}),
        json.dumps({"prompt": "A", "recipe": "no-such-recipe"}),
    ]
    asked.write_text("\n".join(lines) + "\n")
    run = ("generate", f"--batch={asked}", f"--out={out}", "--max-tokens=5", "--seed=7")
    first = bosal(server, *run)
    assert first.returncode == 1
    assert "3 answered, 1 failed" in first.stderr
    found = answers(out)
    assert sorted(found) == [1, 3, 4, 5]
    assert found[3]["id"] == "mine"
    assert len(found[3]["choices"][0]["token_ids"]) <= 3
    assert found[4]["started"]["seed"] == 8
    assert found[5]["error"]["reason"] == "UNKNOWN_RECIPE"
    alone = bosal(server, "generate", "Hello", "--max-tokens=5", "--seed=7", "--json")
    assert found[1]["choices"] == json.loads(alone.stdout)["choices"]

    # As a run leaves it that was killed while it wrote.
    whole = out.read_bytes().splitlines(keepends=True)
    kept = [line for line in whole if json.loads(line)["line"] in (3, 5)]
    out.write_bytes(b"".join(kept) + whole[0][:20])
    again = bosal(server, *run)
    assert "2 answered, 1 were before, 1 failed" in again.stderr
    assert answers(out)[1]["choices"] == found[1]["choices"]

    changed = bosal(server, *run[:-1], "--seed=8")
    assert changed.returncode == 2
    assert "another request" in changed.stderr


def on_a_terminal(server: LiveServer, *arguments: str, until: str = "") -> tuple[int, str]:
    """Run on a terminal, interrupt once it has shown a pattern; the code and what was shown."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bosal_client", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(BOSAL_SERVER=server.address, COLUMNS="100", TERM="xterm"),
        # A shell in the background has its jobs ignore interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    shown, is_interrupted = b"", False
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # nobody writes to it any more
            part = b""
        if not part:
            break
        shown += part
        if until and not is_interrupted and re.search(until.encode(), shown):
            process.send_signal(signal.SIGINT)
            is_interrupted = True
    os.close(ours)
    return process.wait(), shown.decode()


def test_a_batch_shows_its_progress_and_goes_on_after_an_interrupt(
    server: LiveServer, tmp_path: Path
) -> None:
    asked, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    run = ("generate", f"--batch={asked}", f"--out={out}", "--max-tokens=20", "--seed=7")
    # More than can be done before the interrupt arrives.
    lines = [json.dumps(f"Name {number}") for number in range(3000)]
    asked.write_text("\n".join(lines) + "\n")
    code, shown = on_a_terminal(server, *run, until=r"[1-9]\d*/3000")
    assert code == 130
    assert "the same command goes on from here" in shown
    assert "Traceback" not in shown
    before = answers(out)
    assert before
    # The rest of the work, cut short.
    count = max(before) + 3
    asked.write_text("\n".join(lines[:count]) + "\n")
    code, shown = on_a_terminal(server, *run)
    assert code == 0
    assert f"{count}/{count}" in shown
    assert f"{count - len(before)} answered, {len(before)} were before, 0 failed" in shown
    after = answers(out)
    assert sorted(after) == list(range(1, count + 1))
    assert all(after[line] == answer for line, answer in before.items())


def read(tmp_path: Path, text: str) -> list[Any]:
    file = tmp_path / "in.jsonl"
    file.write_text(text)
    return list(read_requests(file, GenerationOptions(seed=1)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: not JSON"),
        ("3", ":2: must be a string or an object"),
        ('{"promt": "a"}', "did you mean 'prompt'"),
        ('{"prompt": "a", "messages": []}', "either 'prompt' or 'messages'"),
        ('{"prompt": 5}', ":2: 'prompt' must be a string"),
        ('{"messages": "a"}', ":2: 'messages' must be a list"),
        ('{"messages": ["a"]}', "a message is"),
        ('{"id": 1}', "either 'prompt' or 'messages'"),
        ('{"prompt": "a", "id": 1.5}', "'id' must be"),
        ('{"prompt": "a", "seed": "x"}', ":2: spec.seed: "),
        ('{"prompt": "a", "max_tokens": null}', ":2: spec.max_tokens: "),
        ('{"prompt": "a", "explain": "yes"}', ":2: spec.explain: "),
        ('{"prompt": "a", "max_tokens": -1}', "max_tokens"),
        ('{"messages": [{"role": "system", "text": "a"}]}', "'user' or 'assistant'"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_asked(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(BatchError, match=message):
        read(tmp_path, f'"fine"\n{line}\n')


def test_two_batches_do_not_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    with Answers(file), pytest.raises(BatchError, match="another batch"), Answers(file):
        pass


def test_a_file_that_is_no_batch_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "thesis.txt"
    file.write_text("To be, or not to be\n")
    with pytest.raises(BatchError, match="not an answer"), Answers(file):
        pass
    assert file.read_text() == "To be, or not to be\n"


def test_failures_are_asked_again(tmp_path: Path) -> None:
    (request,) = read(tmp_path, '"Hello"\n')
    with Answers(tmp_path / "out.jsonl") as first:
        first.add(request, InternalError("it broke"))
    with Answers(tmp_path / "out.jsonl") as second:
        assert not second.has(request)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_numbers_that_json_lacks_are_named(server: LiveServer, tmp_path: Path) -> None:
    asked, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    forbidding = {"rule": "allowed_tokens", "ids": [5, 9]}
    line = {"prompt": "A", "overrides": [forbidding], "explain": True, "max_tokens": 2, "seed": 1}
    asked.write_text(json.dumps(line))
    assert bosal(server, "generate", f"--batch={asked}", f"--out={out}").returncode == 0

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(out.read_text(), parse_constant=refuse)
    effects = found["choices"][0]["explanations"][0]["rules"]
    assert {effect["on_uncontrolled"] for effect in effects if effect["masked_tokens"]} == {
        "-Infinity"
    }


def test_a_disk_without_room_is_told_on_one_line(tmp_path: Path) -> None:
    asked = tmp_path / "in.jsonl"
    asked.write_text('"a"')
    (request,) = read_requests(asked, GenerationOptions())
    with Answers(tmp_path / "out.jsonl") as answered, Path("/dev/full").open("wb") as full:
        assert answered._out is not None
        answered._out.close()
        answered._out = full
        with pytest.raises(BatchError, match=r"out\.jsonl: No space left on device"):
            answered.add(request, InternalError("lost"))
        full.raw.close()


class Moody(generation_pb2_grpc.GenerationServiceServicer):
    """Is full a thousand times and more, then away for a moment, then answers."""

    num_calls = 0

    def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> generation_pb2.GenerateResponse:
        self.num_calls += 1
        if self.num_calls <= 1_100:
            status = status_pb2.Status(code=8, message="full")
            info, retry = error_details_pb2.ErrorInfo(reason="QUEUE_FULL"), RetryInfo()
            retry.retry_delay.FromNanoseconds(1_000)
            for detail in (info, retry):
                status.details.add().Pack(detail)
            details = ("grpc-status-details-bin", status.SerializeToString())
            context.set_trailing_metadata((details,))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        if self.num_calls == 1_101:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        return generation_pb2.GenerateResponse(choices=[generation_pb2.Choice(text="Yes.")])


def test_a_batch_waits_for_a_server_that_is_full_for_long_and_then_away(tmp_path: Path) -> None:
    service = Moody()  # type: ignore[abstract]  # it answers alone
    requests, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests.write_text(json.dumps("Is it?"))
    batch = Batch(requests=requests, answers=out, defaults=GenerationOptions(), concurrency=1)
    server = grpc.server(ThreadPoolExecutor(2))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Answers(out) as kept:
        asyncio.run(batch.run(f"127.0.0.1:{port}", kept))
    server.stop(None).wait()
    assert service.num_calls == 1_102
    assert answers(out)[1]["text"] == "Yes."
