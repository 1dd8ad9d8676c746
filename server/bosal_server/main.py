"""Starts a server, keeps it until a signal, ends it in order."""

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from bosal_decoding.errors import DecodingError
from bosal_server import logs
from bosal_server.backend import Backend
from bosal_server.config import ServerConfig
from bosal_server.core import GenerationCore
from bosal_server.errors import ServerError
from bosal_server.event_loop import loop_factory
from bosal_server.file_limit import connections, raise_limit
from bosal_server.loop_watch import LoopWatch
from bosal_server.metrics_endpoint import exported
from bosal_server.ports import check_port
from bosal_server.reloading import Reloading, hold_hangups
from bosal_server.rpc.server import RpcServer
from bosal_server.security import exposure
from bosal_server.security.access import Access
from bosal_server.security.tls import TlsCredentials
from bosal_server.shutdown import Shutdown
from bosal_server.warm_up import warm_up


def serve(config: ServerConfig) -> int:
    """Serve until SIGINT or SIGTERM; return the process's exit code."""
    hold_hangups()
    logs.set_up(config.log_level, config.log_format)
    try:
        exposure.check(config)
        raise_limit(connections(config.max_connections))
        access, tls = Access(config.key_file), TlsCredentials.of(config)
        check_port(config.host, config.port)
        with (
            Backend.open(config) as backend,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            return runner.run(_serve(config, backend, access, tls))
    except (ServerError, DecodingError) as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


async def _serve(
    config: ServerConfig, backend: Backend, access: Access, tls: TlsCredentials | None
) -> int:
    """Serve until a signal or the engine's end; return the process's exit code."""
    metrics = backend.metrics
    shutdown = Shutdown(
        lame_duck_seconds=config.lame_duck_seconds, drain_seconds=config.drain_seconds
    )
    async with backend.running(shutdown.tell_crash) as running:
        rpc = RpcServer(running.core, config, metrics, access, tls, backend.trace_refusal)
        with exported(metrics, config) as metrics_address:
            Reloading(access, tls, running.watch, metrics.configuration)
            try:
                await warm_up(running.core, running.engine)
                with _frozen_heap():
                    address = await rpc.start()
                    _announce(address, metrics_address, running.core)
                    async with LoopWatch(metrics):
                        await shutdown.wait()
                        await shutdown.drain(rpc)
                return shutdown.exit_code
            finally:
                await rpc.stop()


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Spare the collector what is there now and stays: a walk through it stops all for 0.3 s.

    It is given back at the end: nanobind takes for leaked what no collection has seen by then.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _announce(address: str, metrics_address: str | None, core: GenerationCore) -> None:
    """Say on one line that the server is ready, and for what."""
    models = "; ".join(
        f"{model.name} ({model.runner}, {model.device}, {model.dtype})" for model in core.models
    )
    parts = [f"ready at {address}", f"model {models}", f"recipe {core.default_recipe}"]
    if metrics_address is not None:
        parts.append(f"metrics http://{metrics_address}/metrics")
    sys.stdout.write(", ".join(parts) + "\n")
    sys.stdout.flush()
