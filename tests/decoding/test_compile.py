"""Plans: strings to tokens, conflicts."""

from typing import Any

import pytest
from tests.decoding.plans import plan_of, user
from tests.operations import lines_executed
from tokenizers import Tokenizer

from bosal_decoding.compile import compile
from bosal_decoding.constraints import Constraint
from bosal_decoding.errors import (
    RuleConflict,
    RuleUnsupported,
    UnknownTokenId,
    UnknownTokenString,
)
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe, load_shipped
from bosal_decoding.rules import RULES, RuleStage
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import MAX_STAGES, Stage, TokenFlag


def test_neutral_without_rules(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary)
    assert plan.params == type(plan.params)(key=0)
    assert len(plan.touched([1, 2, 3]).ids) == 0


def test_a_string_names_every_token_that_spells_it(spaced_vocabulary: Vocabulary) -> None:
    plan = plan_of(
        spaced_vocabulary,
        {"rule": "token_weights", "weights": {"t": -2}},
        {"rule": "logit_bias", "strings": {"t": 0.5}, "ids": {"9": 3}},
    )
    spelled = [t for t in range(spaced_vocabulary.size) if spaced_vocabulary.token_bytes[t] == b"t"]
    assert len(spelled) == 2
    assert dict(plan.deltas) == {**dict.fromkeys(spelled, -1.5), 9: 3.0}
    assert plan.rules[0].token_ids == {"t": tuple(spelled)}


def test_a_string_without_a_token_is_an_error_or_a_note(vocabulary: Vocabulary) -> None:
    weights = {"I": 1, "quetzalcoatl": 2}
    with pytest.raises(UnknownTokenString, match="'quetzalcoatl'") as caught:
        plan_of(vocabulary, {"rule": "token_weights", "weights": weights})
    assert caught.value.field == "rules[0].weights.quetzalcoatl"
    rule = {"rule": "token_weights", "weights": weights, "if_missing": "skip"}
    plan = plan_of(vocabulary, rule)
    assert [token for token, _ in plan.deltas] == list(vocabulary.ids_of("I"))
    assert plan.rules[0].token_ids["quetzalcoatl"] == ()
    assert plan.notes == (
        "rules[0].weights.quetzalcoatl: no single token spells 'quetzalcoatl', skipped",
    )
    with pytest.raises(UnknownTokenString):
        plan_of(vocabulary, {"rule": "logit_bias", "strings": weights})


def test_a_special_token_cannot_be_named_by_its_text(vocabulary: Vocabulary) -> None:
    with pytest.raises(UnknownTokenString):
        plan_of(vocabulary, {"rule": "token_weights", "weights": {"<|endoftext|>": 1}})


def test_an_id_outside_the_vocabulary_is_an_error(vocabulary: Vocabulary) -> None:
    with pytest.raises(UnknownTokenId) as caught:
        plan_of(vocabulary, {"rule": "logit_bias", "ids": {vocabulary.size: 1}})
    assert caught.value.field == f"rules[0].ids['{vocabulary.size}']"


def test_rules_become_numbers(vocabulary: Vocabulary) -> None:
    plan = plan_of(
        vocabulary,
        {"rule": "top_k", "k": 5},
        {"rule": "eos_ramp", "weight": 3, "over": 7},
        {"rule": "temperature", "value": 0.5},
        {"rule": "used_token_weight", "weight": -1},
        {"rule": "stop_strings", "values": ["a", "é", "a"]},
        {"rule": "max_tokens", "value": 9},
    )
    params = plan.params
    assert params.chain == ((Stage.TOP_K, 5, 0), (Stage.TEMPERATURE, 0.5, 0))
    assert (params.eos_ramp_weight, params.eos_ramp_over, params.used_weight) == (3, 7, -1)
    assert plan.stop_strings == (b"a", "é".encode())
    assert plan.max_tokens == 9
    assert plan.eos_ids == {0}
    assert [rule.stage for rule in plan.rules[:3]] == ["truncate", "shape", "truncate"]
    assert plan.rules[3].params == {"weight": -1.0, "include_instruction": False}


