"""The models that come with this package, by their short names."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bosal_decoding.recipe import Recipe
from bosal_server.config import InvalidConfig, ModelConfig

_DEFAULT: Final = "base"


def models_to_serve(
    configured: Sequence[ModelConfig], recipes: Iterable[Recipe]
) -> tuple[ModelConfig, ...]:
    """Return what to load, short names resolved.

    Without a model of the operator's it is the embedded one, and those of its family that a recipe
    of the server names.
    """
    if configured:
        return tuple(_resolved(model) for model in configured)
    known = _names()
    if _DEFAULT not in known:
        raise InvalidConfig("this installation has no embedded model; name one with --model")
    named = dict.fromkeys(name for recipe in recipes for name in recipe.models)
    names = [_DEFAULT, *(name for name in named if name in known and name != _DEFAULT)]
    return tuple(_resolved(ModelConfig(name=name, source=name)) for name in names)


def is_embedded_default(configured: Sequence[ModelConfig]) -> bool:
    """Whether requests that name no model are answered by the embedded one."""
    if not configured:
        return True
    source = configured[0].source
    return source == _DEFAULT and not Path(source).exists()


def _resolved(model: ModelConfig) -> ModelConfig:
    """Find an embedded model by its short name; a folder of that name goes first."""
    if Path(model.source).exists() or model.source not in _names():
        return model
    import bosal_models

    return ModelConfig(name=model.name, source=str(bosal_models.path(model.source)))


def _names() -> list[str]:
    import bosal_models

    return bosal_models.names()
