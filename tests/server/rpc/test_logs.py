"""What a server says of requests: their ids on every line, and nothing that users wrote."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer, serving

from bosal.v1 import generation_pb2 as pb
from bosal_client import BosalError, Client, assistant, user

# In no corpus of these tests, so wherever it is found it was the prompt.
SECRET = "Zyxwvuts"
ID = "of-the-test-"


def ask(client: Client) -> dict[str, str]:
    """Send the secret in every place that holds text; return reasons of what was refused by id."""
    shown = {"rules": [{"rule": "top_k", "k": 2}], "scaffold": {"examples": [[SECRET, SECRET]]}}
    client.generate(SECRET, max_tokens=2, request_id=f"{ID}1")
    with client.stream([user(SECRET), assistant(SECRET), user(SECRET)], max_tokens=2) as stream:
        stream.result()
    with client.compare(SECRET, ["plain", "rules"], max_tokens=2) as comparison:
        comparison.result()
    client.score(SECRET, SECRET)
    client.tokenize(SECRET)
    refused = {}
    wrong: tuple[dict[str, Any], ...] = (
        {"model": "nobody"},
        {"recipe": "nobody"},
        {"recipe": shown},
        {"max_tokens": 100_000},
        {"overrides": [{"rule": "stop_strings", "values": [SECRET], "no": 1}]},
        {"constraint": {"regex": f"({SECRET}"}},
    )
    for number, options in enumerate(wrong):
        id_ = f"{ID}wrong-{number}"
        with pytest.raises(BosalError) as failure:
            client.generate(SECRET, request_id=id_, **options)
        refused[id_] = failure.value.reason
    with pytest.raises(BosalError):
        client.generate(SECRET * 100_000)
    return refused


def records(server: LiveServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.errors().splitlines()]


def test_no_prompt_is_logged_and_refusals_are(tiny_model: Path) -> None:
    with serving(tiny_model, "--log-format=json", "--log-level=DEBUG") as server:
        with Client(server.address) as client:
            refused = ask(client)
        with grpc.insecure_channel(server.address) as channel:
            call: Any = channel.unary_unary("/bosal.v1.GenerationService/Generate")
            # Cut off in its middle, so that it cannot be read.
            data = pb.GenerateRequest(spec=pb.GenerationSpec(instruction=SECRET))
            with pytest.raises(grpc.RpcError):
                call(data.SerializeToString()[:-1], timeout=30)
        lines = records(server)
        assert SECRET not in server.errors()
    said = {one["request_id"]: one for one in lines if "reason" in one}
    assert {id_: said[id_]["reason"] for id_ in refused} == refused
    assert said[f"{ID}wrong-0"]["code"] == "NOT_FOUND"
    assert said[f"{ID}wrong-3"]["field"] == "spec.max_tokens"
    # With ids of the server's own: the prompt that is too long, and what could not be read.
    others = sorted(one["reason"] for id_, one in said.items() if id_ not in refused)
    assert len(others) == 2
    assert "PROMPT_TOO_LARGE" in others


def test_prompts_are_logged_for_who_asks_for_it(tiny_model: Path) -> None:
    options = ("--log-format=json", "--log-prompts")
    with serving(tiny_model, *options) as server, Client(server.address) as client:
        client.generate(SECRET, max_tokens=1, request_id=f"{ID}1")
        client.generate([user("a"), assistant("b"), user(SECRET)], max_tokens=1)
        asked = {one["request_id"]: one["prompt"] for one in records(server) if "prompt" in one}
    assert asked.pop(f"{ID}1") == [{"role": "user", "text": SECRET}]
    assert [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b"},
            {"role": "user", "text": SECRET}] in asked.values()  # fmt: skip
