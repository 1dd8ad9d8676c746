"""A recipe inside transformers' `generate` draws the tokens this engine draws."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.utils import GenerationMixin

from bosal.v1 import generation_pb2 as pb
from bosal_client import responses
from bosal_decoding import generate_settings
from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.errors import DecodingError, ProcessorMisused, RuleUnsupported, UnknownName
from bosal_decoding.recipe import Recipe
from bosal_decoding.recipe_processor import RecipeProcessor
from bosal_decoding.scaffolds import Message
from bosal_server.engine.request import ChoiceEnding
from bosal_server.model import LoadedModel

from .bench import Answer, Bench

GREEDY = {"rule": "temperature", "value": 0}
PROMPTS = ("Name a river.", "one two three four five", "The capital of France is")
MANY: list[dict[str, Any]] = [
    {"rule": "eos_ramp", "weight": 4, "over": 20},
    {"rule": "repetition_penalty", "value": 1.3},
    {"rule": "presence_penalty", "value": 0.4},
    {"rule": "token_weights", "weights": {"a": -3, "t": 2}, "if_missing": "skip"},
    {"rule": "no_repeat_ngram", "n": 3},
    {"rule": "dry", "multiplier": 0.8},
    {"rule": "min_tokens", "value": 3},
    {"rule": "temperature", "value": 0.9},
    {"rule": "top_p", "p": 0.95},
    {"rule": "xtc", "probability": 0.3, "threshold": 0.1},
]


@pytest.fixture(scope="module")
def model(tiny_llama_folder: Path) -> Any:
    load: Any = AutoModelForCausalLM.from_pretrained
    return load(tiny_llama_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_folder: Path) -> Any:
    load: Any = AutoTokenizer.from_pretrained
    return load(tiny_llama_folder)


def served(
    bench: Bench, loaded: LoadedModel, recipe: Recipe, prompts: tuple[str, ...], **options: Any
) -> list[Answer]:
    """What the engine answers."""
    plan = compile_recipe(recipe, loaded.vocabulary, context_tokens=loaded.context_tokens)
    answers = [
        bench.submit(plan, (), prompts=plan.prompts([Message(role="user", text=prompt)]), **options)
        for prompt in prompts
    ]
    bench.run()
    return answers


def ending(answer: Answer, choice: int) -> ChoiceEnding:
    return answer.finished.endings[choice]


def told(end: ChoiceEnding) -> str:
    """How a client is told why a choice ended."""
    response = pb.GenerateResponse(choices=[pb.Choice()])
    response.choices[0].ending.reason = pb.FinishReason.Value(f"FINISH_REASON_{end.reason}")
    return responses.generation(response).choices[0].finish_reason


@pytest.mark.parametrize(
    "rules",
    [
        [GREEDY],
        [],
        MANY,
        [{"rule": "stop_strings", "values": ["a", "er", "\n"]}],
        [{"rule": "stop_loops"}, GREEDY],
        [{"rule": "mirostat", "tau": 3}],
        [{"rule": "logit_bias", "ids": {"0": 3}}],
        [{"rule": "stop_strings", "values": ["a", "er", "\n"], "scope": {"after": 6}}, GREEDY],
        [{"rule": "max_sentences", "n": 1, "when": {"top1_below": 0.02}}],
        [{"rule": "prefill", "text": "The dog ran af"}],
        [{"rule": "token_healing"}, {"rule": "stop_strings", "values": ["one"]}],
        [
            {"rule": "prefill", "text": "dog dog dog ran", "heal": False},
            {"rule": "stop_strings", "values": ["ran", "e"], "when": {"top1_below": 1.0}},
            {"rule": "no_repeat_ngram", "n": 2},
            {"rule": "mirostat", "tau": 1.0, "eta": 1.0},
        ],
    ],
)
def test_its_answers_are_those_of_the_engine(
    make_bench: Callable[..., Bench],
    tiny_llama: LoadedModel,
    model: Any,
    tokenizer: Any,
    rules: list[dict[str, Any]],
) -> None:
    recipe = Recipe.parse({"rules": rules})
    budget = 24
    processor = RecipeProcessor.of(recipe, model, tokenizer, seed=11)
    model.generate(**processor.arguments(*PROMPTS, max_tokens=budget, num_choices=2))
    answers = processor.answers()
    expected = served(
        make_bench(), tiny_llama, recipe, PROMPTS, seed=11, num_choices=2, max_tokens=budget
    )
    assert len(answers) == 6
    for place, answer in enumerate(answers):
        theirs, choice = expected[place // 2], place % 2
        assert list(answer.token_ids) == theirs.tokens(choice)
        assert answer.text == theirs.text(choice)
        end = ending(theirs, choice)
        assert (answer.finish_reason, answer.matched_stop) == (told(end), end.matched_stop)
        assert answer.yielded_rules == end.yielded_rules


# Everything that a model's configuration can ask of `generate` on its own.
MEDDLING: dict[str, dict[str, Any]] = {
    "masks": {
        "suppress_tokens": list(range(40, 200)),
        "begin_suppress_tokens": list(range(200, 300)),
        "bad_words_ids": [[token] for token in range(300, 350)],
    },
    "forces": {"forced_bos_token_id": 70, "forced_eos_token_id": 71},
    "lengths": {
        "min_length": 30,
        "min_new_tokens": 20,
        "exponential_decay_length_penalty": (1, 5.0),
    },
    "shapes": {
        "sequence_bias": [[[70], 50.0]],
        "repetition_penalty": 3.0,
        "no_repeat_ngram_size": 1,
        "encoder_repetition_penalty": 4.0,
        "encoder_no_repeat_ngram_size": 1,
        "guidance_scale": 3.0,
    },
    "draws": {
        "do_sample": True, "temperature": 3.0, "top_k": 3, "top_p": 0.1, "typical_p": 0.1,
        "min_p": 0.9, "epsilon_cutoff": 0.2, "eta_cutoff": 0.2, "top_h": 0.1,
        "remove_invalid_values": True, "renormalize_logits": True,
        "watermarking_config": {"bias": 30.0, "greenlist_ratio": 0.1},
    },
    "beams": {"num_beams": 4, "num_return_sequences": 3},
    "lookup": {"prompt_lookup_num_tokens": 3},
    "ends": {"stop_strings": ["a", "e", "t"], "max_time": 0.0, "token_healing": True},
}  # fmt: skip


@pytest.mark.parametrize("asked", MEDDLING.values(), ids=MEDDLING)
def test_the_models_own_configuration_has_no_say(
    monkeypatch: pytest.MonkeyPatch,
    make_bench: Callable[..., Bench],
    tiny_llama: LoadedModel,
    model: Any,
    tokenizer: Any,
    asked: dict[str, Any],
) -> None:
    own = model.generation_config.to_dict()
    monkeypatch.setattr(model, "generation_config", GenerationConfig(**(own | asked)))
    recipe = Recipe.parse({"rules": MANY})
    processor = RecipeProcessor.of(recipe, model, tokenizer, seed=5)
    model.generate(**processor.arguments(*PROMPTS, max_tokens=9))
    expected = served(make_bench(), tiny_llama, recipe, PROMPTS, seed=5, max_tokens=9)
    for answer, theirs in zip(processor.answers(), expected, strict=True):
        assert list(answer.token_ids) == theirs.tokens(0)
        assert answer.finish_reason == told(ending(theirs, 0))


def test_whatever_generate_reads_of_a_configuration_is_settled() -> None:
    sources = "".join(
        inspect.getsource(getattr(GenerationMixin, name))
        for name in ("_get_logits_processor", "_get_stopping_criteria")
    ) + inspect.getsource(GenerationConfig.get_generation_mode)
    read = set(re.findall(r"\b(?:generation_config|self)\.([a-z]\w*)", sources))
    read &= GenerationConfig().to_dict().keys()
    assert "suppress_tokens" in read
    # Decided by the arguments' other half, or without any say in a token.
    others = {"eos_token_id", "max_new_tokens", "max_length", "assistant_early_exit", "use_cache"}
    assert read <= generate_settings.settings().keys() | others


def test_generate_returns_the_tokens_too(model: Any, tokenizer: Any) -> None:
    processor = RecipeProcessor.of({"rules": [GREEDY]}, model, tokenizer)
    arguments = processor.arguments(PROMPTS[0], max_tokens=7)
    output = model.generate(**arguments)
    new = output[0, arguments["input_ids"].shape[1] :].tolist()
    assert new == list(processor.answers()[0].token_ids)


def test_the_recipes_length_is_the_answers(model: Any, tokenizer: Any) -> None:
    recipe = {
        "rules": [{"rule": "max_tokens", "value": 5}, {"rule": "logit_bias", "ids": {0: -99}}]
    }
    processor = RecipeProcessor.of(recipe, model, tokenizer)
    model.generate(**processor.arguments(PROMPTS[0]))
    assert len(processor.answers()[0].token_ids) == 5


def test_rules_that_yield_are_named(model: Any, tokenizer: Any) -> None:
    rules = [
        {"rule": "allowed_tokens", "ids": [70, 71], "allow_end": False},
        {"rule": "no_repeat_ngram", "n": 2},
    ]
    processor = RecipeProcessor.of({"rules": rules}, model, tokenizer)
    model.generate(**processor.arguments(PROMPTS[0], max_tokens=9))
    (answer,) = processor.answers()
    assert answer.yielded_rules == ("no_repeat_ngram",)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"rules": [GREEDY, {"rule": "guidance", "scale": 1.5}]}, "rules[1]"),
        ({"rules": [{"rule": "nudging", "guide": "tuned"}]}, "rules[0]"),
        ({"rules": [{"rule": "banned_strings", "values": ["x"]}]}, "rules[0]"),
        ({"rules": [{"rule": "forced_phrases", "phrases": [{"text": "x"}]}]}, "rules[0]"),
        ({"constraint": {"regex": "a+"}}, "constraint"),
    ],
)
def test_what_generate_cannot_honour_is_refused_by_name(
    model: Any, tokenizer: Any, document: dict[str, Any], field: str
) -> None:
    with pytest.raises(RuleUnsupported) as refused:
        RecipeProcessor.of(document, model, tokenizer)
    assert refused.value.field == field


def test_shipped_recipes_go_by_their_names(model: Any, tokenizer: Any) -> None:
    assert RecipeProcessor.of("plain", model, tokenizer).plan.recipe.name == "plain"
    with pytest.raises(UnknownName, match="did you mean 'plain'"):
        RecipeProcessor.of("plane", model, tokenizer)


def test_calls_it_cannot_serve_are_refused(model: Any, tokenizer: Any) -> None:
    processor = RecipeProcessor.of("plain", model, tokenizer)
    with pytest.raises(ProcessorMisused, match="nothing to answer"):
        processor.arguments()
    arguments = processor.arguments(PROMPTS[0], max_tokens=4)
    with pytest.raises(ProcessorMisused, match="without beams"):
        model.generate(**arguments | {"num_beams": 3})
    with pytest.raises(ProcessorMisused, match="arguments of its own"):
        model.generate(**arguments | {"input_ids": arguments["input_ids"].flip(1)})
    model.generate(**processor.arguments(PROMPTS[0], max_tokens=4))
    with pytest.raises(ProcessorMisused, match="arguments of its own"):
        model.generate(**arguments)
    with pytest.raises(DecodingError, match="exceed the context"):
        processor.arguments(PROMPTS[0], max_tokens=10_000)