def test_touched_tokens_carry_what_the_rules_need(vocabulary: Vocabulary) -> None:
    repetition = {"rule": "repetition_penalty", "value": 1.2}
    used = {"rule": "used_token_weight", "weight": -1, "include_instruction": True}
    bias = {"rule": "logit_bias", "ids": {"7": 2}}

    def touched(*rules: dict[str, Any]) -> dict[int, tuple[float, int]]:
        tokens = plan_of(vocabulary, *rules).touched([7, 8, 8])
        rows = zip(tokens.ids.tolist(), tokens.deltas.tolist(), tokens.flags.tolist(), strict=True)
        return {token: (delta, flags) for token, delta, flags in rows}

    assert touched(repetition) == {7: (0, TokenFlag.IN_PROMPT), 8: (0, TokenFlag.IN_PROMPT)}
    assert touched(used) == {7: (0, TokenFlag.USED_AT_START), 8: (0, TokenFlag.USED_AT_START)}
    assert touched(bias) == {7: (2, 0)}
    assert touched({"rule": "presence_penalty", "value": 1}) == {}
    both = TokenFlag.IN_PROMPT | TokenFlag.USED_AT_START
    assert touched(bias, used, repetition) == {7: (2, both), 8: (0, both)}
    assert touched({"rule": "min_tokens", "value": 2}) == {0: (0, TokenFlag.EOS)}


def test_rules_that_are_off_list_no_tokens_that_a_whole_batch_would_gather(
    vocabulary: Vocabulary,
) -> None:
    for rule in (
        {"rule": "repetition_penalty", "value": 1},
        {"rule": "repetition_penalty", "value": 1, "window": 8, "scope": {"first": 3}},
        {"rule": "used_token_weight", "weight": 0, "include_instruction": True},
        {"rule": "presence_penalty", "value": 0, "window": 8, "include_instruction": True},
        {"rule": "dry", "multiplier": 0, "window": 8},
        {"rule": "min_tokens", "value": 0},
        {"rule": "logit_bias", "ids": {"7": 0}},
    ):
        pipeline = Pipeline(vocabulary.size, 1)
        plan = plan_of(vocabulary, rule)
        pipeline.slots.add(0, plan, history=[7, 8, 8], seed=0, choice=0)
        pipeline.slots.commit([0], [[7, 9]])
        assert not pipeline.slots.state.is_editing, rule


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (
            [{"rule": "max_tokens", "value": 4}, {"rule": "min_tokens", "value": 5}],
            ("min_tokens", "max_tokens"),
        ),
        (
            [
                {"rule": "stop_strings", "values": ["x", "\nQ:"]},
                {"rule": "banned_strings", "values": ["y", "Q:"]},
            ],
            ("banned_strings", "stop_strings"),
        ),
    ],
)
def test_contradictory_rules_are_refused_by_name(
    vocabulary: Vocabulary, rules: list[dict[str, Any]], names: tuple[str, str]
) -> None:
    with pytest.raises(RuleConflict) as caught:
        plan_of(vocabulary, *rules)
    assert all(f"'{name}'" in str(caught.value) for name in names)
    assert caught.value.field == "rules[1]"
    assert caught.value.reason == "RULE_CONFLICT"


def test_a_chain_that_is_too_long_is_refused_by_its_rule(vocabulary: Vocabulary) -> None:
    def chain(count: int) -> Recipe:
        scopes = [{"after": at, "first": at + 1} for at in range(count)]
        rules = [{"rule": "top_n_sigma", "n": 1, "scope": scope} for scope in scopes]
        return Recipe.parse({"rules": rules})

    plan = compile(chain(MAX_STAGES), vocabulary, context_tokens=64)
    assert len(plan.params.chain) == MAX_STAGES
    with pytest.raises(RuleUnsupported, match="'top_n_sigma' cannot be honoured") as caught:
        compile(chain(MAX_STAGES + 1), vocabulary, context_tokens=64)
    assert caught.value.field == f"rules[{MAX_STAGES}]"


