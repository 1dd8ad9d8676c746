"""A line for each call that fails; one a second for those that come in floods."""

import logging

import pytest

from bosal_server.call import Call
from bosal_server.errors import InternalFault, QueueFull
from bosal_server.request_errors import InvalidRequest
from bosal_server.rpc.refusal_log import RefusalLog
from bosal_server.security.caller import Caller, current_caller
from bosal_server.security.errors import KeyExpired, KeyInvalid, KeyMissing


def test_overload_writes_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    refusals = RefusalLog(lambda: now)
    full = QueueFull(waiting="3 requests", limit="3 requests", retry_after=1.0)
    for number in range(100):
        refusals.note(Call(f"a{number}"), "Generate", full)
    # What fails otherwise is never summed.
    for number in range(3):
        refusals.note(Call(f"b{number}"), "Generate", InternalFault())
    now = 1.0
    refusals.note(Call("c"), "GenerateStream", full)
    assert caplog.messages == [
        "request 'a0': Generate RESOURCE_EXHAUSTED QUEUE_FULL",
        *(f"request 'b{number}': Generate INTERNAL INTERNAL" for number in range(3)),
        "request 'c': GenerateStream RESOURCE_EXHAUSTED QUEUE_FULL, and 99 more before it",
    ]
    assert [getattr(record, "unsaid", 0) for record in caplog.records] == [0, 0, 0, 0, 99]


def test_a_stranger_fills_no_disk(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = RefusalLog(lambda: 0.0)
    for error in (KeyMissing(), KeyInvalid()) * 500:
        refusals.note(Call("a"), "Generate", error)
    assert caplog.messages == [
        "request 'a': Generate UNAUTHENTICATED KEY_MISSING",
        "request 'a': Generate UNAUTHENTICATED KEY_INVALID",
    ]


def test_a_field_of_the_clients_naming_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    RefusalLog().note(Call("a"), "Generate", InvalidRequest("no", field="x" * 60_000))
    assert len(caplog.messages[0]) < 250


def test_a_line_says_whose_key_it_was(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refusals = RefusalLog()
    refusals.note(Call("a"), "Generate", KeyExpired("alice"))
    token = current_caller.set(Caller(key_id="0" * 12, name="bob"))
    try:
        refusals.note(Call("b"), "Generate", InternalFault())
    finally:
        current_caller.reset(token)
    assert [getattr(record, "key", None) for record in caplog.records] == ["alice", "bob"]
    assert "alice" not in str(KeyExpired("alice"))
