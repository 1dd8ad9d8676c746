"""Notices new recipes: files of the folder that changed, versions other servers created."""

import logging
from collections.abc import Callable
from threading import Event, Thread
from typing import Final, Self

from bosal_decoding.errors import DecodingError
from bosal_server.database import DatabaseUnavailable
from bosal_server.errors import ServerError
from bosal_server.recipe_store import RecipeStore

_PERIOD_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class RecipeWatch:
    """A thread that keeps a store up to date while it is entered.

    A folder with a wrong file keeps serving what it held before; that is logged, once, and
    told to `observe` (True: read, False: refused).
    """

    def __init__(
        self,
        store: RecipeStore,
        observe: Callable[[bool], None],
        *,
        period: float = _PERIOD_SECONDS,
    ) -> None:
        self._store = store
        self._observe = observe
        self._period = period
        self._is_over = False
        self._is_awake = Event()
        self._thread = Thread(target=self._run, name="bosal-recipes", daemon=True)
        self._has_database = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self.wake()
        self._thread.join()

    def wake(self) -> None:
        """Read now, from any thread, not when the period is over."""
        self._is_awake.set()

    def _run(self) -> None:
        while True:
            is_asked = self._is_awake.wait(self._period)
            self._is_awake.clear()
            if self._is_over:
                return
            self._reload(is_asked)
            self._refresh()

    def _reload(self, is_asked: bool) -> None:
        try:
            changes = self._store.reload(is_asked=is_asked)
        except (DecodingError, ServerError, OSError) as error:
            log.error("the folder's recipes stay as they were: %s", error)
            self._observe(False)
            return
        if changes is not None:
            log.info("read the folder's recipes again: %s", changes)
            self._observe(True)

    def _refresh(self) -> None:
        try:
            self._store.refresh()
        except DatabaseUnavailable as error:
            if self._has_database:
                log.error("recipes of other servers are not seen: %s", error)
            self._has_database = False
            return
        self._has_database = True
