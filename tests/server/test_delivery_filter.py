"""The operator's judge: asked before text leaves; refusing and failing both keep it in."""

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from bosal_server.config import InvalidConfig
from bosal_server.delivery_filter import DeliveryFilter, Withheld
from bosal_server.engine.request import (
    ChoiceEnding,
    FinishedEvent,
    FinishReason,
    Timings,
    TokensEvent,
    Usage,
)
from bosal_server.errors import InternalFault

ENDING = ChoiceEnding(0, FinishReason.MAX_TOKENS, "", 2, ())
END = FinishedEvent((ENDING,), Usage(1, 0, 2), Timings(0, 0, 0, 0, 0))


def check(judge: Callable[[str, bool], bool], *texts: str) -> None:
    async def run() -> None:
        with closing(DeliveryFilter(judge)) as owner:
            request = owner.watch()
            for position, text in enumerate(texts):
                await request.check(TokensEvent(0, position, [5], text))
            await request.check(END)

    asyncio.run(run())


def test_the_judge_sees_a_text_grow_and_end() -> None:
    seen: list[tuple[str, bool]] = []

    def judge(text: str, is_whole: bool) -> bool:
        seen.append((text, is_whole))
        return True

    check(judge, "a se", "", "cret")
    assert seen == [("a se", False), ("a secret", False), ("a secret", True)]


def test_it_is_asked_about_what_the_tokens_spell_behind_a_stop() -> None:
    seen: list[tuple[str, bool]] = []

    def judge(text: str, is_whole: bool) -> bool:
        seen.append((text, is_whole))
        return "secret" not in text

    async def run() -> None:
        with closing(DeliveryFilter(judge)) as owner:
            request = owner.watch()
            await request.check(TokensEvent(0, 0, [5], "all"))
            await request.check(TokensEvent(0, 1, [6], "", behind="\nQ: secret"))

    with pytest.raises(Withheld):
        asyncio.run(run())
    assert seen == [("all", False), ("all\nQ: secret", False)]


def test_what_it_refuses_is_withheld_across_deliveries() -> None:
    with pytest.raises(Withheld):
        check(lambda text, is_whole: "secret" not in text, "a se", "cret")


def test_a_judge_that_fails_lets_nothing_leave() -> None:
    def judge(text: str, is_whole: bool) -> bool:
        raise RuntimeError("no connection to the classifier")

    with pytest.raises(InternalFault):
        check(judge, "hello")


def test_a_judge_that_would_end_its_thread_fails_its_request_alone() -> None:
    def judge(text: str, is_whole: bool) -> bool:
        if text == "bad":
            sys.exit(1)
        return True

    async def run() -> None:
        with closing(DeliveryFilter(judge, seconds=60)) as owner:
            # One more than there are threads.
            for _ in range(3):
                with pytest.raises(InternalFault):
                    await owner.ask("bad", False)
            await owner.ask("good", True)

    asyncio.run(run())


def test_a_judge_that_does_not_return_lets_nothing_leave_and_holds_up_no_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    end = threading.Event()
    threads: list[threading.Thread] = []

    def judge(text: str, is_whole: bool) -> bool:
        threads.append(threading.current_thread())
        return end.wait(60)

    async def run() -> None:
        with closing(DeliveryFilter(judge, seconds=0.05)) as owner:
            # One more than there are threads.
            for _ in range(3):
                with pytest.raises(InternalFault):
                    await owner.ask("hello", False)

    asyncio.run(run())
    # They are still at it; the process would end without them.
    assert 1 <= len(threads) <= 2
    assert all(thread.is_alive() and thread.daemon for thread in threads)
    assert caplog.text.count("took over 0.05 s") == 3
    end.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["nowhere:judge", "json:nothing", "json", "json:__doc__", ":x"])
def test_a_judge_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InvalidConfig, match="delivery_filter"):
        DeliveryFilter.load(name, 10.0)
