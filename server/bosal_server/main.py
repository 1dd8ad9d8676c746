"""Starts a server, keeps it until a signal, ends it in order."""

import asyncio
import importlib.metadata
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec

import prometheus_client
from rich.console import Console

from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.frontend import load_types
from bosal_decoding.errors import DecodingError
from bosal_decoding.rules import installed
from bosal_server.config import InvalidConfig, ModelConfig, ServerConfig
from bosal_server.core import GenerationCore
from bosal_server.database import Database
from bosal_server.embedded import is_embedded_default, models_to_serve
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.openvino_cache import default_folder
from bosal_server.engine.runner_choice import RunnerChoice, choose_runner
from bosal_server.errors import ServerError
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.privacy import Pseudonyms
from bosal_server.mailbox import Delivery
from bosal_server.metrics import Metrics
from bosal_server.model import LoadedModel, load_model
from bosal_server.recipe_store import RecipeStore
from bosal_server.recipe_watch import RecipeWatch
from bosal_server.rpc.server import RpcServer
from bosal_server.security import exposure
from bosal_server.security.access import Access
from bosal_server.security.tls import TlsCredentials, TlsFiles
from bosal_server.served_models import ServedModel

log = logging.getLogger(__name__)

# For a supervisor that restarts on failure: sysexits' EX_SOFTWARE.
_CRASHED = 70

# Distributions whose version can change what comes out.
_DECISIVE = ("bosal", "torch", "transformers", "tokenizers", "openvino", "llguidance")


def serve(config: ServerConfig) -> int:
    """Serve until SIGINT or SIGTERM; return the process's exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for part in ("bosal_server", "bosal_decoding", "bosal_kernels"):
        logging.getLogger(part).setLevel(config.log_level)
    try:
        exposure.check(config)
        access, tls = Access(config.key_file), _tls(config)
        types = load_types(config.python_types)
        _say_plugins()
        _check_port(config.host, config.port)
        with closing(Database.open(config.database)) as database:
            recipes = RecipeStore.load(config.recipes, database)
            default_recipe = _default_recipe(config, recipes)
            experiments = ExperimentManager(
                database, recipes, Pseudonyms.open(database, config.unit_key)
            )
            recipes.guard(experiments.recipe_users)
            models = [_load(model, config) for model in models_to_serve(config.models, recipes)]
            _compare(models)
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(
                    _serve(config, recipes, default_recipe, models, experiments, access, tls, types)
                )
    except (ServerError, DecodingError) as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


async def _serve(
    config: ServerConfig,
    recipes: RecipeStore,
    default_recipe: str,
    models: Sequence[LoadedModel],
    experiments: ExperimentManager,
    access: Access,
    tls: TlsCredentials | None,
    types: Mapping[str, Constraint],
) -> int:
    """Serve until a signal or the engine's end; return the process's exit code."""
    loop = asyncio.get_running_loop()
    threads = config.threads or max((os.cpu_count() or 1) - 1, 1)
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked_to_stop.set)
    has_crashed = asyncio.Event()

    def note_crash() -> None:
        has_crashed.set()
        asked_to_stop.set()

    def tell_crash() -> None:
        loop.call_soon_threadsafe(note_crash)

    metrics = Metrics()
    choices = {model.name: _choose(model, config, threads) for model in models}
    for name, choice in choices.items():
        runner = choice.runner
        metrics.describe(
            name,
            runner=runner.kind,
            dtype=runner.dtype,
            device=runner.device,
            is_fallback=choice.is_fallback,
        )
    engine = EngineLoop(
        {
            model.name: EngineModel(
                runner=choices[model.name].runner,
                vocabulary=model.vocabulary,
                context_tokens=model.context_tokens,
                digest=model.digest,
            )
            for model in models
        },
        EngineConfig(
            max_groups=config.max_running,
            max_waiting=config.max_waiting,
            max_waiting_tokens=config.max_waiting_tokens,
            max_queue_seconds=config.max_queue_seconds,
            max_batch_tokens=config.max_batch_tokens,
            plugin_seconds=config.plugin_seconds,
            torch_threads=threads,
        ),
        deliver=Delivery(loop),
        observer=metrics,
        on_crash=tell_crash,
    )
    metrics.watch(engine.stats, choices)
    constraints = ConstraintCompiler(types)
    for model in models:
        constraints.prepare(model.vocabulary)
    core = GenerationCore(
        models=[_served(model, choices[model.name]) for model in models],
        recipes=recipes,
        default_recipe=default_recipe,
        limits=config.limits,
        engine=engine,
        metrics=metrics,
        versions=_versions(),
        experiments=experiments,
        explain_share=config.explain_share,
        shared_scaffolds=config.shared_scaffolds,
        constraints=constraints,
    )
    core.recipe_desk.check_capacity()
    rpc = RpcServer(core, config, metrics, access, tls)
    with (
        _exported(metrics, config) as metrics_address,
        RecipeWatch(recipes, metrics.count_reload),
    ):
        engine.start()
        await experiments.start()
        loop.add_signal_handler(signal.SIGHUP, _reload, access, tls)
        try:
            address = await rpc.start()
            _announce(address, metrics_address, core)
            await asked_to_stop.wait()
            asked_to_stop.clear()
            await _drain(rpc, config.drain_seconds, asked_to_stop)
            return _CRASHED if has_crashed.is_set() else 0
        finally:
            await rpc.stop()
            await asyncio.to_thread(engine.stop)
            core.close()
            await experiments.close()


def _reload(access: Access, tls: TlsCredentials | None) -> None:
    """Read keys and certificates again; what cannot be read leaves the old in place."""
    sources: dict[str, Access | TlsCredentials] = {"keys": access}
    if tls is not None:
        sources["certificates"] = tls
    for what, source in sources.items():
        try:
            source.reload()
        except InvalidConfig as error:
            log.error("reloading %s: %s; the old ones stay", what, error)
        else:
            log.info("reloaded %s", what)


async def _drain(rpc: RpcServer, seconds: float, asked_again: asyncio.Event) -> None:
    """Let running calls end; a second signal ends the wait."""
    log.info("draining for at most %.0f s", seconds)
    draining = asyncio.create_task(rpc.drain(seconds))
    impatience = asyncio.create_task(asked_again.wait())
    await asyncio.wait((draining, impatience), return_when=asyncio.FIRST_COMPLETED)
    if not draining.done() or not draining.result():
        log.warning("calls were still running; they are cancelled")
    for task in (draining, impatience):
        task.cancel()


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


@contextmanager
def _exported(metrics: Metrics, config: ServerConfig) -> Iterator[str | None]:
    """Serve /metrics from a thread of its own."""
    if config.metrics_port < 0:
        yield None
        return
    host = config.metrics_host
    try:
        server, thread = prometheus_client.start_http_server(
            config.metrics_port, host, metrics.registry
        )
    except OSError as error:
        raise InvalidConfig(
            f"cannot serve metrics at {host}:{config.metrics_port}: {error.strerror}"
        ) from None
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _say_plugins() -> None:
    """Import the rules of other packages, and say which code will run in this process."""
    for name, rule in installed().items():
        log.info("rule %s comes from %s", name, rule.package)


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


def _check_port(host: str, port: int) -> None:
    """Find out before a model is loaded whether the port is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidConfig(f"cannot listen at {host}:{port}: {error.strerror}") from None


