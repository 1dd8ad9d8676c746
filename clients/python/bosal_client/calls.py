"""The calls both clients make: where each goes, what it sends, how its answer is read."""

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
    "Call",
    "Document",
    "archive_recipe",
    "create_recipe",
    "generate",
    "get_recipe",
    "list_models",
    "list_recipes",
    "list_rules",
    "score",
    "server_info",
    "tokenize",
    "validate",
]

Result = TypeVar("Result")

# A recipe as a mapping, or as YAML or JSON text.
Document = Mapping[str, Any] | str


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
    request = pb.TokenizeRequest()
    with requests.holding("model"):
        request.model = model
    if text is not None:
        with requests.holding("text"):
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
    request = recipe_pb2.GetRecipeRequest()
    with requests.holding("name"):
        request.name = name
    return Call(
        "/bosal.v1.RecipeService/GetRecipe",
        request,
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
    request = recipe_pb2.ArchiveRecipeRequest()
    with requests.holding("name"):
        request.name = name
    return Call(
        "/bosal.v1.RecipeService/ArchiveRecipe",
        request,
        recipe_pb2.ArchiveRecipeResponse,
        lambda response: tuple(descriptions.recipe(one) for one in response.recipes),
    )


def list_recipes(
    name: str = "", page_token: str = ""
) -> Call[tuple[list[descriptions.Recipe], str]]:
    """One page, and the token of the next or ""; of a `name`, all versions."""
    request = recipe_pb2.ListRecipesRequest(page_token=page_token)
    with requests.holding("name"):
        request.name = name
    return Call(
        "/bosal.v1.RecipeService/ListRecipes",
        request,
        recipe_pb2.ListRecipesResponse,
        lambda response: (
            [descriptions.recipe(one) for one in response.recipes],
            response.next_page_token,
        ),
    )


def validate(document: Document, model: str) -> Call[descriptions.Validation]:
    request = recipe_pb2.ValidateRecipeRequest()
    with requests.holding("model"):
        request.model = model
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
    with requests.holding("document"):
        request.document = document
