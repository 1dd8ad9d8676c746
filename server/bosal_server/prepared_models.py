"""The models of a configuration, loaded, each with what is to compute it."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console

from bosal_decoding.shadows import shadow_bytes
from bosal_server.config import ModelConfig, ServerConfig
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.openvino_cache import default_folder
from bosal_server.engine.runner_choice import RunnerChoice, choose_runner
from bosal_server.metrics import Metrics
from bosal_server.model import LoadedModel, load_model
from bosal_server.served_models import ServedModel

log = logging.getLogger(__name__)


class PreparedModels:
    """What the engine computes, and what requests see of it."""

    def __init__(
        self,
        models: Sequence[LoadedModel],
        choices: Mapping[str, RunnerChoice],
        max_explain_bytes: int,
    ) -> None:
        self._models = models
        self._choices = choices
        self._max_shadows = {
            model.name: max_explain_bytes
            // shadow_bytes(choices[model.name].runner.vocab_size, model.context_tokens)
            for model in models
        }

    @classmethod
    def load(
        cls, models: Sequence[ModelConfig], config: ServerConfig, threads: int
    ) -> "PreparedModels":
        """Load models and choose their runners; takes as long as a server's start does.

        Raises:
            ModelError: one cannot be served.
        """
        loaded = [_load(model, config) for model in models]
        _compare(loaded)
        choices = {model.name: _choose(model, config, threads) for model in loaded}
        return cls(loaded, choices, config.max_explain_bytes)

    def __iter__(self) -> Iterator[LoadedModel]:
        return iter(self._models)

    @property
    def names(self) -> list[str]:
        return [model.name for model in self._models]

    def for_engine(self) -> dict[str, EngineModel]:
        return {
            model.name: EngineModel(
                runner=self._choices[model.name].runner,
                vocabulary=model.vocabulary,
                context_tokens=model.context_tokens,
                max_shadows=self._max_shadows[model.name],
                digest=model.digest,
            )
            for model in self._models
        }

    def for_requests(self) -> list[ServedModel]:
        return [
            _served(model, self._choices[model.name], self._max_shadows[model.name])
            for model in self._models
        ]

    def describe(self, metrics: Metrics) -> None:
        """Tell the metrics what computes each model."""
        for name, choice in self._choices.items():
            metrics.describe(
                name,
                runner=choice.runner.kind,
                dtype=choice.precision,
                device=choice.runner.device,
                is_fallback=choice.is_fallback,
            )


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
            weights=config.weights.value,
            kv_cache=config.kv_cache.value,
            cascade_attention=config.cascade_attention,
            cache_tokens=config.cache_tokens,
            threads=threads,
            conversions=config.conversions or default_folder(os.environ),
        )
    if not choice.needs_torch_weights:
        model.release_weights()
    log.info("model %s runs on %s: %s", model.name, choice.runner.kind, choice.reason)
    return choice


def _served(model: LoadedModel, choice: RunnerChoice, max_shadows: int) -> ServedModel:
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
        dtype=choice.precision,
        device=runner.device,
        cache_tokens=runner.num_blocks * runner.block_size,
        max_shadows=max_shadows,
    )
