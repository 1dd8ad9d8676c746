"""Bosal without a server: the same calls, answered by an engine in this process."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any, Final, Self

from bosal_client.client import ChannelClient
from bosal_server import config_file
from bosal_server.backend import Backend
from bosal_server.config import ModelConfig, ServerConfig
from bosal_server.database import TEMPORARY
from bosal_server.rpc.in_process import InProcessChannel
from bosal_server.settings import build, settings_of

# Settings of `bosal serve` that are about its ports, its callers or its log.
_OF_SERVERS: Final = frozenset(
    {
        *("models", "host", "port", "metrics_host", "metrics_port", "log_level", "drain_seconds"),
        *("lame_duck_seconds", "log_format", "write_stall_seconds"),
        *("tls_certificate", "tls_key", "tls_client_ca", "key_file", "allow_insecure"),
    }
)


class Engine(ChannelClient):
    """Models and an engine in this process, with the methods of `Client`; for notebooks.

        with Engine() as engine:
            print(engine.generate("Name three rivers.", seed=7).choices[0].text)

    Answers, explanations and errors are those of a server with the same settings: requests pass
    through the same services, without a socket. Any thread may call; the engine has its own.
    """

    def __init__(self, *models: str, **settings: Any) -> None:
        """Load models, as `bosal serve --model` names them; none is the embedded one.

        `settings` are those of `bosal serve` (`recipes`, `default_recipe`, `device`, `max_running`,
        …). What is created lives as long as the engine, unless `database` names a file.

        Raises:
            InvalidConfig: a setting is none, or its value cannot be.
            ServerError: a model, a recipe or the database cannot be used.
        """
        config = _config(models, settings)
        # The engine's thread changes it for the whole process.
        # Python keeps whole microseconds and cuts off: what it returns, given back, is one less.
        self._switch_interval = round(sys.getswitchinterval(), 6)
        self._stack = ExitStack()
        self._backend = self._stack.enter_context(Backend.open(config))
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._is_over = asyncio.Event()
        self._channels: Future[InProcessChannel] = Future()
        self._thread = Thread(target=self._work, name="bosal-in-process", daemon=True)
        self._thread.start()
        try:
            channel = self._channels.result()
        except BaseException:
            self._thread.join()
            self._stack.close()
            raise
        super().__init__(channel)

    def close(self) -> None:
        """Cancel the calls that run and let go of the models; closing twice is fine."""
        if self._thread.is_alive():
            super().close()
            self._loop.call_soon_threadsafe(self._is_over.set)
            self._thread.join()
            sys.setswitchinterval(self._switch_interval)
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def _work(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._answer())
            except BaseException as error:
                if self._channels.done():
                    raise
                self._channels.set_exception(error)

    async def _answer(self) -> None:
        """Answer calls until the engine is closed."""
        async with self._backend.running() as running:
            channel = InProcessChannel(
                running.core,
                self._config,
                self._backend.metrics,
                self._backend.trace_refusal,
            )
            self._channels.set_result(channel)
            await self._is_over.wait()
            channel.close()


def _config(models: Sequence[str], settings: Mapping[str, Any]) -> ServerConfig:
    """Read settings given as Python values, as strictly as those of a file."""
    known = [one for one in settings_of(ServerConfig) if one.name not in _OF_SERVERS]
    given = {
        name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
    }
    values: dict[str, Any] = {"models": ModelConfig.parse_all(models), "database": TEMPORARY}
    checked = config_file.check(given, known, "")
    for one in known:
        if one.name in checked:
            values[one.name] = one.value(checked[one.name])
    config: ServerConfig = build(ServerConfig, values)
    return config
