"""Faults that servers of this kind have had, tried on this one."""

import re
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer

from bosal_client import Client, InvalidRequest, assistant, user
from bosal_client.errors import from_rpc_error

ROOT = Path(__file__).parents[3]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def test_nothing_here_unpickles_or_loads_code_from_data() -> None:
    parts = ("server", "decoding", "kernels", "clients/python")
    files = [file for part in parts for file in (ROOT / part).rglob("*.py")]
    assert len(files) > 100
    forbidden = re.compile(
        r"^\s*(import|from) (pickle|dill|cloudpickle|shelve|marshal)\b"
        r"|torch\.load\(|yaml\.(unsafe_load|full_load)\(|yaml\.load\((?!.*Loader=_(Core|Strict)Loader)"
        r"|(?<!\.)\b(eval|exec)\(|jinja2",
        re.MULTILINE,
    )
    found = {str(file): forbidden.search(file.read_text()) for file in files}
    assert {name: match[0] for name, match in found.items() if match} == {}


def test_every_class_of_the_threat_model_names_its_tests() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "class of" not in line]
    classes = [line.split("|")[-2] for line in rows if line.count("|") == 5]
    assert len(classes) >= 15
    for tests in classes:
        named = re.findall(r"`(tests/[\w/]+\.py)`", tests)
        assert named, tests
        assert [file for file in named if not (ROOT / file).is_file()] == []


def test_a_prompt_is_measured_before_it_is_tokenised(client: Client) -> None:
    with pytest.raises(InvalidRequest) as failure:
        client.generate("x" * 300_000)
    assert (failure.value.reason, failure.value.field) == ("PROMPT_TOO_LARGE", "spec.instruction")
    with pytest.raises(InvalidRequest) as failure:
        client.generate([user("x" * 150_000), assistant("Yes."), user("y" * 150_000)])
    assert (failure.value.reason, failure.value.field) == ("PROMPT_TOO_LARGE", "spec.conversation")


def test_huge_headers_are_refused_and_harm_nobody(server: LiveServer, client: Client) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary("/bosal.v1.ModelService/ListModels")
        for size in (20_000, 1_000_000):
            with pytest.raises(grpc.RpcError) as failure:
                call(b"", metadata=(("x-large", "x" * size),), timeout=10)
            assert failure.value.code() in (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.INTERNAL,
            )
            assert from_rpc_error(failure.value)
    assert client.generate("Hi", max_tokens=1).choices


def test_connections_that_never_ask_anything_harm_nobody(
    server: LiveServer, client: Client
) -> None:
    host, _, port = server.address.rpartition(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(300)]
    try:
        for index, connection in enumerate(idle):
            # Some say nothing, some begin HTTP/2 and stop in the middle of a frame.
            if index % 2:
                connection.sendall(PREFACE + b"\x00\x10\x00\x01\x04\x00\x00\x00\x01" + b"\x00")
        assert client.generate("Hi", max_tokens=2, timeout=60).choices
    finally:
        for connection in idle:
            connection.close()
    assert client.generate("Hi", max_tokens=2).choices
