"""Starts a server, keeps it until a signal, ends it in order."""

import asyncio
import importlib.metadata
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from importlib.util import find_spec

from rich.console import Console

from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.frontend import load_types
from bosal_decoding.errors import DecodingError
from bosal_decoding.rules import installed
from bosal_server import logs
from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.core import GenerationCore
from bosal_server.database import Database
from bosal_server.embedded import is_embedded_default, models_to_serve
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.errors import ServerError
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.privacy import Pseudonyms
from bosal_server.loop_watch import LoopWatch
from bosal_server.mailbox import Delivery
from bosal_server.metrics import Metrics
from bosal_server.metrics_endpoint import exported
from bosal_server.prepared_models import PreparedModels
from bosal_server.recipe_store import RecipeStore
from bosal_server.recipe_watch import RecipeWatch
from bosal_server.reloading import Reloading
from bosal_server.rpc.server import RpcServer
from bosal_server.security import exposure
from bosal_server.security.access import Access
from bosal_server.security.tls import TlsCredentials, TlsFiles
from bosal_server.shutdown import Shutdown
from bosal_server.warm_up import warm_up

log = logging.getLogger(__name__)

# Distributions whose version can change what comes out.
_DECISIVE = ("bosal", "torch", "transformers", "tokenizers", "openvino", "llguidance")


def serve(config: ServerConfig) -> int:
    """Serve until SIGINT or SIGTERM; return the process's exit code."""
    logs.set_up(config.log_level, config.log_format)
    try:
        exposure.check(config)
        access, tls = Access(config.key_file), _tls(config)
        types = load_types(config.python_types)
        _say_plugins()
        _check_port(config.host, config.port)
        threads = config.threads or max((os.cpu_count() or 1) - 1, 1)
        with closing(Database.open(config.database)) as database:
            recipes = RecipeStore.load(config.recipes, database)
            default_recipe = _default_recipe(config, recipes)
            experiments = ExperimentManager(
                database, recipes, Pseudonyms.open(database, config.unit_key)
            )
            recipes.guard(experiments.recipe_users)
            wanted = models_to_serve(config.models, recipes)
            models = PreparedModels.load(wanted, config, threads)
            server = Server(config, recipes, default_recipe, models, experiments, types)
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(server.run(access, tls, threads))
    except (ServerError, DecodingError) as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


class Server:
    """Puts the parts of a server together and runs them."""

    def __init__(
        self,
        config: ServerConfig,
        recipes: RecipeStore,
        default_recipe: str,
        models: PreparedModels,
        experiments: ExperimentManager,
        types: Mapping[str, Constraint],
    ) -> None:
        self._config = config
        self._recipes = recipes
        self._default_recipe = default_recipe
        self._models = models
        self._experiments = experiments
        self._types = types
        self._metrics = Metrics()

    async def run(self, access: Access, tls: TlsCredentials | None, threads: int) -> int:
        """Serve until a signal or the engine's end; return the process's exit code."""
        config, metrics = self._config, self._metrics
        shutdown = Shutdown(
            lame_duck_seconds=config.lame_duck_seconds, drain_seconds=config.drain_seconds
        )
        engine = self._engine(threads, shutdown)
        core = self._core(engine)
        core.recipe_desk.check_capacity()
        rpc = RpcServer(core, config, metrics, access, tls)
        with (
            exported(metrics, config) as metrics_address,
            RecipeWatch(self._recipes, metrics.count_reload) as watch,
        ):
            metrics.watch_store(self._experiments.store_counts)
            engine.start()
            await self._experiments.start()
            Reloading(access, tls, watch)
            try:
                await warm_up(core, engine)
                address = await rpc.start()
                _announce(address, metrics_address, core)
                async with LoopWatch(metrics):
                    await shutdown.wait()
                    await shutdown.drain(rpc)
                return shutdown.exit_code
            finally:
                await rpc.stop()
                await asyncio.to_thread(engine.stop)
                core.close()
                await self._experiments.close()

    def _engine(self, threads: int, shutdown: Shutdown) -> EngineLoop:
        config, metrics = self._config, self._metrics
        engine = EngineLoop(
            self._models.for_engine(),
            EngineConfig(
                max_groups=config.max_running,
                max_waiting=config.max_waiting,
                max_waiting_tokens=config.max_waiting_tokens,
                max_queue_seconds=config.max_queue_seconds,
                max_batch_tokens=config.max_batch_tokens,
                plugin_seconds=config.plugin_seconds,
                torch_threads=threads,
            ),
            deliver=Delivery(asyncio.get_running_loop()),
            observer=metrics,
            on_crash=shutdown.tell_crash,
        )
        self._models.describe(metrics)
        metrics.watch(engine.stats, self._models.names)
        return engine

    def _core(self, engine: EngineLoop) -> GenerationCore:
        constraints = ConstraintCompiler(self._types)
        for model in self._models:
            constraints.prepare(model.vocabulary)
        return GenerationCore(
            models=self._models.for_requests(),
            recipes=self._recipes,
            default_recipe=self._default_recipe,
            limits=self._config.limits,
            engine=engine,
            metrics=self._metrics,
            versions=_versions(),
            experiments=self._experiments,
            explain_share=self._config.explain_share,
            shared_scaffolds=self._config.shared_scaffolds,
            constraints=constraints,
        )


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


def _tls(config: ServerConfig) -> TlsCredentials | None:
    if config.tls_certificate is None or config.tls_key is None:
        return None
    files = TlsFiles(
        certificate=config.tls_certificate, key=config.tls_key, client_ca=config.tls_client_ca
    )
    return TlsCredentials(files)


def _default_recipe(config: ServerConfig, recipes: RecipeStore) -> str:
    name = config.default_recipe or ("steered" if is_embedded_default(config.models) else "plain")
    recipes.need(name)
    return name


def _say_plugins() -> None:
    """Import the rules of other packages, and say which code will run in this process."""
    for name, rule in installed().items():
        log.info("rule %s comes from %s", name, rule.package)


def _check_port(host: str, port: int) -> None:
    """Find out before a model is loaded whether the port is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidConfig(f"cannot listen at {host}:{port}: {error.strerror}") from None


def _versions() -> Mapping[str, str]:
    versions = {"bosal": "unknown"}
    for name in _DECISIVE:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    for rule in installed().values():
        package, _, version = rule.package.partition(" ")
        versions[package] = version
    return versions


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Take uvloop where it is installed: it carries half again as many messages."""
    if find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
