"""Comparisons of recipes: how one is asked for, and what comes back."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bosal.v1 import generation_pb2 as pb
from bosal_client import requests, responses, results
from bosal_client.documents import rule_messages
from bosal_client.errors import InvalidRequest
from bosal_client.requests import GenerationOptions, Prompt

__all__ = ["ComparedRecipe", "Comparison", "Divergence", "RecipeTokens", "Transcript", "request"]


class ComparedRecipe(NamedTuple):
    """A recipe of a comparison: `name`, `name@version` or a document, and overrides of its own."""

    recipe: str | Mapping[str, Any] = ""
    overrides: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeTokens:
    """Tokens of one of the compared recipes, counted from 0."""

    recipe: int
    tokens: results.TokenBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a recipe's output first differs from the first recipe's; no position: nowhere."""

    recipe: int
    position: int | None
    # Of the first recipe and of this one; None where the output had ended.
    first_token: int | None
    token: int | None
    first_token_bytes: bytes
    token_bytes: bytes
    # `rule`, `prompt`, `numerics`, `ending`; empty if the outputs are equal.
    cause: str
    # The rules of either recipe that alone decided it.
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every recipe's answer, and where each but the first leaves the first."""

    generations: tuple[results.Generation, ...]
    divergences: tuple[Divergence, ...]


def request(
    prompt: Prompt,
    recipes: Iterable[str | Mapping[str, Any] | ComparedRecipe],
    options: GenerationOptions,
) -> pb.CompareRequest:
    """Write a request; a value protobuf cannot hold is an error that names its field."""
    if isinstance(recipes, str | Mapping):
        raise InvalidRequest("recipes: a list of 2 to 8 recipes, not one", field="recipes")
    message = pb.CompareRequest(spec=requests.generation_spec(prompt, options))
    for place, one in enumerate(recipes):
        compared = one if isinstance(one, ComparedRecipe) else ComparedRecipe(one)
        field = f"recipes[{place}]"
        written = message.recipes.add()
        requests.set_recipe(written, compared.recipe, field)
        written.overrides.extend(rule_messages(compared.overrides, f"{field}.overrides"))
    return message


class Transcript:
    """Puts the events of a comparison together."""

    def __init__(self, num_recipes: int) -> None:
        self._recipes = [responses.Transcript() for _ in range(num_recipes)]
        self._divergences: dict[int, Divergence] = {}

    @property
    def is_over(self) -> bool:
        return len(self._divergences) == len(self._recipes) - 1 and all(
            one.finished is not None for one in self._recipes
        )

    def add(self, message: pb.CompareResponse) -> RecipeTokens | Divergence | None:
        """Take an event; return it if it is one to look at while it runs."""
        match message.WhichOneof("event"):
            case "started":
                self._recipes[message.started.recipe].add(
                    responses.started(message.started.started)
                )
            case "tokens":
                batch = responses.token_batch(message.tokens.tokens)
                self._recipes[message.tokens.recipe].add(batch)
                return RecipeTokens(recipe=message.tokens.recipe, tokens=batch)
            case "finished":
                finished = responses.finished(message.finished.finished)
                self._recipes[message.finished.recipe].add(finished)
            case "divergence":
                divergence = _divergence(message.divergence)
                self._divergences[divergence.recipe] = divergence
                return divergence
        return None

    def result(self) -> Comparison:
        return Comparison(
            generations=tuple(one.result() for one in self._recipes),
            divergences=tuple(self._divergences[place] for place in sorted(self._divergences)),
        )


def _divergence(message: pb.Divergence) -> Divergence:
    return Divergence(
        recipe=message.recipe,
        position=message.position if message.HasField("position") else None,
        first_token=message.first_token if message.HasField("first_token") else None,
        token=message.token if message.HasField("token") else None,
        first_token_bytes=message.first_token_bytes,
        token_bytes=message.token_bytes,
        cause=_cause(message.cause),
        rules=tuple(message.rules),
    )


def _cause(value: int) -> str:
    if value == pb.DIVERGENCE_CAUSE_UNSPECIFIED:
        return ""
    if value not in pb.DivergenceCause.values():  # A newer server's.
        return f"cause_{value}"
    name = pb.DivergenceCause.Name(pb.DivergenceCause.ValueType(value))
    return name[len("DIVERGENCE_CAUSE_") :].lower()
