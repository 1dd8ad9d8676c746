"""Requests that the kernels serve, for engines on devices beside the CPU's."""

from collections.abc import Mapping
from typing import Any

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_server.engine.engine_model import EngineModel
from bosal_server.model import LoadedModel

from .bench import Answer, Bench

WARM = {"rule": "temperature", "value": 0.8}
TEXT = "Does water boil at high altitude?"
# What the kernels execute, mixed as they come.
ASKED: tuple[tuple[list[Mapping[str, Any]], dict[str, Any] | None, dict[str, Any]], ...] = (
    ([WARM, {"rule": "top_k", "k": 20}, {"rule": "top_p", "p": 0.9}], None, {"logprobs": 2}),
    (
        [
            {"rule": "eos_ramp", "weight": 9, "over": 20},
            {"rule": "used_token_weight", "weight": -1.5},
            {"rule": "repetition_penalty", "value": 1.2},
            WARM,
        ],
        None,
        {},
    ),
    # Within a constraint penalties are scoped: they act outside of it.
    (
        [{"rule": "no_repeat_ngram", "n": 2}, {"rule": "dry", "multiplier": 2.0}, WARM],
        {"regex": "[a-z ]*"},
        {},
    ),
    (
        [
            {"rule": "presence_penalty", "value": 3.0, "scope": {"after": 1}},
            {"rule": "logit_bias", "ids": {"18": 30.0}, "scope": {"first": 1}},
            {"rule": "top_k", "k": 5, "scope": {"after": 2}},
        ],
        None,
        {"logprobs": 0},
    ),
    ([{"rule": "guidance", "scale": 1.5}, WARM], None, {"logprobs": 0}),
)


def engine(loaded: LoadedModel) -> Bench:
    """An engine on whatever device the model says it is on."""
    model = EngineModel(
        runner=loaded.runner(cache_tokens=2048),
        vocabulary=loaded.vocabulary,
        context_tokens=loaded.context_tokens,
        digest=loaded.digest,
    )
    return Bench({"tiny": model})


def submit(bench: Bench, loaded: LoadedModel, max_tokens: int = 3) -> list[Answer]:
    """Ask an engine everything at once; the answers come as it is run."""
    answers = []
    compiler = ConstraintCompiler()
    for number, (rules, constraint, options) in enumerate(ASKED):
        document = {"scaffold": {"kind": "raw"}, "rules": rules, "constraint": constraint}
        recipe = Recipe.parse(document)
        plan = compile_recipe(recipe, loaded.vocabulary, context_tokens=loaded.context_tokens)
        if recipe.constraint is not None:
            options = {**options, "program": compiler.compile(recipe.constraint, plan.vocabulary)}
        prompts = plan.prompts([Message(role="user", text=TEXT[number:])])
        options = {**options, "max_tokens": max_tokens + number % 2, "seed": number}
        answers.append(bench.submit(plan, (), prompts=prompts, **options))
    compiler.close()
    return answers
