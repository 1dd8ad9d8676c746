"""Requests of coupled streams, as the tests of the engine make them."""

from collections.abc import Mapping, Sequence
from typing import Any

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.streams import StreamModel
from bosal_server.model import LoadedModel

from .bench import GREEDY, Answer, Bench

# Each stream's model and prompt.
Texts = Sequence[tuple[str, str]]
CONTEXT = "The dog ran after the ball.\n\nWhat is the capital"
SHORT = "Q: one two three"
# A prompt of the base's last token alone.
LAST = "\0last"


def models_of(loaded: Mapping[str, LoadedModel]) -> tuple[StreamModel, ...]:
    return tuple(
        StreamModel(name=name, vocabulary=model.vocabulary, context_tokens=model.context_tokens)
        for name, model in loaded.items()
    )


def plan_of(loaded: Mapping[str, LoadedModel], *rules: Mapping[str, Any]) -> Plan:
    base = loaded["base"]
    document = {"scaffold": {"kind": "raw"}, "rules": [*rules, *GREEDY]}
    return compile_recipe(
        Recipe.parse(document),
        base.vocabulary,
        context_tokens=base.context_tokens,
        models=models_of(loaded),
    )


def submit(bench: Bench, plan: Plan, text: str, **options: Any) -> Answer:
    prompts = plan.prompts([Message(role="user", text=text)])
    return bench.submit(plan, (), prompts=prompts, **options)


def ids_of(loaded: Mapping[str, LoadedModel], texts: Texts) -> list[tuple[str, list[int]]]:
    encode = loaded["base"].vocabulary.encode
    own = encode(texts[0][1])
    return [(model, own[-1:] if text == LAST else encode(text)) for model, text in texts]