def test_stages_are_called_as_their_rules() -> None:
    truncating = {name for name, rule in RULES.items() if rule.stage is RuleStage.TRUNCATE}
    assert truncating == {stage.name.lower() for stage in Stage if stage is not Stage.NONE}


def test_rules_about_the_end_need_an_end(byte_level: Tokenizer) -> None:
    endless = Vocabulary.from_tokenizer(byte_level, eos_ids=[])
    with pytest.raises(RuleUnsupported, match="no end-of-text token"):
        plan_of(endless, {"rule": "eos_ramp", "weight": 1, "over": 1})
    plan_of(endless, {"rule": "min_tokens", "value": 3})


def test_equal_recipes_share_a_plan(vocabulary: Vocabulary, spaced_vocabulary: Vocabulary) -> None:
    document = {"name": "a", "rules": [{"rule": "top_k", "k": 4}]}
    plan = compile(Recipe.parse(document), vocabulary, context_tokens=100)
    assert compile(Recipe.parse(document), vocabulary, context_tokens=100) is plan
    assert compile(Recipe.parse(document), vocabulary, context_tokens=101) is not plan
    assert compile(Recipe.parse(document), spaced_vocabulary, context_tokens=100) is not plan
    renamed = compile(Recipe.parse(document | {"name": "b"}), vocabulary, context_tokens=100)
    assert renamed.recipe.name == "b"
    assert renamed.version == plan.version


def test_plans_of_one_recipe_under_several_constraints_are_compiled_once(
    vocabulary: Vocabulary,
) -> None:
    recipe = Recipe.parse(
        {"rules": [{"rule": "eos_ramp", "weight": 2, "over": 9, "scope": "outside_constraint"}]}
    )
    kinds: list[dict[str, Any]] = [
        {"regex": "a+"}, {"regex": "b+"}, {"choice": ["c"]}, {"json_schema": {}}
    ]  # fmt: skip
    held = [recipe.with_constraint(Constraint.read(fields, "")) for fields in kinds]
    plans = [compile(one, vocabulary, context_tokens=777) for one in held]
    assert [plan.recipe for plan in plans] == held
    assert len({plan.version for plan in plans}) == 4
    assert all(plan.params is plans[0].params for plan in plans)
    assert compile(recipe, vocabulary, context_tokens=777).params != plans[0].params


def test_a_choice_is_read_where_strings_are_banned(vocabulary: Vocabulary) -> None:
    recipe = Recipe.parse({"rules": [{"rule": "banned_strings", "values": ["x"]}]})
    fine, wrong = (
        recipe.with_constraint(Constraint.read({"choice": [text]}, "")) for text in ("ab", "xy")
    )
    assert compile(fine, vocabulary, context_tokens=100).recipe is fine
    with pytest.raises(RuleConflict, match="banned string"):
        compile(wrong, vocabulary, context_tokens=100)


@pytest.mark.parametrize("name", ["in-context", "plain", "rules", "steered"])
def test_shipped_recipes_compile_for_any_tokenizer(name: str, any_vocabulary: Vocabulary) -> None:
    plan = compile(load_shipped()[name], any_vocabulary, context_tokens=4096)
    (prompt,) = plan.prompts([user("Name a river.")])
    assert any_vocabulary.bytes_of(prompt.token_ids).lstrip() == prompt.text.encode().lstrip()
    assert b"Name a river." in any_vocabulary.bytes_of(prompt.history_ids)


def test_plans_watch_text(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, {"rule": "stop_strings", "values": ["\nQ:"]})
    stop = plan.text_stop()
    assert stop.feed(b"yes\n") is None
    assert stop.feed(b"Q: and") is not None
    assert stop.flush() == b"yes"


def test_choices_of_a_request_share_what_their_prompt_touches(vocabulary: Vocabulary) -> None:
    plan = plan_of(vocabulary, {"rule": "repetition_penalty", "value": 1.2})
    history = tuple(range(3, vocabulary.size)) * 50
    first = plan.touched(history)
    with lines_executed() as count:
        others = [plan.touched(history) for _ in range(15)]
    assert all(one is first for one in others)
    assert count.lines < 100
    assert plan.touched([7, 8, 8]).ids.tolist() == [7, 8]
