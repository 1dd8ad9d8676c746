"""Conversations beyond the context, over a real wire."""

from typing import Any

import pytest

from bosal_client import Client, InvalidRequest, Message

SAID = [
    Message(role=("user", "assistant")[turn % 2], text="the cat sat on the mat " * 12)
    for turn in range(12)
]
ASKED = [*SAID, Message(role="user", text="Name a river.")]


def recipe(**scaffold: Any) -> dict[str, Any]:
    return {"scaffold": {"kind": "qa", **scaffold}, "rules": []}


def test_a_long_conversation_is_shortened_where_asked_and_said_so(client: Client) -> None:
    found = client.generate(ASKED, recipe=recipe(drop_oldest=True), max_tokens=30, seed=1)
    dropped = found.started.dropped_messages
    assert 0 < dropped < len(SAID)
    assert dropped % 2 == 0
    short = client.generate(ASKED[dropped:], recipe=recipe(), max_tokens=30, seed=1)
    assert short.started.dropped_messages == 0
    assert short.started.prompt_tokens == found.started.prompt_tokens
    assert short.choices[0].token_ids == found.choices[0].token_ids
    # One turn more would not have left room.
    with pytest.raises(InvalidRequest):
        client.generate(ASKED[dropped - 2 :], recipe=recipe(), max_tokens=30)


def test_elsewhere_it_is_refused_with_the_numbers(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="512") as refused:
        client.generate(ASKED, recipe=recipe(), max_tokens=30)
    assert refused.value.field == "spec.conversation"
    # What cannot be shortened further is refused, too.
    with pytest.raises(InvalidRequest, match="512"):
        client.generate(ASKED, recipe=recipe(drop_oldest=True), max_tokens=505)


def test_an_answer_is_scored_behind_what_leaves_it_room(client: Client) -> None:
    score = client.score(ASKED, "the Rhine", recipe=recipe(drop_oldest=True))
    assert len(score.logprobs.raw) == len(score.token_ids)
