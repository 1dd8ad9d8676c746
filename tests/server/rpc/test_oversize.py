"""Requests that are small in bytes and large in what reading them takes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.live_server import LiveServer

from bosal.v1 import experiment_pb2, generation_pb2
from bosal_client import Client, InvalidRequest
from bosal_client.errors import from_rpc_error
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.limits import Limits
from bosal_server.request_errors import OutOfRange
from bosal_server.rpc import comparisons, records

MANY = 100_000


class Unread(list[Any]):
    """A list of a request that is counted, and never read."""

    def __iter__(self) -> Any:
        raise AssertionError("it was read")


def test_recipes_and_outcomes_are_counted_before_they_are_read() -> None:
    """Half a million of them fit into a request, and took the event loop seven seconds."""
    request = generation_pb2.CompareRequest(
        recipes=[generation_pb2.ComparedRecipe() for _ in range(MANY)]
    )
    with pytest.raises(OutOfRange, match="recipes is 100000"):
        comparisons.compare_command(request, None, Limits())
    with pytest.raises(InvalidExperiment, match="at most 1000"):
        records.outcomes(Unread(experiment_pb2.Outcome() for _ in range(1001)))


def test_every_text_is_measured_before_it_is_tokenised(client: Client) -> None:
    long = "ab " * 100_000
    calls: dict[str, Callable[[], object]] = {
        "text": lambda: client.tokenize(long),
        "spec.instruction": lambda: client.generate(long),
    }
    for field, call in calls.items():
        with pytest.raises(InvalidRequest) as failure:
            call()
        assert (failure.value.reason, failure.value.field) == ("PROMPT_TOO_LARGE", field)
    with pytest.raises(InvalidRequest) as failure:
        client.score("Hi", long)
    assert failure.value.reason == "PROMPT_TOO_LARGE"


@pytest.mark.parametrize("token", ["9" * 5000, str(2**70), "\u0663", "-1", "x"])
def test_a_page_token_that_is_none_is_the_clients_mistake(server: LiveServer, token: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary("/bosal.v1.ExperimentService/ListAuditEvents")
        request = experiment_pb2.ListAuditEventsRequest(page_token=token)
        with pytest.raises(grpc.RpcError) as failure:
            call(request.SerializeToString(), timeout=30)
    error = from_rpc_error(failure.value)
    assert isinstance(error, InvalidRequest)
    assert error.field == "page_token"


def test_others_go_on_while_a_long_text_is_tokenised(tiny_model: Path) -> None:
    """A tokenizer that keeps Python's lock stops the engine and the event loop for as long."""
    from transformers import AutoTokenizer

    vocabulary = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(tiny_model))
    text = "ab cd " * 40_000
    is_over = threading.Event()
    turns = 0

    def other() -> None:
        nonlocal turns
        while not is_over.is_set():
            time.sleep(0)
            turns += 1

    thread = threading.Thread(target=other)
    thread.start()
    try:
        before = turns
        encoding = vocabulary._encoding(text)
        meanwhile = turns - before
    finally:
        is_over.set()
        thread.join()
    assert len(encoding.ids) > 40_000
    # With the lock held there is at most the one turn that it is handed over for.
    assert meanwhile > 10


@pytest.mark.parametrize("text", ["ab cd " * 400, "a" * 3000, "\u00fc\n \u4f60" * 600])
def test_a_long_text_has_the_tokens_of_the_tokenizer(tiny_model: Path, text: str) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    vocabulary = Vocabulary.from_tokenizer(tokenizer)
    expected = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    ids, offsets = vocabulary.encode_with_offsets(text)
    assert (ids, offsets) == (expected.ids, expected.offsets)
    assert vocabulary.encode_fragment(text) == expected.ids
