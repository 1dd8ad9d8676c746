"""The operator's own judge of what may leave: asked before every delivery, off the event loop."""

import asyncio
import importlib
import logging
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Final

from bosal_server.config import InvalidConfig
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.errors import InternalFault, ServerError

log = logging.getLogger(__name__)

# The text of a choice so far, and whether it is whole: may it leave?
Judge = Callable[[str, bool], bool]

_NUM_THREADS: Final = 2


class Withheld(ServerError):
    """Raised when the operator's filter does not let a text leave."""

    reason = "WITHHELD"
    code = "ABORTED"

    def __init__(self) -> None:
        super().__init__("the server's delivery filter withheld the rest of this answer")


class DeliveryFilter:
    """Asks a judge about every choice's text before it is delivered.

    What the judge refuses ends the request with `Withheld`; what left before has left. A judge that
    raises, or takes longer than `seconds`, lets nothing leave. One that never returns keeps its
    thread, and nobody who closes the filter.
    """

    def __init__(self, judge: Judge, seconds: float = 10.0) -> None:
        self._judge = judge
        self._seconds = seconds
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        for _ in range(_NUM_THREADS):
            # An executor's threads would be waited for at the process's end.
            Thread(target=self._answer, name="bosal-filter", daemon=True).start()

    @classmethod
    def load(cls, name: str, seconds: float) -> "DeliveryFilter":
        """Import `MODULE:OBJECT`.

        Raises:
            InvalidConfig: there is no such function.
        """
        module, _, attribute = name.partition(":")
        try:
            judge = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidConfig(f"delivery_filter '{name}': {error}") from None
        if not callable(judge):
            raise InvalidConfig(f"delivery_filter '{name}' is no function")
        return cls(judge, seconds)

    def watch(self) -> "FilteredRequest":
        """Return who follows the texts of one request."""
        return FilteredRequest(self)

    def close(self) -> None:
        for _ in range(_NUM_THREADS):
            self._questions.put(None)

    async def ask(self, text: str, is_whole: bool) -> None:
        """Raise if a text may not leave."""
        question = _Question(text, is_whole)
        self._questions.put(question)
        try:
            async with asyncio.timeout(self._seconds):
                may_leave = await asyncio.wrap_future(question.answer)
        except TimeoutError:
            log.error("the delivery filter took over %g s; nothing is delivered", self._seconds)
            raise InternalFault from None
        except Exception:
            log.exception("the delivery filter failed; nothing is delivered")
            raise InternalFault from None
        if may_leave is not True:
            raise Withheld

    def _answer(self) -> None:
        while (question := self._questions.get()) is not None:
            # Nobody waits any more for one that is cancelled.
            if question.answer.set_running_or_notify_cancel():
                try:
                    question.answer.set_result(self._judge(question.text, question.is_whole))
                except BaseException as error:
                    # One that would end its thread, by sys.exit say, ends the request alone.
                    fault = error if isinstance(error, Exception) else RuntimeError(repr(error))
                    question.answer.set_exception(fault)


@dataclass(frozen=True, slots=True)
class _Question:
    text: str
    is_whole: bool
    answer: Future[bool] = field(default_factory=Future)


class FilteredRequest:
    """The texts of one request's choices so far."""

    def __init__(self, owner: DeliveryFilter) -> None:
        self._owner = owner
        self._texts: defaultdict[int, str] = defaultdict(str)

    async def check(self, event: TokensEvent | FinishedEvent) -> None:
        """Ask before an event leaves.

        Raises:
            Withheld: it may not.
        """
        if isinstance(event, FinishedEvent):
            for ending in event.endings:
                await self._owner.ask(self._texts[ending.choice], True)
            return
        text = self._texts[event.choice] = self._texts[event.choice] + event.text
        if event.text:
            await self._owner.ask(text, False)
        if event.behind:
            # Readers see it in the tokens, and in what is said of the stop.
            await self._owner.ask(text + event.behind, False)
