"""The operator's own judge of what may leave: asked before every delivery, off the event loop."""

import asyncio
import importlib
import logging
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bosal_server.config import InvalidConfig
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.errors import InternalFault, ServerError

log = logging.getLogger(__name__)

# The text of a choice so far, and whether it is whole: may it leave?
Judge = Callable[[str, bool], bool]


class Withheld(ServerError):
    """Raised when the operator's filter does not let a text leave."""

    reason = "WITHHELD"
    code = "ABORTED"

    def __init__(self) -> None:
        super().__init__("the server's delivery filter withheld the rest of this answer")


class DeliveryFilter:
    """Asks a judge about every choice's text before it is delivered.

    What the judge refuses ends the request with `Withheld`; what left before has left. A judge that
    raises lets nothing leave.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="bosal-filter")

    @classmethod
    def load(cls, name: str) -> "DeliveryFilter":
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
        return cls(judge)

    def watch(self) -> "FilteredRequest":
        """Return who follows the texts of one request."""
        return FilteredRequest(self)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    async def ask(self, text: str, is_whole: bool) -> None:
        """Raise if a text may not leave."""
        loop = asyncio.get_running_loop()
        try:
            may_leave = await loop.run_in_executor(self._threads, self._judge, text, is_whole)
        except Exception:
            log.exception("the delivery filter failed; nothing is delivered")
            raise InternalFault from None
        if may_leave is not True:
            raise Withheld


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
        elif event.text:
            self._texts[event.choice] += event.text
            await self._owner.ask(self._texts[event.choice], False)
