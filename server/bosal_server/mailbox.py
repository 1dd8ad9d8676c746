"""The way of events from the engine's thread to the event loop's readers."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from threading import Lock
from typing import Final

from bosal_server.engine.request import EngineEvent, TokenLogprobs, TokensEvent

# Events that wait for a slow reader before they are joined into one for each choice.
_MAX_EVENTS: Final = 64
# Readers that are woken at once; each takes some tenths of a millisecond.
_MAX_READERS: Final = 4


class Mailbox:
    """One request's events; all that came since the last look are taken together.

    It is bounded: a reader that does not look gets what waits as few long events, no longer than
    the request's own `max_tokens`, and holds up nobody.
    """

    def __init__(self) -> None:
        self._events: deque[EngineEvent] = deque()
        self._has_mail = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: EngineEvent) -> None:
        if len(self._events) >= _MAX_EVENTS:
            self._events = deque(merged(self._events))
        self._events.append(event)
        self._has_mail.set()

    async def take(self) -> list[EngineEvent]:
        """Wait for events; return those there are, tokens of one choice merged into one."""
        await self._has_mail.wait()
        self._has_mail.clear()
        events = merged(self._events) if len(self._events) > 1 else list(self._events)
        self._events.clear()
        return events


class Delivery:
    """Given to the engine: brings its events to their mailboxes.

    A step has an event for everyone. Their readers are woken a few at a time, so that whatever
    else the event loop has to do is not late by a whole step's messages.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = Lock()
        # In the order in which they have waited; all of one mailbox go together.
        self._waiting: dict[Mailbox, list[EngineEvent]] = {}

    def __call__(self, batch: Sequence[tuple[object, EngineEvent]]) -> None:
        with self._lock:
            is_idle = not self._waiting
            for mailbox, event in batch:
                assert isinstance(mailbox, Mailbox)
                self._waiting.setdefault(mailbox, []).append(event)
        if is_idle:
            self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        with self._lock:
            mailboxes = list(islice(self._waiting, _MAX_READERS))
            some = [(mailbox, self._waiting.pop(mailbox)) for mailbox in mailboxes]
            is_done = not self._waiting
        if not is_done:
            self._loop.call_soon(self._hand_out)
        for mailbox, events in some:
            for event in events:
                mailbox.put(event)


def merged(events: Iterable[EngineEvent]) -> list[EngineEvent]:
    """Join each choice's token events; the last event of a request stays last."""
    tokens: dict[int, list[TokensEvent]] = {}
    rest: list[EngineEvent] = []
    for event in events:
        if isinstance(event, TokensEvent):
            tokens.setdefault(event.choice, []).append(event)
        else:
            rest.append(event)
    return [*(_joined(parts) for parts in tokens.values()), *rest]


def _joined(parts: list[TokensEvent]) -> TokensEvent:
    if len(parts) == 1:
        return parts[0]
    logprobs = [part.logprobs for part in parts if part.logprobs is not None]
    explanations = [part.explanations for part in parts if part.explanations is not None]
    return TokensEvent(
        choice=parts[0].choice,
        first_position=parts[0].first_position,
        token_ids=[token for part in parts for token in part.token_ids],
        text="".join(part.text for part in parts),
        logprobs=_joined_logprobs(logprobs) if logprobs else None,
        explanations=[one for part in explanations for one in part] if explanations else None,
        forced_positions=tuple(place for part in parts for place in part.forced_positions),
        behind=parts[-1].behind,
    )


def _joined_logprobs(parts: list[TokenLogprobs]) -> TokenLogprobs:
    joined = TokenLogprobs()
    for part in parts:
        joined.raw += part.raw
        joined.raw_rank += part.raw_rank
        joined.controlled += part.controlled
        joined.controlled_rank += part.controlled_rank
        joined.top_raw += part.top_raw
        joined.top_controlled += part.top_controlled
    return joined
