"""What a server says of itself and of its catalogue: models, rules, recipes, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from google.protobuf import timestamp_pb2

from bosal.v1 import model_pb2, recipe_pb2
from bosal_client.documents import plain, recipe_document

__all__ = [
    "CompiledRule",
    "ConstraintSupport",
    "KernelSupport",
    "Limits",
    "Model",
    "Recipe",
    "Rule",
    "ServerInfo",
    "Validation",
    "model",
    "recipe",
    "rule",
    "server_info",
    "validation",
]

_RECIPE_SOURCES: Final = {
    recipe_pb2.RECIPE_SOURCE_SHIPPED: "shipped",
    recipe_pb2.RECIPE_SOURCE_FOLDER: "folder",
    recipe_pb2.RECIPE_SOURCE_CREATED: "created",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe the server knows."""

    name: str
    version: str
    is_default: bool
    description: str
    document: Mapping[str, Any]
    # `shipped`, `folder` or `created`; "" from a server that does not say.
    source: str = ""
    # In UTC; of created and of archived recipes.
    created_at: datetime | None = None
    archived_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """What a rule became for one tokenizer."""

    rule: str
    stage: str
    params: Mapping[str, Any]
    token_ids: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The outcome of compiling a recipe for a model."""

    version: str
    num_streams: int
    scaffold_tokens: int
    rules: tuple[CompiledRule, ...]
    notes: tuple[str, ...]
    # The recipe as the server read it.
    document: Mapping[str, Any] = field(default_factory=dict)
    # Of the scaffold's tokens, those that are computed once for all requests.
    shared_tokens: int = 0
    # What the rules take per token of one choice, in seconds; None if the server cannot say.
    control_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the server's catalogue."""

    rule: str
    summary: str
    stage: str
    formula: str
    source: str
    params_schema: Mapping[str, Any]
    # Name and version of the installed package that brings it; "" for a built-in rule.
    package: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    name: str
    is_default: bool
    architecture: str
    digest: str
    num_parameters: int
    vocabulary_size: int
    context_tokens: int
    dtype: str
    runner: str
    runner_reason: str
    device: str
    cache_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    max_request_bytes: int
    max_choices: int
    max_top_logprobs: int
    max_rules: int
    max_stop_strings: int
    max_messages: int
    max_running_choices: int
    max_waiting_requests: int
    max_compared_recipes: int
    max_scored_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintSupport:
    """What a constraint may be."""

    kinds: tuple[str, ...]
    # Installed matchers, the default first.
    backends: tuple[str, ...]
    # Names that `python_type` takes.
    python_types: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSupport:
    """What executes control and draws."""

    # `torch` or `triton`.
    backend: str
    # Rules that fused kernels execute; the torch path executes the others.
    fused_rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    version: str
    versions: Mapping[str, str]
    default_model: str
    default_recipe: str
    limits: Limits
    constraints: ConstraintSupport
    kernels: KernelSupport
    models: tuple[Model, ...]


def recipe(message: recipe_pb2.RecipeVersion) -> Recipe:
    return Recipe(
        name=message.recipe.name,
        version=message.version,
        is_default=message.is_default,
        description=message.recipe.description,
        document=recipe_document(message.recipe),
        source=_RECIPE_SOURCES.get(message.source, ""),
        created_at=_time(message, "create_time"),
        archived_at=_time(message, "archive_time"),
    )


def rule(message: recipe_pb2.RuleDescription) -> Rule:
    return Rule(
        rule=message.rule,
        summary=message.summary,
        stage=message.stage,
        formula=message.formula,
        source=message.source,
        params_schema=plain(message.params_schema),
        package=message.package,
    )


def validation(message: recipe_pb2.ValidateRecipeResponse) -> Validation:
    return Validation(
        version=message.version,
        num_streams=message.num_streams,
        scaffold_tokens=message.scaffold_tokens,
        rules=tuple(
            CompiledRule(
                rule=compiled.rule,
                stage=compiled.stage,
                params=plain(compiled.params),
                token_ids={text: tuple(ids.ids) for text, ids in compiled.token_ids.items()},
            )
            for compiled in message.rules
        ),
        notes=tuple(message.notes),
        document=recipe_document(message.recipe),
        shared_tokens=message.shared_tokens,
        control_seconds=message.control.ToNanoseconds() / 1e9
        if message.HasField("control")
        else None,
    )


def model(message: model_pb2.Model) -> Model:
    names = Model.__dataclass_fields__
    return Model(**{name: getattr(message, name) for name in names})


def server_info(message: model_pb2.GetServerInfoResponse) -> ServerInfo:
    names = Limits.__dataclass_fields__
    return ServerInfo(
        version=message.version,
        versions=dict(message.versions),
        default_model=message.default_model,
        default_recipe=message.default_recipe,
        limits=Limits(**{name: getattr(message.limits, name) for name in names}),
        constraints=ConstraintSupport(
            kinds=tuple(message.constraints.kinds),
            backends=tuple(message.constraints.backends),
            python_types=tuple(message.constraints.python_types),
        ),
        kernels=KernelSupport(
            backend=message.kernels.backend,
            fused_rules=tuple(message.kernels.fused_rules),
        ),
        models=tuple(model(one) for one in message.models),
    )


def _time(
    message: recipe_pb2.RecipeVersion, field: Literal["create_time", "archive_time"]
) -> datetime | None:
    if not message.HasField(field):
        return None
    found: timestamp_pb2.Timestamp = getattr(message, field)
    return found.ToDatetime(tzinfo=UTC)
