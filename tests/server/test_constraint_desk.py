"""Constraints through the whole core: budgets, endings, several choices, and what is refused."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import jsonschema
import pytest
from tests.server.experiments.managers import idle_manager

from bosal.v1 import recipe_pb2
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.errors import DecodingError
from bosal_decoding.plan import Plan
from bosal_server.core import GenerationCore
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.request import (
    FinishedEvent,
    TokensEvent,
)
from bosal_server.generate_command import GenerateCommand, PromptCommand
from bosal_server.limits import Limits
from bosal_server.mailbox import Delivery
from bosal_server.metrics import Metrics
from bosal_server.model import LoadedModel
from bosal_server.recipe_store import RecipeStore
from bosal_server.rpc.recipe_service import RecipeService
from bosal_server.security.caller import Caller, current_caller
from bosal_server.served_models import ServedModel
from bosal_server.started import Started

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["cat", "dog", "bird"]}},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
WHOLE = ("CONSTRAINT_COMPLETE", "CONSTRAINT_CLOSED", "STOP_TOKEN")
GRAMMAR = 'start: sum\nsum: term ("+" term)*\nterm: /[0-9]+/ | "(" sum ")"'


@asynccontextmanager
async def running(
    loaded: LoadedModel, compiler: ConstraintCompiler
) -> AsyncIterator[GenerationCore]:
    runner = loaded.runner(cache_tokens=8192)
    model = EngineModel(
        runner=runner,
        vocabulary=loaded.vocabulary,
        context_tokens=loaded.context_tokens,
        digest=loaded.digest,
    )
    metrics = Metrics()
    recipes = RecipeStore.load()
    stack = ExitStack()
    deliver = Delivery(asyncio.get_running_loop())
    engine = EngineLoop({"tiny": model}, EngineConfig(switch_interval=None), deliver, metrics)
    core = GenerationCore(
        models=[
            ServedModel(
                name="tiny",
                digest=loaded.digest,
                architecture=loaded.architecture,
                num_parameters=loaded.num_parameters,
                vocabulary=loaded.vocabulary,
                context_tokens=loaded.context_tokens,
                runner=runner.kind,
                runner_reason="asked for",
                dtype=runner.dtype,
                device=runner.device,
                cache_tokens=8192,
            )
        ],
        recipes=recipes,
        default_recipe="plain",
        limits=Limits(),
        engine=engine,
        metrics=metrics,
        versions={},
        experiments=stack.enter_context(idle_manager(recipes)),
        constraints=compiler,
    )
    engine.start()
    try:
        yield core
    finally:
        await asyncio.to_thread(engine.stop)
        stack.close()
        core._preparation.close()


@pytest.fixture(scope="module")
def compiler() -> Any:
    compiler = ConstraintCompiler({"pet": Constraint.read({"choice": ["cat", "dog"]}, "")})
    yield compiler
    compiler.close()


class Answer:
    """What one request gave."""

    def __init__(self, events: list[Any]) -> None:
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], FinishedEvent)
        self.started, self.finished = events[0], events[-1]
        self.tokens = [event for event in events if isinstance(event, TokensEvent)]

    def text(self, choice: int = 0) -> str:
        return "".join(event.text for event in self.tokens if event.choice == choice)

    def token_ids(self, choice: int = 0) -> list[int]:
        return [t for event in self.tokens if event.choice == choice for t in event.token_ids]

    def forced(self) -> set[int]:
        return {place for event in self.tokens for place in event.forced_positions}


@pytest.fixture(scope="module")
def ask_all(tiny_llama: LoadedModel, compiler: ConstraintCompiler) -> Callable[..., list[Answer]]:
    """Send requests at once; return their answers."""

    def ask_all(*requests: dict[str, Any]) -> list[Answer]:
        async def one(core: GenerationCore, request: dict[str, Any]) -> Answer:
            recipe = request.pop("recipe", {})
            prompt = PromptCommand(recipe=recipe, instruction=request.pop("text", "The cat"))
            command = GenerateCommand(prompt=prompt, **request)
            return Answer([event async for event in core.generate(command)])

        async def every() -> list[Answer]:
            async with running(tiny_llama, compiler) as core:
                return list(await asyncio.gather(*(one(core, request) for request in requests)))

        return asyncio.run(every())

    return ask_all


def satisfies(fields: dict[str, Any], text: str) -> bool:
    if "choice" in fields:
        return text in fields["choice"]
    if "regex" in fields:
        return re.fullmatch(fields["regex"], text, re.ASCII) is not None
    if "grammar" in fields:
        return re.fullmatch(r"[0-9+()]+", text) is not None and text.count("(") == text.count(")")
    schema = fields["json_schema"]
    return bool(jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)))


KINDS: list[dict[str, Any]] = [
    {"choice": ["yes", "no", "not sure"]},
    {"regex": "[a-z]+@[a-z]+\\.(com|org)"},
    {"json_schema": SCHEMA},
    {"grammar": GRAMMAR},
]


def test_whatever_the_model_wants_every_text_is_whole_or_says_why_not(
    ask_all: Callable[..., list[Answer]],
) -> None:
    requests: list[dict[str, Any]] = [
        {"constraint": fields, "max_tokens": max_tokens, "seed": seed, "num_choices": 2}
        for seed in range(3)
        for max_tokens in (40, 90)
        for fields in KINDS
    ]
    answers = ask_all(*map(dict, requests))
    reasons = set()
    for request, answer in zip(requests, answers, strict=True):
        for choice, ending in enumerate(answer.finished.endings):
            reasons.add(ending.reason.value)
            assert ending.reason in WHOLE
            assert satisfies(request["constraint"], answer.text(choice)), answer.text(choice)
            assert ending.output_tokens == len(answer.token_ids(choice)) <= request["max_tokens"]
            is_schema = "json_schema" in request["constraint"]
            assert ending.schema_valid is (True if is_schema else None)
    assert {"CONSTRAINT_COMPLETE", "CONSTRAINT_CLOSED"} <= reasons


def test_forced_tokens_are_marked_and_the_same_one_by_one(
    ask_all: Callable[..., list[Answer]], tiny_llama: LoadedModel
) -> None:
    fields = {"regex": "The capital of France is (Paris|here)\\."}
    quick, slow = ask_all(
        {"constraint": fields, "max_tokens": 120, "seed": 5},
        {"constraint": fields, "max_tokens": 120, "seed": 5, "logprobs": 2},
    )
    assert quick.token_ids() == slow.token_ids()
    assert quick.forced() == slow.forced()
    assert len(quick.forced()) > 3
    assert max(quick.forced()) < len(quick.token_ids())
    # Several in one forward, unless each is asked about.
    assert max(len(event.token_ids) for event in quick.tokens) > 3
    assert all(event.logprobs and len(event.logprobs.raw) == 1 for event in slow.tokens)


def test_a_recipe_holds_a_constraint_and_a_request_replaces_it(
    ask_all: Callable[..., list[Answer]],
) -> None:
    recipe = {"constraint": {"choice": ["one", "two"]}, "scaffold": {"kind": "qa"}}
    kept, replaced, typed = ask_all(
        {"recipe": recipe, "seed": 1},
        {"recipe": recipe, "seed": 1, "constraint": {"choice": ["three"]}},
        {"recipe": recipe, "seed": 1, "constraint": {"python_type": "pet"}},
    )
    # The text stands behind the scaffold's mark, without the blank between them.
    assert kept.text() in ("one", "two")
    assert replaced.text() == "three"
    assert typed.text() in ("cat", "dog")
    versions = {answer.started.plan.version for answer in (kept, replaced, typed)}
    assert len(versions) == 3


def test_other_rules_go_on_and_yield_to_the_constraint(
    ask_all: Callable[..., list[Answer]],
) -> None:
    recipe = {
        "rules": [
            {"rule": "min_tokens", "value": 30},
            {"rule": "banned_strings", "values": ["no"]},
            {"rule": "stop_strings", "values": ["zzz"]},
            {"rule": "top_k", "k": 5},
        ]
    }
    (answer,) = ask_all({"recipe": recipe, "constraint": {"regex": "no[a-z]{0,2}"}, "seed": 2})
    assert re.fullmatch("no[a-z]{0,2}", answer.text())
    assert {"banned_strings", "min_tokens"} <= set(answer.finished.endings[0].yielded_rules)


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        ({"constraint": {"regex": "(a"}}, "CONSTRAINT_SYNTAX", "constraint.regex"),
        ({"constraint": {"regexp": "a"}}, "INVALID_RECIPE", "constraint.regexp"),
        (
            {"recipe": {"constraint": {"json_schema": {"not": {}}}}},
            "CONSTRAINT_UNSUPPORTED",
            "inline_recipe.constraint.json_schema",
        ),
        ({"constraint": {"python_type": "pett"}}, "UNKNOWN_NAME", "constraint.python_type"),
        (
            {"constraint": {"choice": ["a very long answer indeed"]}, "max_tokens": 2},
            "CONSTRAINT_NEEDS_TOKENS",
            "max_tokens",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_the_first_token(
    ask_all: Callable[..., list[Answer]], request_: dict[str, Any], reason: str, field: str
) -> None:
    for _ in range(2):
        with pytest.raises(DecodingError) as caught:
            ask_all(dict(request_))
        assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        ({"regex": "(a"}, "CONSTRAINT_SYNTAX"),
        ({"choice": ["a very long answer indeed"]}, "CONSTRAINT_NEEDS_TOKENS"),
    ],
)
def test_who_is_refused_for_a_constraint_costs_no_prompt(
    ask_all: Callable[..., list[Answer]],
    monkeypatch: pytest.MonkeyPatch,
    constraint: dict[str, Any],
    reason: str,
) -> None:
    rendered: list[object] = []
    prompts = Plan.prompts

    def counted(plan: Plan, *args: Any) -> Any:
        rendered.append(plan)
        return prompts(plan, *args)

    monkeypatch.setattr(Plan, "prompts", counted)
    with pytest.raises(DecodingError) as caught:
        ask_all({"constraint": constraint, "max_tokens": 2})
    assert caught.value.reason == reason
    assert not rendered
    ask_all({"constraint": {"choice": ["a", "b"]}, "max_tokens": 9})
    assert len(rendered) == 1


def test_a_constraint_beside_a_prefill_is_compiled_for_how_the_output_begins(
    ask_all: Callable[..., list[Answer]],
) -> None:
    recipe = {"rules": [{"rule": "prefill", "text": "It is "}]}
    request: dict[str, Any] = {
        "recipe": recipe,
        "constraint": {"regex": "It is [0-9]{3}"},
        "max_tokens": 20,
    }
    [answer] = ask_all(dict(request))
    assert re.fullmatch("It is [0-9]{3}", answer.text())
    # Which needs the prompt, and is said before a token is drawn.
    with pytest.raises(DecodingError, match="allows no text that starts with"):
        ask_all({"recipe": recipe, "constraint": {"regex": "[0-9]{3}"}, "max_tokens": 20})


def test_who_validates_recipes_waits_behind_itself_alone(
    tiny_llama: LoadedModel, compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[str] = []
    submit = compiler.submit

    def noted(*args: Any, owner: str = "") -> Any:
        owners.append(owner)
        return submit(*args, owner=owner)

    monkeypatch.setattr(compiler, "submit", noted)

    async def validate() -> None:
        async with running(tiny_llama, compiler) as core:
            current_caller.set(Caller(key_id="mine"))
            request = recipe_pb2.ValidateRecipeRequest(document="constraint: {regex: 'a+b'}")
            validated = await RecipeService(core).ValidateRecipe(
                request,
                None,  # type: ignore[arg-type]
            )
            # Its masks are part of what it costs.
            assert validated.control.ToNanoseconds() > 0

    asyncio.run(validate())
    assert owners == ["mine"]
