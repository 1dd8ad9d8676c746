"""The blocking client against a real server."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.live_server import LiveServer, environment

import bosal_client
from bosal_client import (
    BosalError,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    Message,
    Unavailable,
)

ENDLESS = [{"rule": "logit_bias", "ids": {"0": -1000}}]


def test_what_the_package_exports() -> None:
    assert sorted(bosal_client.__all__) == bosal_client.__all__
    for name in bosal_client.__all__:
        assert hasattr(bosal_client, name)


def test_the_client_needs_only_light_packages() -> None:
    heavy = ("torch", "transformers", "pydantic", "numpy", "bosal_server", "bosal_decoding")
    program = (
        "import sys; import bosal_client.cli; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
    )
    assert output.stdout.strip() == "[]", output.stderr


def test_a_stream_can_be_iterated_and_then_asked_for_its_result(client: Client) -> None:
    with client.stream("Hello", max_tokens=20, seed=3) as stream:
        text = "".join(batch.text for batch in stream)
        result = stream.result()
    assert result.text == text
    assert result.request_id == stream.request_id
    assert list(stream) == []


def test_a_result_holds_what_was_iterated_over_before(client: Client) -> None:
    with client.stream("Hello", max_tokens=20, overrides=ENDLESS) as stream:
        next(iter(stream))
        assert len(stream.result().choices[0].token_ids) == 20


def test_the_request_id_is_the_callers_or_made_up(client: Client) -> None:
    with client.stream("Hello", max_tokens=1, request_id="order-7") as stream:
        assert stream.request_id == "order-7"
        assert stream.started.request_id == "order-7"
    with client.stream("Hello", max_tokens=1) as stream:
        assert stream.request_id
        assert stream.started.request_id == stream.request_id


def test_a_cancelled_stream_raises(client: Client) -> None:
    stream = client.stream("Hello", max_tokens=300, overrides=ENDLESS)
    next(iter(stream))
    stream.cancel()
    with pytest.raises(Cancelled):
        stream.result()


def test_cancelling_a_finished_stream_changes_nothing(client: Client) -> None:
    stream = client.stream("Hello", max_tokens=3)
    result = stream.result()
    stream.cancel()
    assert stream.result() == result


def test_leaving_a_with_block_cancels(client: Client) -> None:
    with client.stream("Hello", max_tokens=300, overrides=ENDLESS) as stream:
        next(iter(stream))
    with pytest.raises(Cancelled):
        stream.result()


def test_a_timeout_is_a_deadline(client: Client) -> None:
    with pytest.raises(DeadlineExceeded):
        client.generate("Hello", max_tokens=400, overrides=ENDLESS, num_choices=16, timeout=0.05)


def test_a_closed_client_says_so(server: LiveServer) -> None:
    client = Client(server.address)
    client.models()
    client.close()
    client.close()
    calls: list[Callable[[], object]] = [
        client.models,
        lambda: client.stream("Hello"),
        lambda: client.compare("Hello", ["plain", "rules"]),
        lambda: next(client.experiments.watch("any")),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="the client is closed") as failure:
            call()
        assert failure.value.reason == "CLIENT_CLOSED"


def test_closing_ends_the_streams_that_run(server: LiveServer) -> None:
    client = Client(server.address)
    stream = client.stream("Hello", max_tokens=300, overrides=ENDLESS)
    next(iter(stream))
    client.close()
    with pytest.raises(Cancelled):
        stream.result()


def test_who_signs_and_for_how_long_a_call_waits_holds_for_experiments_too(client: Client) -> None:
    assert client.experiments is client.experiments
    with pytest.raises(DeadlineExceeded):
        client.experiments.every(timeout=0)


def test_an_absent_server_is_unavailable() -> None:
    with Client("127.0.0.1:1") as nobody, pytest.raises(Unavailable):
        nobody.models(timeout=5)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_tokens": -1}, "spec.max_tokens"),
        ({"num_choices": 2**40}, "spec.num_choices"),
        ({"seed": 2**63}, "spec.seed"),
        ({"logprobs": -1}, "spec.logprobs.top"),
        ({"request_id": "\ud800"}, "spec.request_id"),
        ({"recipe": {"rulez": []}}, "spec.inline_recipe.rulez"),
        ({"overrides": [{"rule": "top_p", "p": {1, 2}}]}, "spec.overrides[0]"),
    ],
)
def test_what_the_wire_cannot_hold_is_named(
    client: Client, options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as failure:
        client.generate("Hello", **options)  # type: ignore[arg-type]
    assert failure.value.field == field


def test_text_that_is_not_unicode_is_named(client: Client) -> None:
    with pytest.raises(InvalidRequest) as failure:
        client.generate("broken \ud800 text")
    assert failure.value.field == "spec.instruction"
    with pytest.raises(InvalidRequest) as failure:
        client.generate([Message("user", "\udfff")])
    assert failure.value.field == "spec.conversation.messages[0].text"


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (None, "spec.input"),
        (b"Hello", "spec.input"),
        ({"role": "user"}, "spec.input"),
        ([{"role": "user", "content": "Hello"}], "spec.conversation.messages[0]"),
        ([Message("user", "Hi"), "Hello"], "spec.conversation.messages[1]"),
        ([Message("system", "Hi")], "spec.conversation.messages[0].role"),  # type: ignore[arg-type]
    ],
)
def test_a_prompt_is_text_or_messages(client: Client, prompt: Any, field: str) -> None:
    for call in (client.generate, client.stream):
        with pytest.raises(InvalidRequest) as failure:
            call(prompt)
        assert failure.value.field == field


def test_one_recipe_cannot_be_compared(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="2 to 8"):
        client.compare("Hello", "plain")


@pytest.mark.parametrize(
    ("method", "arguments", "field"),
    [
        ("tokenize", ["\ud800"], "text"),
        ("recipe", ["\ud800"], "name"),
        ("archive_recipe", ["\ud800"], "name"),
        ("validate", ["\ud800"], "document"),
        ("validate", [None], "recipe"),
    ],
)
def test_every_call_names_what_the_wire_cannot_hold(
    client: Client, method: str, arguments: list[Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as failure:
        getattr(client, method)(*arguments)
    assert failure.value.field == field


def test_an_unknown_option_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="num_choices"):
        client.generate("Hello", n=3)  # type: ignore[call-arg]


def test_a_text_or_a_prompt_is_tokenized_not_both(client: Client) -> None:
    with pytest.raises(InvalidRequest):
        client.tokenize("Hello", prompt="Hello")
    with pytest.raises(InvalidRequest):
        client.tokenize()


def test_every_error_is_a_bosal_error() -> None:
    for name in bosal_client.__all__:
        value = getattr(bosal_client, name)
        if isinstance(value, type) and issubclass(value, Exception):
            assert issubclass(value, BosalError)


def test_one_client_serves_many_threads(server: LiveServer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Client(server.address) as shared, ThreadPoolExecutor(8) as threads:
        texts = list(
            threads.map(
                lambda seed: shared.generate("Hello", seed=seed % 2, max_tokens=8).text, range(16)
            )
        )
    assert set(texts[::2]) == {texts[0]}
    assert set(texts[1::2]) == {texts[1]}
