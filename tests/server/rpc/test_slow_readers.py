"""A reader that stops reading: bounded, ended after a while, and nobody else's concern."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer, eventually

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc
from bosal_client import Client

# As narrow as the protocol allows: gRPC would read megabytes ahead otherwise.
NARROW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]


def test_a_reader_that_stops_is_ended_and_slows_nobody(tiny_model: Path) -> None:
    options = ("--write-stall-seconds=0.5", f"--model=tiny={tiny_model}")
    with (
        LiveServer(*options) as server,
        grpc.insecure_channel(server.address, options=NARROW) as channel,
        Client(server.address) as client,
    ):
        spec = pb.GenerationSpec(
            instruction="Hi",
            recipe="plain",
            max_tokens=400,
            num_choices=8,
            logprobs=pb.LogprobOptions(top=20),
        )
        # Never the end of the text.
        rule = spec.overrides.add(rule="logit_bias")
        rule.params.update({"ids": {"0": -1000}})
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        stalled = stub.GenerateStream(pb.GenerateStreamRequest(spec=spec))
        assert next(stalled).WhichOneof("event") == "started"
        assert eventually(lambda: server.metric("bosal_stalled_calls_total") == 1)
        # The choices are gone, and others are served as before.
        assert eventually(lambda: server.metric("bosal_running_groups") == 0)
        assert client.generate("Hi", max_tokens=2).choices
        # Once it reads again it learns why.
        with pytest.raises(grpc.RpcError) as caught:
            for _ in stalled:
                pass
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.ABORTED
        assert server.stop() == 0
        assert "Traceback" not in server.errors()
