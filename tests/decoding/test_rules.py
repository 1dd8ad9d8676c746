"""Every rule against its one-line formula in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.decoding.oracle import CUTS, SHAPES, Choice, controlled, kept, scores

from bosal_decoding.compile import compile
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import RULES, describe
from bosal_decoding.vocabulary import Vocabulary

WEIGHT = st.floats(-20, 20)
STRING = st.sampled_from(["I", " I", "the", " the", "!", "\n", "x", "We", " should"])
COUNTED = {"window": st.integers(0, 14), "include_instruction": st.booleans()}
ANY_PARAMS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "repetition_penalty": st.fixed_dictionaries({"value": st.floats(0.2, 3)}, optional=COUNTED),
    "presence_penalty": st.fixed_dictionaries({"value": st.floats(-2, 2)}, optional=COUNTED),
    "frequency_penalty": st.fixed_dictionaries({"value": st.floats(-2, 2)}, optional=COUNTED),
    "dry": st.fixed_dictionaries(
        {"multiplier": st.floats(0, 2)},
        optional={
            "base": st.floats(1, 2),
            "allowed_length": st.integers(1, 3),
            "window": st.integers(0, 20),
            "breakers": st.lists(st.sampled_from(["a", " t", "5", "\n"]), max_size=2),
        },
    ),
    "used_token_weight": st.fixed_dictionaries(
        {"weight": WEIGHT, "include_instruction": st.booleans()}
    ),
    "token_weights": st.fixed_dictionaries(
        {
            "weights": st.dictionaries(STRING, WEIGHT, min_size=1, max_size=6),
            "if_missing": st.just("skip"),
        }
    ),
    "logit_bias": st.fixed_dictionaries(
        {
            "ids": st.dictionaries(st.integers(0, 299).map(str), WEIGHT, min_size=1, max_size=5),
            "strings": st.dictionaries(st.sampled_from(["I", "x"]), WEIGHT, max_size=2),
        }
    ),
    "eos_ramp": st.fixed_dictionaries(
        {"weight": WEIGHT, "over": st.integers(1, 8)}, optional={"after_sentence": st.booleans()}
    ),
    "exponential_decay_length": st.fixed_dictionaries(
        {"start": st.integers(0, 8), "factor": st.floats(1, 3)}
    ),
    "min_tokens": st.fixed_dictionaries({"value": st.integers(0, 8)}),
    "allowed_tokens": st.fixed_dictionaries(
        {"ids": st.lists(st.integers(0, 299), min_size=1, max_size=60, unique=True)},
        optional={"strings": st.just(["I", " I"]), "allow_end": st.booleans()},
    ),
    # What the tests' vocabulary holds beyond ASCII is halves of characters.
    "allowed_scripts": st.just({"scripts": ["Latin"]}),
    "no_repeat_ngram": st.fixed_dictionaries({"n": st.integers(2, 4)}),
    "temperature": st.fixed_dictionaries({"value": st.just(0.0) | st.floats(0.05, 5)}),
    "dynamic_temperature": st.fixed_dictionaries(
        {"low": st.floats(0.1, 1), "high": st.floats(1, 4)},
        optional={"exponent": st.floats(0.2, 3)},
    ),
    "mirostat": st.fixed_dictionaries({"tau": st.floats(0.2, 8)}),
    "top_k": st.fixed_dictionaries({"k": st.integers(0, 60)}),
    "top_p": st.fixed_dictionaries({"p": st.floats(0.05, 1)}),
    "min_p": st.fixed_dictionaries({"p": st.floats(0, 1)}),
    "typical": st.fixed_dictionaries({"p": st.floats(0.05, 1)}),
    "top_n_sigma": st.fixed_dictionaries({"n": st.floats(0.1, 4)}),
    "epsilon": st.fixed_dictionaries({"value": st.floats(0, 0.3)}),
    "eta": st.fixed_dictionaries({"value": st.floats(0, 0.3)}),
    "xtc": st.fixed_dictionaries(
        {"probability": st.sampled_from([0.0, 0.5, 1.0])},
        optional={"threshold": st.floats(0.01, 0.6)},
    ),
}
# Numbers by which a rule does nothing, or as little as it can, whatever its others are.
OFF: dict[str, list[dict[str, Any]]] = {
    "repetition_penalty": [{"value": 1.0}],
    "presence_penalty": [{"value": 0.0}],
    "frequency_penalty": [{"value": 0.0}],
    "dry": [{"multiplier": 0.0}, {"base": 1.0}, {"breakers": []}, {"allowed_length": 1000}],
    "used_token_weight": [{"weight": 0.0}],
    "token_weights": [{"weights": {"I": 0.0, "x": 0.0}}],
    "logit_bias": [{"ids": {"5": 0.0}, "strings": {}}],
    "eos_ramp": [{"weight": 0.0}],
    "exponential_decay_length": [{"factor": 1.0}],
    "min_tokens": [{"value": 0}],
    "no_repeat_ngram": [{"n": 64}],
    "temperature": [{"value": 1.0}, {"value": 0.0}],
    "dynamic_temperature": [{"low": 1.0, "high": 1.0}],
    "mirostat": [{"eta": 0.0}, {"tau": 100.0}],
    "top_k": [{"k": 0}, {"k": 2**31 - 1}],
    "top_p": [{"p": 1.0}],
    "min_p": [{"p": 0.0}],
    "typical": [{"p": 1.0}],
    "top_n_sigma": [{"n": 100.0}],
    "epsilon": [{"value": 0.0}],
    "eta": [{"value": 0.0}],
    "xtc": [{"probability": 0.0}, {"threshold": 1.0}],
}


def at_times_off(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Parameters of a rule: one time in four it is off, with live ones beside."""
    off = st.sampled_from([{}] * 3 * len(OFF.get(name, [{}])) + OFF.get(name, [{}]))
    return st.builds(lambda params, less: {**params, **less}, ANY_PARAMS[name], off)


