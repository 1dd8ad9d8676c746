"""How a server ends: told by a signal, or because its engine crashed."""

import asyncio
import logging
import math
import signal

from bosal_server.rpc.server import RpcServer

log = logging.getLogger(__name__)

# For a supervisor that restarts on failure: sysexits' EX_SOFTWARE.
_CRASHED = 70
# `timeout` and some supervisors signal the process and then its group: that is one SIGTERM, twice.
_ONE_SIGNAL_SECONDS = 1.0


class Shutdown:
    """Waits for the reason to end; belongs to the event loop it was made in.

    SIGTERM: health says NOT_SERVING, calls are still taken for the lame duck's time, so that
    whoever balances load can look elsewhere; then new ones are refused and running ones may end.
    SIGINT: the same without a lame duck. A second signal ends every wait; a SIGTERM that follows
    another within a second is the same one.
    """

    def __init__(self, *, lame_duck_seconds: float, drain_seconds: float) -> None:
        self._lame_duck_seconds = lame_duck_seconds
        self._drain_seconds = drain_seconds
        self._loop = asyncio.get_running_loop()
        self._is_asked = asyncio.Event()
        self._is_urgent = False
        self._has_crashed = False
        self._last_sigterm = -math.inf
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._ask, number)

    @property
    def exit_code(self) -> int:
        return _CRASHED if self._has_crashed else 0

    def tell_crash(self) -> None:
        """Say, from any thread, that the engine is gone."""
        self._loop.call_soon_threadsafe(self._note_crash)

    async def wait(self) -> None:
        await self._is_asked.wait()

    async def drain(self, rpc: RpcServer) -> None:
        """Send callers elsewhere and let running calls end."""
        if self._has_crashed:
            await rpc.drain(self._drain_seconds)
            return
        self._is_asked.clear()
        draining = asyncio.create_task(self._drain(rpc))
        impatience = asyncio.create_task(self._is_asked.wait())
        await asyncio.wait((draining, impatience), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done() or not draining.result():
            log.warning("calls were still running; they are cancelled")
        for task in (draining, impatience):
            task.cancel()

    async def _drain(self, rpc: RpcServer) -> bool:
        await rpc.stop_serving()
        if self._lame_duck_seconds and not self._is_urgent:
            log.info("lame duck for %g s: calls are still taken", self._lame_duck_seconds)
            await asyncio.sleep(self._lame_duck_seconds)
        log.info("draining for at most %g s", self._drain_seconds)
        return await rpc.drain(self._drain_seconds)

    def _ask(self, number: int) -> None:
        if number == signal.SIGTERM:
            now = self._loop.time()
            is_repeated = now - self._last_sigterm < _ONE_SIGNAL_SECONDS
            self._last_sigterm = now
            if is_repeated:
                return
        self._is_urgent = number == signal.SIGINT
        self._is_asked.set()

    def _note_crash(self) -> None:
        self._has_crashed = True
        self._is_asked.set()
