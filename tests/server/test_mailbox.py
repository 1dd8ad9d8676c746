"""Events on their way to a reader: order kept, what is ready together joined."""

import asyncio
import itertools
import threading

from hypothesis import given
from hypothesis import strategies as st

from bosal_server.engine.request import (
    EngineEvent,
    FinishedEvent,
    Timings,
    TokenLogprobs,
    TokensEvent,
    TopTokens,
    Usage,
)
from bosal_server.mailbox import Delivery, Mailbox, merged

END = FinishedEvent((), Usage(1, 0, 1), Timings(0, 0, 0, 0, 0))


def token(choice: int, position: int) -> TokensEvent:
    top = TopTokens([position], [-1.0])
    logprobs = TokenLogprobs([-1.0], [1], [-0.5], [1], [top], [top])
    text = f"<{choice}.{position}>"
    return TokensEvent(choice, position, [position], text, logprobs, [None])


@given(st.lists(st.integers(0, 3), max_size=30))
def test_merging_keeps_each_choices_tokens_in_order(choices: list[int]) -> None:
    counts = dict.fromkeys(choices, 0)
    events: list[EngineEvent] = []
    for choice in choices:
        events.append(token(choice, counts[choice]))
        counts[choice] += 1
    *parts, last = merged([*events, END])

    assert last is END
    assert len(parts) == len(counts)
    for part in parts:
        assert isinstance(part, TokensEvent)
        assert part.logprobs is not None
        count = counts[part.choice]
        assert part.first_position == 0
        assert part.token_ids == list(range(count))
        assert part.text == "".join(f"<{part.choice}.{place}>" for place in range(count))
        assert len(part.logprobs.raw) == len(part.logprobs.top_controlled) == count
        assert part.explanations == [None] * count


def test_events_of_another_thread_wake_the_reader_in_order() -> None:
    async def read() -> list[EngineEvent]:
        mailbox = Mailbox()
        deliver = Delivery(asyncio.get_running_loop())

        def engine() -> None:
            for position in range(50):
                deliver([(mailbox, token(0, position))])
            deliver([(mailbox, END)])

        thread = threading.Thread(target=engine)
        thread.start()
        events: list[EngineEvent] = []
        while END not in events:
            events += await mailbox.take()
        thread.join()
        return events

    *parts, last = asyncio.run(read())
    assert last is END
    positions = [
        place for part in parts if isinstance(part, TokensEvent) for place in part.token_ids
    ]
    assert positions == list(range(50))


def test_a_steps_readers_are_woken_a_few_at_a_time_and_each_gets_all_that_waits() -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        deliver = Delivery(loop)
        mailboxes = [Mailbox() for _ in range(20)]
        deliver([(mailbox, token(0, 0)) for mailbox in mailboxes])
        # The next step is there before the first has been handed out.
        deliver([(mailbox, token(0, 1)) for mailbox in mailboxes])
        woken: list[int] = []
        is_done = asyncio.Event()

        def look() -> None:
            woken.append(sum(map(len, mailboxes)))
            if woken[-1] < 40:
                loop.call_soon(look)
            else:
                is_done.set()

        loop.call_soon(look)
        await is_done.wait()
        for mailbox in mailboxes:
            (event,) = await mailbox.take()
            assert isinstance(event, TokensEvent)
            assert event.token_ids == [0, 1]
        return woken

    woken = asyncio.run(run())
    steps = [after - before for before, after in itertools.pairwise([0, *woken])]
    # Four readers of two events, and something else in between.
    assert max(steps) == 8


def test_what_a_slow_reader_has_not_seen_is_joined() -> None:
    async def run() -> tuple[int, list[EngineEvent]]:
        mailbox = Mailbox()
        most = 0
        for position in range(1000):
            mailbox.put(token(position % 2, position // 2))
            most = max(most, len(mailbox))
        mailbox.put(END)
        return most, await mailbox.take()

    most, events = asyncio.run(run())
    assert most <= 64
    first, second, last = events
    assert last is END
    for choice, event in enumerate((first, second)):
        assert isinstance(event, TokensEvent)
        assert (event.choice, event.token_ids) == (choice, list(range(500)))


def test_forced_tokens_stay_marked_in_a_joined_event() -> None:
    events = [
        TokensEvent(0, 0, [5], "a", forced_positions=(0,)),
        TokensEvent(0, 1, [6, 7], "b", forced_positions=(2,)),
    ]
    (joined,) = merged(events)
    assert isinstance(joined, TokensEvent)
    assert joined.forced_positions == (0, 2)