PARAMS = {name: at_times_off(name) for name in ANY_PARAMS}
# Bytes that end sentences, or stand behind them, in a byte-level vocabulary.
SENTENCES = st.sampled_from([14, 3, 4, 2, 9])
# Some of few, so that they repeat.
TOKENS = st.lists(st.integers(0, 299) | st.integers(20, 22) | SENTENCES, max_size=12)
SEED = st.integers(-(2**63), 2**63 - 1)

# Float32 arithmetic on logits of this size.
TOLERANCE = 1e-4


def random_row(seed: int, size: int, *, scale: float = 3.0) -> torch.Tensor:
    # Rounded, so that ties are common.
    row = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * scale
    return (row * 4).round() / 4


def run(
    vocabulary: Vocabulary, choice: Choice, logits: torch.Tensor
) -> tuple[np.ndarray[Any, Any], int]:
    """One step of a pipeline with one slot: the controlled row and the token."""
    plan = compile(Recipe.parse(choice.document), vocabulary, context_tokens=2048)
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(
        0, plan, history=choice.instruction, seed=choice.seed, choice=choice.choice, logprobs=-1
    )
    pipeline.slots.commit([0], [choice.output])
    state = pipeline.apply(logits[None].clone(), [0])
    token = int(pipeline.sample(state).tokens[0])
    return state.logits[0].double().numpy(), token


def check_token(token: int, expected: dict[int, float]) -> None:
    assert token in expected
    assert expected[token] >= max(expected.values()) - TOLERANCE


@pytest.mark.parametrize("name", sorted(SHAPES))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 999), instruction=TOKENS, output=TOKENS)
def test_a_shaping_rule_follows_its_formula(
    vocabulary: Vocabulary,
    name: str,
    data: st.DataObject,
    seed: int,
    instruction: list[int],
    output: list[int],
) -> None:
    document = {"rules": [{"rule": name, **data.draw(PARAMS[name])}]}
    choice = Choice(document, vocabulary.token_bytes, [0], instruction=instruction, output=output)
    logits = random_row(seed, vocabulary.size)
    row, _ = run(vocabulary, choice, logits)
    expected = controlled(logits.double().numpy(), choice)
    np.testing.assert_allclose(row, expected, atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(PARAMS.keys() - SHAPES.keys()))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), row_seed=st.integers(0, 999), seed=SEED, position=st.integers(0, 5))