def _load(model: ModelConfig, config: ServerConfig) -> LoadedModel:
    with _progress(f"loading {model.name} from {model.source}"):
        return load_model(
            model.name,
            model.source,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
        )


def _compare(models: Sequence[LoadedModel]) -> None:
    """Say which models' logits can be combined: those whose ids are the same tokens."""
    first = models[0]
    for model in models[1:]:
        token = first.vocabulary.first_difference(model.vocabulary)
        if token is None:
            log.info("model %s shares the tokens of %s", model.name, first.name)
        else:
            log.info(
                "model %s has other tokens than %s, from id %d on: they can exchange text only",
                model.name,
                first.name,
                token,
            )


@contextmanager
def _progress(message: str) -> Iterator[None]:
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        log.info("%s", message)
        yield


def _choose(model: LoadedModel, config: ServerConfig, threads: int) -> RunnerChoice:
    with _progress(f"preparing {model.name}"):
        choice = choose_runner(
            model,
            preference=config.runner.value,
            dtype=config.dtype,
            cache_tokens=config.cache_tokens,
            threads=threads,
            conversions=config.conversions or default_folder(os.environ),
        )
    log.info("model %s runs on %s: %s", model.name, choice.runner.kind, choice.reason)
    return choice


def _served(model: LoadedModel, choice: RunnerChoice) -> ServedModel:
    runner = choice.runner
    return ServedModel(
        name=model.name,
        digest=model.digest,
        architecture=model.architecture,
        num_parameters=model.num_parameters,
        vocabulary=model.vocabulary,
        context_tokens=model.context_tokens,
        runner=runner.kind,
        runner_reason=choice.reason,
        dtype=runner.dtype,
        device=runner.device,
        cache_tokens=runner.num_blocks * runner.block_size,
    )


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
