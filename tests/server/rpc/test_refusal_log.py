"""A line for each call that fails; one a second for those there is no room for."""

import logging

import pytest

from bosal_server.errors import InternalFault, QueueFull
from bosal_server.rpc.refusal_log import RefusalLog


def test_overload_writes_a_line_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    refusals = RefusalLog(lambda: now)
    full = QueueFull(waiting="3 requests", limit="3 requests", retry_after=1.0)
    for number in range(100):
        refusals.note(f"a{number}", "Generate", full)
    # What fails otherwise is never summed.
    for number in range(3):
        refusals.note(f"b{number}", "Generate", InternalFault())
    now = 1.0
    refusals.note("c", "GenerateStream", full)
    assert caplog.messages == [
        "request 'a0': Generate RESOURCE_EXHAUSTED QUEUE_FULL",
        *(f"request 'b{number}': Generate INTERNAL INTERNAL" for number in range(3)),
        "request 'c': GenerateStream RESOURCE_EXHAUSTED QUEUE_FULL, and 99 more before it",
    ]
    assert [getattr(record, "unsaid", 0) for record in caplog.records] == [0, 0, 0, 0, 99]