def test_a_truncation_rule_keeps_its_set_and_draws_from_it(
    vocabulary: Vocabulary,
    name: str,
    data: st.DataObject,
    row_seed: int,
    seed: int,
    position: int,
) -> None:
    document = {"rules": [{"rule": name, **data.draw(PARAMS[name])}]}
    choice = Choice(
        document, vocabulary.token_bytes, [0], seed=seed, choice=2, output=[5] * position
    )
    logits = random_row(row_seed, vocabulary.size)
    row, token = run(vocabulary, choice, logits)
    np.testing.assert_array_equal(row, logits.double().numpy())
    check_token(token, scores(row, choice))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), row_seed=st.integers(0, 999), seed=SEED)
def test_the_recipe_orders_the_chain(
    vocabulary: Vocabulary, data: st.DataObject, row_seed: int, seed: int
) -> None:
    names = data.draw(st.permutations(["temperature", *(CUTS.keys() - {"mirostat"})]))
    rules = [{"rule": name, **data.draw(PARAMS[name])} for name in names]
    choice = Choice({"rules": rules}, vocabulary.token_bytes, [0], seed=seed)
    row, token = run(vocabulary, choice, random_row(row_seed, vocabulary.size))
    check_token(token, scores(row, choice))


def test_order_matters_where_it_should(vocabulary: Vocabulary) -> None:
    hot = {"rule": "temperature", "value": 5.0}
    cut = {"rule": "min_p", "p": 0.05}
    row = random_row(1, vocabulary.size).double().numpy()
    sizes = [
        len(kept(row, Choice({"rules": rules}, vocabulary.token_bytes, [0]))[0])
        for rules in ([hot, cut], [cut, hot])
    ]
    assert sizes[0] > 5 * sizes[1]


def test_every_rule_has_an_oracle_or_acts_on_text() -> None:
    on_text = {
        "stop_strings",
        "banned_strings",
        "max_tokens",
        "stop_regex",
        "stop_turns",
        "stop_loops",
        "stop_whitespace",
        "max_sentences",
        "max_paragraphs",
        "token_budget",
    }
    # See test_opening and test_phrases.
    forced = {rule.name for rule in RULES.values() if rule.stage == "force"}
    # See test_streams.
    coupled = {rule.name for rule in RULES.values() if rule.stage == "combine"}
    assert PARAMS.keys() | on_text | forced | coupled == RULES.keys()


def test_the_catalogue_describes_every_rule() -> None:
    descriptions = describe()
    assert [entry.rule for entry in descriptions] == list(RULES)
    stages = [entry.stage for entry in descriptions]
    order = ["combine", "shape", "mask", "truncate", "force", "stop"]
    assert stages == sorted(stages, key=order.index)
    for entry in descriptions:
        assert entry.summary.endswith(".")
        assert entry.formula
        assert entry.source
        assert entry.params_schema["type"] == "object"
        assert entry.params_schema["additionalProperties"] is False
        for schema in entry.params_schema["properties"].values():
            assert {"type", "anyOf"} & schema.keys()
            assert schema["description"].endswith(".")
            # pydantic writes bounds it could not translate under its own names.
            assert not {"ge", "gt", "le", "lt"} & schema.keys()


@pytest.mark.parametrize("name", sorted(PARAMS))
@settings(max_examples=3)
@given(data=st.data())
def test_the_schema_names_exactly_the_parameters(name: str, data: st.DataObject) -> None:
    schema = next(entry.params_schema for entry in describe() if entry.rule == name)
    params = data.draw(PARAMS[name])
    assert params.keys() <= schema["properties"].keys()
    assert set(schema.get("required", [])) <= params.keys()
