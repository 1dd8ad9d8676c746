"""Comparisons: protobuf to the command, what comes of it to protobuf."""

from collections.abc import Mapping

from bosal.v1 import generation_pb2 as pb
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.comparison import (
    CompareCommand,
    ComparedRecipe,
    RecipeEvent,
    check_recipes,
)
from bosal_server.divergence import Divergence, DivergenceCause
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.limits import Limits
from bosal_server.request_errors import InvalidRequest, located
from bosal_server.rpc import convert
from bosal_server.rpc.documents import recipe_document, rule_documents
from bosal_server.rpc.spelling import token_bytes
from bosal_server.started import Started

_CAUSES = {
    cause: pb.DivergenceCause.Value(f"DIVERGENCE_CAUSE_{cause.value}") for cause in DivergenceCause
}
# Fields of the shared part that the recipes bring along, or that make no sense for several.
_UNSHARED = ("recipe", "inline_recipe", "overrides", "num_choices", "experiment")


def compare_command(
    request: pb.CompareRequest, deadline: float | None, limits: Limits
) -> CompareCommand:
    given = {field.name for field, _ in request.spec.ListFields()}
    for name in _UNSHARED:
        if name in given:
            what = "one answer each" if name == "num_choices" else "each of `recipes` has its own"
            field = f"spec.{name}"
            raise InvalidRequest(f"{field} must stay unset: {what}", field=field)
    # Before half a million of them are read, which takes seconds.
    check_recipes(len(request.recipes))
    recipes = []
    for place, one in enumerate(request.recipes):
        with located(f"recipes[{place}]"):
            recipes.append(_compared_recipe(one))
    with located("spec"):
        shared = convert.generate_command(request.spec, deadline, limits)
    return CompareCommand(shared=shared, recipes=recipes)


def _compared_recipe(one: pb.ComparedRecipe) -> ComparedRecipe:
    recipe: str | Mapping[str, object] = one.recipe
    if one.HasField("inline_recipe"):
        with located("inline_recipe"):
            recipe = recipe_document(one.inline_recipe)
    return ComparedRecipe(recipe=recipe, overrides=rule_documents(one.overrides, "overrides"))


def compare_response(
    event: RecipeEvent | Divergence, versions: dict[str, str], vocabulary: Vocabulary
) -> pb.CompareResponse:
    if isinstance(event, Divergence):
        return pb.CompareResponse(divergence=_divergence(event, vocabulary))
    match event.event:
        case Started():
            started = convert.started(event.event, versions)
            return pb.CompareResponse(
                started=pb.ComparisonStarted(recipe=event.recipe, started=started)
            )
        case TokensEvent():
            tokens = convert.token_batch(event.event, vocabulary)
            return pb.CompareResponse(
                tokens=pb.ComparisonTokens(recipe=event.recipe, tokens=tokens)
            )
        case FinishedEvent():
            finished = convert.finished(event.event)
            return pb.CompareResponse(
                finished=pb.ComparisonFinished(recipe=event.recipe, finished=finished)
            )


def _divergence(found: Divergence, vocabulary: Vocabulary) -> pb.Divergence:
    message = pb.Divergence(recipe=found.recipe, rules=found.rules)
    if found.position is not None:
        message.position = found.position
    if found.cause is not None:
        message.cause = _CAUSES[found.cause]
    if found.first_token is not None:
        message.first_token = found.first_token
        (message.first_token_bytes,) = token_bytes((found.first_token,), vocabulary)
    if found.token is not None:
        message.token = found.token
        (message.token_bytes,) = token_bytes((found.token,), vocabulary)
    return message
