"""What SIGHUP reads again: keys, certificates and recipes."""

import asyncio
import logging
import signal
from collections.abc import Callable

from bosal_server.config import InvalidConfig
from bosal_server.configuration_metrics import ConfigurationMetrics, Source
from bosal_server.recipe_watch import RecipeWatch
from bosal_server.security.access import Access
from bosal_server.security.tls import TlsCredentials

log = logging.getLogger(__name__)


def hold_hangups() -> None:
    """Let a SIGHUP wait for `Reloading`: by itself it would end a server that is still loading.

    To be called before there are other threads, which inherit it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


class Reloading:
    """Reads again on SIGHUP; what cannot be read is logged and leaves the old in place."""

    def __init__(
        self,
        access: Access,
        tls: TlsCredentials | None,
        recipes: RecipeWatch,
        metrics: ConfigurationMetrics,
    ) -> None:
        self._tls = tls
        self._recipes = recipes
        self._metrics = metrics
        self._sources: dict[Source, Callable[[], None]] = {}
        if access.wants_keys:
            self._sources[Source.KEYS] = access.reload
        if tls is not None:
            self._sources[Source.CERTIFICATES] = tls.reload
            metrics.watch_certificates(lambda: tls.certificates)
        for source in self._sources:
            metrics.note_loaded(source)
        self._warn()
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self.reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def reload(self) -> None:
        log.info("SIGHUP: reading %s again", ", ".join([*self._sources, Source.RECIPES]))
        for source, read in self._sources.items():
            try:
                read()
            except InvalidConfig as error:
                log.error("reloading %s: %s; the old ones stay", source, error)
                self._metrics.note_reload(source, is_read=False)
            else:
                log.info("reloaded %s", source)
                self._metrics.note_reload(source, is_read=True)
        self._warn()
        # Its thread reads them, and tells what changed.
        self._recipes.wake()

    def _warn(self) -> None:
        for warning in () if self._tls is None else self._tls.warnings():
            log.warning("%s", warning)
