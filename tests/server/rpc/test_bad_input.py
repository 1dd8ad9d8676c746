"""What bad input gets: a status, a reason, the field at fault; and never anything else."""

from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer
from tests.server.rpc.refusals import Refusal, check_refused

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc, recipe_pb2
from bosal_client import BosalError, Client, InvalidRequest, NotFound, assistant, user
from bosal_client.errors import from_rpc_error

CASES: list[Refusal] = [
    (
        "unknown model",
        lambda c: c.generate("Hi", model="tin"),
        NotFound,
        "UNKNOWN_MODEL",
        "spec.model",
        "'tiny'",
    ),
    (
        "empty instruction",
        lambda c: c.generate(""),
        InvalidRequest,
        "MISSING_FIELD",
        "spec.instruction",
        "",
    ),
    (
        "blank instruction",
        lambda c: c.generate(" \n "),
        InvalidRequest,
        "MISSING_FIELD",
        "spec.instruction",
        "",
    ),
    (
        "empty conversation",
        lambda c: c.generate([]),
        InvalidRequest,
        "INVALID_CONVERSATION",
        "spec.conversation.messages",
        "",
    ),
    (
        "conversation that ends with the assistant",
        lambda c: c.generate([user("Hi"), assistant("Hello")]),
        InvalidRequest,
        "INVALID_CONVERSATION",
        "spec.conversation.messages[1].role",
        "",
    ),
    (
        "empty message",
        lambda c: c.generate([user(" ")]),
        InvalidRequest,
        "INVALID_CONVERSATION",
        "spec.conversation.messages[0].text",
        "",
    ),
    (
        "too many messages",
        lambda c: c.generate([user("Hi")] * 300),
        InvalidRequest,
        "OUT_OF_RANGE",
        "spec.conversation.messages",
        "300",
    ),
    (
        "prompt over the context",
        lambda c: c.generate("word " * 2000),
        InvalidRequest,
        "CONTEXT_OVERFLOW",
        "spec.instruction",
        "512",
    ),
    (
        "prompt and max_tokens over the context",
        lambda c: c.generate("Hi", max_tokens=512),
        InvalidRequest,
        "CONTEXT_OVERFLOW",
        "spec.max_tokens",
        "512",
    ),
    (
        "no output tokens",
        lambda c: c.generate("Hi", max_tokens=0),
        InvalidRequest,
        "OUT_OF_RANGE",
        "spec.max_tokens",
        "0",
    ),
    (
        "no choices",
        lambda c: c.generate("Hi", num_choices=0),
        InvalidRequest,
        "OUT_OF_RANGE",
        "spec.num_choices",
        "16",
    ),
    (
        "too many choices",
        lambda c: c.generate("Hi", num_choices=17),
        InvalidRequest,
        "OUT_OF_RANGE",
        "spec.num_choices",
        "16",
    ),
    (
        "too many log-probabilities",
        lambda c: c.generate("Hi", logprobs=1000),
        InvalidRequest,
        "OUT_OF_RANGE",
        "spec.logprobs.top",
        "20",
    ),
    (
        "request id too long",
        lambda c: c.generate("Hi", request_id="x" * 129),
        InvalidRequest,
        "INVALID_REQUEST_ID",
        "spec.request_id",
        "128",
    ),
    (
        "request id with a line break",
        lambda c: c.generate("Hi", request_id="a\nb"),
        InvalidRequest,
        "INVALID_REQUEST_ID",
        "spec.request_id",
        "",
    ),
    (
        "oversize message",
        lambda c: c.generate("x" * 2_000_000),
        InvalidRequest,
        "MESSAGE_TOO_LARGE",
        "",
        "1048576",
    ),
    (
        "message beyond what the transport reads",
        lambda c: c.generate("x" * 20_000_000),
        InvalidRequest,
        "",
        "",
        "larger than max",
    ),
    (
        "tokenize an unknown model",
        lambda c: c.tokenize("Hi", model="huge"),
        NotFound,
        "UNKNOWN_MODEL",
        "model",
        "tiny",
    ),
    (
        "tokenize an empty prompt",
        lambda c: c.tokenize(prompt=""),
        InvalidRequest,
        "MISSING_FIELD",
        "prompt.instruction",
        "",
    ),
    (
        "a long model name",
        lambda c: c.generate("Hi", model="tiny" * 50_000),
        NotFound,
        "UNKNOWN_MODEL",
        "spec.model",
        "known: tiny",
    ),
    (
        "validate for an unknown model",
        lambda c: c.validate({}, model="none"),
        NotFound,
        "UNKNOWN_MODEL",
        "model",
        "",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_bad_input_is_refused_by_name(client: Client, case: Refusal) -> None:
    check_refused(client, case)


def test_a_stream_is_refused_like_a_unary_call(client: Client) -> None:
    with client.stream("Hi", recipe="nothing") as stream, pytest.raises(NotFound) as failure:
        stream.result()
    assert failure.value.reason == "UNKNOWN_RECIPE"


def test_bytes_that_are_no_request_are_an_invalid_argument(server: LiveServer) -> None:
    error = refused(server, b"\xff\xff\xff\xff")
    assert isinstance(error, InvalidRequest)
    assert error.reason == "MALFORMED_MESSAGE"
    assert "bosal.v1.GenerateRequest" in error.message


def test_text_that_is_not_utf8_is_named(server: LiveServer) -> None:
    good = pb.GenerateRequest(spec=pb.GenerationSpec(instruction="@@@@")).SerializeToString()
    error = refused(server, good.replace(b"@@@@", b"\xc3\x28ab"))
    assert isinstance(error, InvalidRequest)
    assert (error.reason, error.field) == ("MALFORMED_MESSAGE", "spec.instruction")


def test_a_message_without_a_role_is_named(server: LiveServer) -> None:
    spec = pb.GenerationSpec(conversation=pb.Conversation(messages=[pb.Message(text="Hi")]))
    error = refused(server, pb.GenerateRequest(spec=spec).SerializeToString())
    assert isinstance(error, InvalidRequest)
    assert error.field == "spec.conversation.messages[0].role"


def test_a_request_without_input_is_named(server: LiveServer) -> None:
    error = refused(server, b"")
    assert (error.reason, error.field) == ("MISSING_FIELD", "spec.instruction")


def test_a_tokenize_request_needs_a_source(server: LiveServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        with pytest.raises(grpc.RpcError) as failure:
            stub.Tokenize(pb.TokenizeRequest())
    assert from_rpc_error(failure.value).field == "source"


def test_a_deeply_nested_parameter_is_refused(server: LiveServer) -> None:
    rule = recipe_pb2.Rule(rule="top_p")
    value: Any = rule.params.fields["p"]
    for _ in range(40):
        value = value.list_value.values.add()
    spec = pb.GenerationSpec(instruction="Hi", overrides=[rule])
    error = refused(server, pb.GenerateRequest(spec=spec).SerializeToString())
    assert isinstance(error, InvalidRequest)


def test_nothing_of_the_server_shows_in_an_error(client: Client) -> None:
    for _, ask, *_ in CASES:
        with pytest.raises(BosalError) as failure:
            ask(client)
        text = failure.value.message + str(failure.value.metadata)
        assert "Traceback" not in text
        assert ".py" not in text
        assert "/tmp" not in text
        assert "object at 0x" not in text


def refused(server: LiveServer, data: bytes) -> BosalError:
    """Send these bytes to Generate and return how it was refused."""
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary("/bosal.v1.GenerationService/Generate")
        with pytest.raises(grpc.RpcError) as failure:
            call(data)
    return from_rpc_error(failure.value)
