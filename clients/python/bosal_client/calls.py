"""The calls both clients make: where each goes, what it sends, how its answer is read."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from bosal.v1 import generation_pb2 as pb
from bosal.v1 import model_pb2, recipe_pb2
from bosal_client import descriptions, requests, responses, results
from bosal_client.documents import recipe_message
from bosal_client.errors import InvalidRequest
from bosal_client.requests import GenerationOptions, Prompt

__all__ = [
    "DEFAULT_SERVER",
    "Call",
    "Document",
    "archive_recipe",
    "channel_options",
    "create_recipe",
    "generate",
    "get_recipe",
    "list_models",
    "list_recipes",
    "list_rules",
    "score",
    "metadata",
    "server_info",
    "tokenize",
    "validate",
]

DEFAULT_SERVER = "127.0.0.1:50051"

Result = TypeVar("Result")

# A recipe as a mapping, or as YAML or JSON text.
Document = Mapping[str, Any] | str

# Only calls the server never began are tried again: UNAVAILABLE before the first message.
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "bosal.v1.GenerationService"},
                    {"service": "bosal.v1.RecipeService"},
                    {"service": "bosal.v1.ModelService"},
                    {"service": "bosal.v1.ExperimentService"},
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)

_IDLE_MS = 300_000
_LOOPBACK = ("127.", "localhost", "[::1]", "ipv4:127.", "unix:")


def channel_options(server: str) -> list[tuple[str, str | int]]:
    """Options of a channel to `server`."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.max_receive_message_length", -1),
        # Leaves before the server closes a connection that nobody uses.
        ("grpc.client_idle_timeout_ms", _IDLE_MS),
    ]
    if server.startswith(_LOOPBACK):
        # A proxy named in the environment cannot reach this machine's own loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def metadata(api_key: str) -> tuple[tuple[str, str], ...]:
    """Headers of every call: whose it is."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One unary call."""

    method: str
    request: Message
    response: type[Message]
    # Takes the response message.
    read: Callable[[Any], Result]


def generate(prompt: Prompt, options: GenerationOptions) -> Call[results.Generation]:
    return Call(
        "/bosal.v1.GenerationService/Generate",
        pb.GenerateRequest(spec=requests.generation_spec(prompt, options)),
        pb.GenerateResponse,
        responses.generation,
    )


def score(
    prompt: Prompt,
    continuation: str | Sequence[int],
    *,
    recipe: str | Mapping[str, Any],
    overrides: Iterable[Mapping[str, Any]],
    constraint: Mapping[str, Any] | None,
    model: str,
    logprobs: int,
) -> Call[results.Score]:
    return Call(
        "/bosal.v1.GenerationService/Score",
        requests.score_request(
            prompt,
            continuation,
            recipe=recipe,
            overrides=overrides,
            constraint=constraint,
            model=model,
            logprobs=logprobs,
        ),
        pb.ScoreResponse,
        responses.score,
    )


def tokenize(
    text: str | None,
    *,
    prompt: Prompt | None,
    recipe: str | Mapping[str, Any],
    model: str,
) -> Call[tuple[results.TokenSequence, ...]]:
    if (text is None) == (prompt is None):
        raise InvalidRequest("tokenize takes either a text or a prompt", field="source")
    request = pb.TokenizeRequest(model=model)
    if text is not None:
        request.text = text
    elif prompt is not None:
        request.prompt.CopyFrom(requests.prompt_source(prompt, recipe))
    return Call(
        "/bosal.v1.GenerationService/Tokenize",
        request,
        pb.TokenizeResponse,
        lambda response: tuple(responses.token_sequence(one) for one in response.sequences),
    )


def get_recipe(name: str) -> Call[descriptions.Recipe]:
    return Call(
        "/bosal.v1.RecipeService/GetRecipe",
        recipe_pb2.GetRecipeRequest(name=name),
        recipe_pb2.GetRecipeResponse,
        lambda response: descriptions.recipe(response.recipe),
    )


def create_recipe(document: Document) -> Call[descriptions.Recipe]:
    request = recipe_pb2.CreateRecipeRequest()
    _set_document(request, document)
    return Call(
        "/bosal.v1.RecipeService/CreateRecipe",
        request,
        recipe_pb2.CreateRecipeResponse,
        lambda response: descriptions.recipe(response.recipe),
    )


def archive_recipe(name: str) -> Call[tuple[descriptions.Recipe, ...]]:
    return Call(
        "/bosal.v1.RecipeService/ArchiveRecipe",
        recipe_pb2.ArchiveRecipeRequest(name=name),
        recipe_pb2.ArchiveRecipeResponse,
        lambda response: tuple(descriptions.recipe(one) for one in response.recipes),
    )


def list_recipes(
    name: str = "", page_token: str = ""
) -> Call[tuple[list[descriptions.Recipe], str]]:
    """One page, and the token of the next or ""; of a `name`, all versions."""
    return Call(
        "/bosal.v1.RecipeService/ListRecipes",
        recipe_pb2.ListRecipesRequest(name=name, page_token=page_token),
        recipe_pb2.ListRecipesResponse,
        lambda response: (
            [descriptions.recipe(one) for one in response.recipes],
            response.next_page_token,
        ),
    )


def validate(document: Document, model: str) -> Call[descriptions.Validation]:
    request = recipe_pb2.ValidateRecipeRequest(model=model)
    _set_document(request, document)
    return Call(
        "/bosal.v1.RecipeService/ValidateRecipe",
        request,
        recipe_pb2.ValidateRecipeResponse,
        descriptions.validation,
    )


def list_rules() -> Call[tuple[descriptions.Rule, ...]]:
    return Call(
        "/bosal.v1.RecipeService/ListRules",
        recipe_pb2.ListRulesRequest(),
        recipe_pb2.ListRulesResponse,
        lambda response: tuple(descriptions.rule(one) for one in response.rules),
    )


def list_models() -> Call[tuple[descriptions.Model, ...]]:
    return Call(
        "/bosal.v1.ModelService/ListModels",
        model_pb2.ListModelsRequest(),
        model_pb2.ListModelsResponse,
        lambda response: tuple(descriptions.model(one) for one in response.models),
    )


def server_info() -> Call[descriptions.ServerInfo]:
    return Call(
        "/bosal.v1.ModelService/GetServerInfo",
        model_pb2.GetServerInfoRequest(),
        model_pb2.GetServerInfoResponse,
        descriptions.server_info,
    )


def _set_document(
    request: recipe_pb2.CreateRecipeRequest | recipe_pb2.ValidateRecipeRequest, document: Document
) -> None:
    if not isinstance(document, str):
        request.recipe.CopyFrom(recipe_message(document, "recipe"))
        return
    try:
        request.document = document
    except ValueError as error:
        raise InvalidRequest(f"document: {error}", field="document") from error
