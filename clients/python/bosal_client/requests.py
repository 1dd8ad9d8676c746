"""What a caller asks for, as protobuf; shared by both clients."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from bosal.v1 import generation_pb2 as pb
from bosal_client.constraints import constraint_message
from bosal_client.documents import recipe_message, rule_messages
from bosal_client.errors import InvalidRequest

__all__ = [
    "GenerationOptions",
    "Message",
    "Prompt",
    "assistant",
    "generation_spec",
    "prompt_source",
    "user",
]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


def user(text: str) -> Message:
    """Say something as the user."""
    return Message("user", text)


def assistant(text: str) -> Message:
    """Say something as the assistant."""
    return Message("assistant", text)


class GenerationOptions(TypedDict, total=False):
    """Options of `generate` and `stream`; what is left out, the server decides."""

    # A served model's name.
    model: str
    # `name`, `name@version`, or a whole recipe document.
    recipe: str | Mapping[str, Any]
    # Rules (`{"rule": "top_p", "p": 0.9}`) that replace parameters of the recipe's.
    overrides: Iterable[Mapping[str, Any]]
    # Takes the place of the recipe's: `{"choice": [...]}`, `{"regex": ...}`, …
    constraint: Mapping[str, Any]
    num_choices: int
    max_tokens: int
    # low, normal or high.
    priority: str
    seed: int
    # How many alternatives per position; 0: the chosen token alone.
    logprobs: int
    # Explain every token.
    explain: bool
    # An experiment, which then gives the recipe, and who is served.
    experiment: str
    unit: str
    # For debugging: serve this variant.
    force_variant: str
    # Made by the client when left out, so that a retried call keeps it.
    request_id: str


Prompt = str | Sequence[Message]

_ROLES = {"user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}


def generation_spec(prompt: Prompt, options: GenerationOptions) -> pb.GenerationSpec:
    """Write a request; a value protobuf cannot hold is an error that names its field."""
    unknown = options.keys() - GenerationOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(GenerationOptions.__annotations__)
        raise TypeError(f"unknown option {min(unknown)!r}; the options are {known}")
    spec = pb.GenerationSpec()
    with holding("spec.request_id"):
        spec.request_id = options.get("request_id") or uuid.uuid4().hex
    with holding("spec.model"):
        spec.model = options.get("model", "")
    set_recipe(spec, options.get("recipe", ""), "spec")
    _set_input(spec, prompt, "spec")
    spec.overrides.extend(rule_messages(options.get("overrides", ()), "spec.overrides"))
    if "constraint" in options:
        spec.constraint.CopyFrom(constraint_message(options["constraint"], "spec.constraint"))
    if "num_choices" in options:
        with holding("spec.num_choices"):
            spec.num_choices = options["num_choices"]
    if "priority" in options:
        names = {"low": pb.PRIORITY_LOW, "normal": pb.PRIORITY_NORMAL, "high": pb.PRIORITY_HIGH}
        if options["priority"] not in names:
            raise InvalidRequest("priority is low, normal or high", field="spec.priority")
        spec.priority = names[options["priority"]]
    if "max_tokens" in options:
        with holding("spec.max_tokens"):
            spec.max_tokens = options["max_tokens"]
    if "seed" in options:
        with holding("spec.seed"):
            spec.seed = options["seed"]
    if "logprobs" in options:
        with holding("spec.logprobs.top"):
            spec.logprobs.top = options["logprobs"]
    if "explain" in options:
        with holding("spec.explain"):
            spec.explain = options["explain"]
    if "experiment" in options:
        with holding("spec.experiment"):
            spec.experiment.experiment = options["experiment"]
            spec.experiment.unit_id = options.get("unit", "")
            spec.experiment.force_variant = options.get("force_variant", "")
    elif options.keys() & {"unit", "force_variant"}:
        raise TypeError("'unit' and 'force_variant' need an 'experiment'")
    return spec


def prompt_source(prompt: Prompt, recipe: str | Mapping[str, Any]) -> pb.PromptSource:
    """Write the source of a rendered prompt."""
    source = pb.PromptSource()
    set_recipe(source, recipe, "prompt")
    _set_input(source, prompt, "prompt")
    return source


def score_request(
    prompt: Prompt,
    continuation: str | Sequence[int],
    *,
    recipe: str | Mapping[str, Any] = "",
    overrides: Iterable[Mapping[str, Any]] = (),
    constraint: Mapping[str, Any] | None = None,
    model: str = "",
    logprobs: int = 0,
) -> pb.ScoreRequest:
    """Write a request to score an answer, given as text or as tokens."""
    request = pb.ScoreRequest(request_id=uuid.uuid4().hex)
    request.prompt.CopyFrom(prompt_source(prompt, recipe))
    with holding("model"):
        request.model = model
    request.overrides.extend(rule_messages(overrides, "overrides"))
    if constraint:
        request.constraint.CopyFrom(constraint_message(constraint, "constraint"))
    with holding("logprobs.top"):
        request.logprobs.top = logprobs
    if isinstance(continuation, str):
        with holding("text"):
            request.text = continuation
    else:
        with holding("token_ids"):
            request.token_ids.ids.extend(continuation)
            request.token_ids.SetInParent()
    return request


@contextmanager
def holding(field: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:  # Out of range, or text that is not Unicode.
        raise InvalidRequest(
            f"{field}: {error}", reason="INVALID_PARAMETER", field=field
        ) from error


def set_recipe(
    message: pb.GenerationSpec | pb.PromptSource | pb.ComparedRecipe,
    recipe: str | Mapping[str, Any],
    field: str,
) -> None:
    """Write a recipe's name or document, if there is one."""
    if isinstance(recipe, str):
        if recipe:
            with holding(f"{field}.recipe"):
                message.recipe = recipe
    else:
        message.inline_recipe.CopyFrom(recipe_message(recipe, f"{field}.inline_recipe"))


def _set_input(message: pb.GenerationSpec | pb.PromptSource, prompt: Prompt, field: str) -> None:
    if isinstance(prompt, str):
        with holding(f"{field}.instruction"):
            message.instruction = prompt
        return
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise InvalidRequest(
            f"a prompt is text or a list of messages, not {prompt!r:.60}", field=f"{field}.input"
        )
    message.conversation.SetInParent()
    for index, turn in enumerate(prompt):
        where = f"{field}.conversation.messages[{index}]"
        if not isinstance(turn, Message):
            raise InvalidRequest(
                f"{where}: a message is user(TEXT) or assistant(TEXT), not {turn!r:.60}",
                field=where,
            )
        if turn.role not in _ROLES:
            raise InvalidRequest(
                f"{where}.role: user or assistant, not {turn.role!r:.60}", field=f"{where}.role"
            )
        with holding(f"{where}.text"):
            message.conversation.messages.add(role=_ROLES[turn.role], text=turn.text)
