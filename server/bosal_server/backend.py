"""Everything behind a transport: database, recipes, experiments, models, engine, core."""

import asyncio
import importlib.metadata
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.fair_thread import Allowance
from bosal_decoding.constraints.frontend import load_types
from bosal_decoding.rules import installed
from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.configuration_metrics import Source
from bosal_server.core import GenerationCore
from bosal_server.database import Database
from bosal_server.delivery_filter import DeliveryFilter
from bosal_server.embedded import is_embedded_default, models_to_serve
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.privacy import Pseudonyms
from bosal_server.mailbox import Delivery
from bosal_server.metrics import Metrics
from bosal_server.prepared_models import PreparedModels
from bosal_server.recipe_store import RecipeStore
from bosal_server.recipe_watch import RecipeWatch

if TYPE_CHECKING:
    from bosal_server.tracing import Tracing

log = logging.getLogger(__name__)

# Distributions whose version can change what comes out.
_DECISIVE: Final = ("bosal", "torch", "transformers", "tokenizers", "openvino", "llguidance")


@dataclass(frozen=True, slots=True)
class Running:
    """A backend at work."""

    core: GenerationCore
    engine: EngineLoop
    # Of the folder and the database of recipes.
    watch: RecipeWatch


class Backend:
    """What a configuration asks for, loaded; `running` puts it to work."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        recipes: RecipeStore,
        default_recipe: str,
        models: PreparedModels,
        experiments: ExperimentManager,
        types: Mapping[str, Constraint],
        threads: int,
        delivery_filter: DeliveryFilter | None,
        tracing: "Tracing | None",
    ) -> None:
        self.metrics = Metrics()
        self._config = config
        self._recipes = recipes
        self._default_recipe = default_recipe
        self._models = models
        self._experiments = experiments
        self._types = types
        self._threads = threads
        self._filter = delivery_filter
        self._tracing = tracing
        self.trace_refusal = None if tracing is None else tracing.record_refusal

    @classmethod
    @contextmanager
    def open(cls, config: ServerConfig) -> "Iterator[Backend]":
        """Open the database and load the models; takes as long as a server's start does.

        Raises:
            ServerError: something cannot be opened, loaded or served.
            DecodingError: a recipe, a rule of a package or a type cannot be used.
        """
        types = load_types(config.python_types)
        judge = None
        if config.delivery_filter:
            judge = DeliveryFilter.load(config.delivery_filter, config.delivery_filter_seconds)
        for name, rule in installed().items():
            log.info("rule %s comes from %s", name, rule.package)
        threads = config.threads or max((os.cpu_count() or 1) - 1, 1)
        with _tracing(config) as tracing, closing(Database.open(config.database)) as database:
            recipes = RecipeStore.load(config.recipes, database)
            is_embedded = is_embedded_default(config.models)
            default_recipe = config.default_recipe or ("steered" if is_embedded else "plain")
            recipes.need(default_recipe)
            experiments = ExperimentManager(
                database, recipes, Pseudonyms.open(database, config.unit_key)
            )
            recipes.guard(experiments.recipe_users)
            wanted = models_to_serve(config.models, recipes)
            yield cls(
                config,
                recipes=recipes,
                default_recipe=default_recipe,
                models=PreparedModels.load(wanted, config, threads),
                experiments=experiments,
                types=types,
                threads=threads,
                delivery_filter=judge,
                tracing=tracing,
            )

    @asynccontextmanager
    async def running(self, on_crash: Callable[[], None] | None = None) -> AsyncIterator[Running]:
        """Take requests; at the end those inside fail, and what is to be kept is written.

        `on_crash` is called from the engine's thread when it ends by itself.
        """
        engine = self._engine(on_crash)
        core = self._core(engine)
        try:
            core.recipe_desk.check_capacity()
            reloads = self.metrics.configuration
            if self._config.recipes is not None:
                reloads.note_loaded(Source.RECIPES)
            observe = partial(reloads.note_reload, Source.RECIPES)
            with RecipeWatch(self._recipes, observe) as watch:
                self.metrics.watch_store(self._experiments.store_counts)
                engine.start()
                await self._experiments.start()
                yield Running(core, engine, watch)
        finally:
            await asyncio.to_thread(engine.stop)
            core.close()
            await self._experiments.close()

    def _engine(self, on_crash: Callable[[], None] | None) -> EngineLoop:
        config, metrics = self._config, self.metrics
        engine = EngineLoop(
            self._models.for_engine(),
            EngineConfig(
                max_groups=config.max_running,
                max_waiting=config.max_waiting,
                max_waiting_tokens=config.max_waiting_tokens,
                max_queue_seconds=config.max_queue_seconds,
                max_batch_tokens=config.max_batch_tokens,
                plugin_seconds=config.plugin_seconds,
                torch_threads=self._threads,
            ),
            deliver=Delivery(asyncio.get_running_loop()),
            observer=metrics,
            on_crash=on_crash,
        )
        self._models.describe(metrics)
        metrics.watch(engine.stats, self._models.names)
        return engine

    def _core(self, engine: EngineLoop) -> GenerationCore:
        constraints = ConstraintCompiler(
            self._types,
            # It is the interpreter's lock that is scarce: behind every operator of torch the
            # engine's thread waits for it.
            allowance=Allowance(self._config.constraint_share, lambda: engine.has_work),
        )
        for model in self._models:
            constraints.prepare(model.vocabulary)
        return GenerationCore(
            models=self._models.for_requests(),
            recipes=self._recipes,
            default_recipe=self._default_recipe,
            limits=self._config.limits,
            engine=engine,
            metrics=self.metrics,
            versions=_versions(),
            experiments=self._experiments,
            explain_share=self._config.explain_share,
            shared_scaffolds=self._config.shared_scaffolds,
            constraints=constraints,
            delivery_filter=self._filter,
            trace=None if self._tracing is None else self._tracing.record,
            log_prompts=self._config.log_prompts,
        )


@contextmanager
def _tracing(config: ServerConfig) -> "Iterator[Tracing | None]":
    """Send traces for as long as there is a backend, if they are asked for."""
    if config.trace_endpoint is None:
        yield None
        return
    try:
        from bosal_server.tracing import Tracing
    except ModuleNotFoundError as error:
        raise InvalidConfig(
            f"trace_endpoint needs {error.name}: pip install 'bosal[otel]'"
        ) from None
    with closing(Tracing.to(config.trace_endpoint)) as tracing:
        yield tracing


def _versions() -> Mapping[str, str]:
    versions = {"bosal": "unknown"}
    for name in _DECISIVE:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    for rule in installed().values():
        package, _, version = rule.package.partition(" ")
        versions[package] = version
    return versions
