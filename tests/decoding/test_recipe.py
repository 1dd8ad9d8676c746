"""Recipes: strict parsing, one document in three spellings, versions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.document import write_yaml
from bosal_decoding.errors import DecodingError, InvalidRecipe, UnknownName
from bosal_decoding.limits import MAX_RULES, MAX_STOP_STRINGS, MAX_STRING_BYTES, MAX_WEIGHTS
from bosal_decoding.recipe import Recipe, load_folder, load_shipped

FULL: dict[str, Any] = {
    "name": "full",
    "description": "every rule",
    "scaffold": {"kind": "in_context", "examples": [{"instruction": "a", "answer": "b"}]},
    "rules": [
        {"rule": "eos_ramp", "weight": 15.0, "over": 250},
        {"rule": "token_weights", "weights": {"I": -5.0, " no": 1.0}, "if_missing": "skip"},
        {"rule": "used_token_weight", "weight": -1.5},
        {"rule": "logit_bias", "ids": {"7": 1.0}, "strings": {"a": 2.0}},
        {"rule": "repetition_penalty", "value": 1.1},
        {"rule": "presence_penalty", "value": 0.5},
        {"rule": "frequency_penalty", "value": 0.25},
        {"rule": "banned_strings", "values": ["cat"]},
        {"rule": "min_tokens", "value": 3},
        {"rule": "temperature", "value": 0.7},
        {"rule": "top_k", "k": 40},
        {"rule": "top_p", "p": 0.95},
        {"rule": "min_p", "p": 0.05},
        {"rule": "stop_strings", "values": ["\nQ:"]},
        {"rule": "max_tokens", "value": 64},
    ],
}

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
WEIGHTS = st.floats(-100, 100)
RULES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "eos_ramp": st.fixed_dictionaries({"weight": WEIGHTS, "over": st.integers(1, 999)}),
    "token_weights": st.fixed_dictionaries(
        {"weights": st.dictionaries(TEXTS, WEIGHTS, min_size=1, max_size=4)},
        optional={"if_missing": st.sampled_from(["error", "skip"])},
    ),
    "used_token_weight": st.fixed_dictionaries(
        {"weight": WEIGHTS}, optional={"include_instruction": st.booleans()}
    ),
    "logit_bias": st.fixed_dictionaries(
        {"ids": st.dictionaries(st.integers(0, 99).map(str), WEIGHTS, min_size=1, max_size=3)}
    ),
    "temperature": st.fixed_dictionaries({"value": st.just(0.0) | st.floats(0.01, 5)}),
    "top_k": st.fixed_dictionaries({"k": st.integers(0, 100)}),
    "stop_strings": st.fixed_dictionaries({"values": st.lists(TEXTS, min_size=1, max_size=3)}),
    "max_tokens": st.fixed_dictionaries({"value": st.integers(1, 500)}),
}
SCAFFOLDS = st.sampled_from(
    [
        {"kind": "raw"},
        {"kind": "plain"},
        {"kind": "turns", "user": "User:"},
        {"kind": "in_context", "preamble": "Be good.\n", "question": "# Query:"},
    ]
)


@st.composite
def documents(draw: Callable[[Any], Any]) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(RULES)), unique=True, max_size=5))
    rules = [{"rule": name, **draw(RULES[name])} for name in names]
    document: dict[str, Any] = {"name": "some", "scaffold": draw(SCAFFOLDS)}
    return document | ({"rules": rules} if rules else {})


def as_struct(value: Any) -> Any:
    """What proto's Struct makes of a document: every number a float."""
    if isinstance(value, dict):
        return {key: as_struct(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_struct(inner) for inner in value]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_number else value


@given(document=documents())
def test_yaml_json_and_struct_are_one_document(document: dict[str, Any]) -> None:
    recipe = Recipe.parse(document)
    assert recipe.document() == document
    for other in (
        Recipe.parse(write_yaml(document)),
        Recipe.parse(json.dumps(document)),
        Recipe.parse(as_struct(document)),
        Recipe.parse(recipe.document()),
    ):
        assert other == recipe
        assert other.version == recipe.version


def test_a_full_recipe_keeps_its_document() -> None:
    assert Recipe.parse(FULL).document() == FULL


def test_the_version_ignores_name_and_description() -> None:
    renamed = FULL | {"name": "other", "description": ""}
    assert Recipe.parse(renamed).version == Recipe.parse(FULL).version
    assert len(Recipe.parse(FULL).version) == 16


def test_the_version_follows_every_field_that_acts() -> None:
    versions = {Recipe.parse(FULL).version}
    others: dict[str, Any] = {
        "weights": {"I": -4.0},
        "ids": {"8": 1.0},
        "strings": {"b": 1.0},
        "values": ["other"],
        "if_missing": "error",
        "p": 0.25,
    }
    changed = 0
    for index, rule in enumerate(FULL["rules"]):
        for key in rule.keys() - {"rule"}:
            rules = [*FULL["rules"]]
            rules[index] = rule | {key: others[key] if key in others else rule[key] * 2}
            versions.add(Recipe.parse(FULL | {"rules": rules}).version)
            changed += 1
    versions.add(Recipe.parse(FULL | {"rules": FULL["rules"][::-1]}).version)
    versions.add(Recipe.parse(FULL | {"scaffold": {"kind": "raw"}}).version)
    assert len(versions) == changed + 3


def test_the_version_counts_what_is_set_not_what_is_meant() -> None:
    implicit = Recipe.parse({"rules": [{"rule": "used_token_weight", "weight": 1}]})
    explicit = Recipe.parse(
        {"rules": [{"rule": "used_token_weight", "weight": 1, "include_instruction": False}]}
    )
    assert implicit.version != explicit.version


def test_null_and_empty_mean_unset() -> None:
    bare = Recipe.parse({"scaffold": {"kind": "raw"}})
    full: dict[str, Any] = {
        "scaffold": {"kind": "raw"},
        "rules": [],
        "constraint": None,
        "name": "",
    }
    assert Recipe.parse(full).version == bare.version


def test_versions_are_the_same_for_ever() -> None:
    # A changed hash would make every pinned `name@version` unknown.
    assert Recipe.parse({"scaffold": {"kind": "plain"}}).version == "2e1f9f3e773e53ca"


@pytest.mark.parametrize(
    ("document", "field", "words"),
    [
        ({"ruls": []}, "ruls", "unknown field, did you mean 'rules'?"),
        ({"rules": {}}, "rules", "must be a list"),
        ({"rules": "eos_ramp"}, "rules", "must be a list"),
        ({"rules": ["eos_ramp"]}, "rules[0]", "must be a mapping"),
        ({"rules": [{"value": 1}]}, "rules[0].rule", "is required"),
        ({"rules": [{"rule": 3}]}, "rules[0].rule", "must be text"),
        (
            {"rules": [{"rule": "top_k", "k": 1}, {"rule": "eos_rmp"}]},
            "rules[1].rule",
            "no rule is called 'eos_rmp', did you mean 'eos_ramp'?",
        ),
        (
            {"rules": [{"rule": "eos_ramp", "weigth": 1, "over": 2}]},
            "rules[0].weigth",
            "unknown field, did you mean 'weight'?",
        ),
        ({"rules": [{"rule": "eos_ramp", "weight": 1}]}, "rules[0].over", "is required"),
        (
            {"rules": [{"rule": "top_p", "p": 0.5}, {"rule": "top_p", "p": 0.6}]},
            "rules[1].rule",
            "'top_p' is given twice",
        ),
        ({"rules": [{"rule": "temperature", "value": float("nan")}]}, "rules[0].value", "finite"),
        ({"rules": [{"rule": "eos_ramp", "weight": float("inf"), "over": 1}]},
         "rules[0].weight", "finite"),
        ({"rules": [{"rule": "temperature", "value": "1"}]}, "rules[0].value", "number"),
        ({"rules": [{"rule": "temperature", "value": True}]}, "rules[0].value", "number"),
        ({"rules": [{"rule": "temperature", "value": None}]}, "rules[0].value", "number"),
        ({"rules": [{"rule": "temperature", "value": -0.1}]}, "rules[0].value", "greater than"),
        ({"rules": [{"rule": "temperature", "value": 1e-9}]}, "rules[0].value", "0 (greedy)"),
        ({"rules": [{"rule": "top_k", "k": 1.5}]}, "rules[0].k", "integer"),
        ({"rules": [{"rule": "top_k", "k": True}]}, "rules[0].k", "integer"),
        ({"rules": [{"rule": "top_k", "k": -1}]}, "rules[0].k", "greater than"),
        ({"rules": [{"rule": "top_p", "p": 0}]}, "rules[0].p", "greater than 0"),
        ({"rules": [{"rule": "repetition_penalty", "value": 0}]}, "rules[0].value", "greater"),
        ({"rules": [{"rule": "used_token_weight", "weight": 1, "include_instruction": 1}]},
         "rules[0].include_instruction", "boolean"),
        ({"rules": [{"rule": "token_weights", "weights": {}}]}, "rules[0].weights", "at least 1"),
        ({"rules": [{"rule": "token_weights", "weights": {3: 1}}]},
         "rules[0].weights[3]", "quotes"),
        ({"rules": [{"rule": "token_weights", "weights": {"": 1}}]},
         "rules[0].weights['']", "at least 1"),
        ({"rules": [{"rule": "token_weights", "weights": {"a": 1}, "if_missing": "drop"}]},
         "rules[0].if_missing", "'error' or 'skip'"),
        ({"rules": [{"rule": "logit_bias"}]}, "rules[0]", "needs 'ids' or 'strings'"),
        ({"rules": [{"rule": "logit_bias", "ids": {"x": 1}}]}, "rules[0].ids.x", "integer"),
        ({"rules": [{"rule": "logit_bias", "ids": {"3": 1, 3: 2}}]}, "rules[0].ids", "given twice"),
        ({"rules": [{"rule": "stop_strings", "values": "ab"}]}, "rules[0].values", "list"),
        ({"rules": [{"rule": "stop_strings", "values": []}]}, "rules[0].values", "at least 1"),
        ({"rules": [{"rule": "stop_strings", "values": ["a", ""]}]},
         "rules[0].values[1]", "at least 1"),
        ({"rules": [{"rule": "stop_strings", "values": [1]}]}, "rules[0].values[0]", "string"),
        ({"rules": [{"rule": "max_tokens", "value": 0}]}, "rules[0].value", "greater than"),
        ({"scaffold": {"kind": "turn"}}, "scaffold.kind", "did you mean 'turns'?"),
        ({"scaffold": {}}, "scaffold.kind", "is required"),
        ({"scaffold": "raw"}, "scaffold", "must be a mapping"),
        ({"scaffold": {"kind": "raw", "preamble": "x"}}, "scaffold.preamble", "unknown field"),
        (
            {"scaffold": {"kind": "in_context", "examples": [{"instruction": "a", "anser": "b"}]}},
            "scaffold.examples[0].anser",
            "did you mean 'answer'?",
        ),
        ({"scaffold": {"kind": "turns", "user": "a\nb"}}, "scaffold.user", "one line"),
        ({"scaffold": {"kind": "turns", "user": "a"}}, "scaffold.user", "at least 2 characters"),
        ({"scaffold": {"kind": "turns", "user": "a" * 65}}, "scaffold.user", "at most 64 char"),
        (
            {"rules": [{"rule": "forced_phrases", "phrases": [{"text": "a", "at": "begin"}]}]},
            "rules[0].phrases[0].at",
            "integer or input should be 'end'",
        ),
        ({"constraint": {"regexp": "a"}}, "constraint.regexp", "did you mean 'regex'?"),
        ({"constraint": "a"}, "constraint", "mapping"),
        ({"name": "a b"}, "name", "letters"),
        ({"name": "a" * 65}, "name", "at most 64"),
    ],
)  # fmt: skip
def test_a_bad_document_is_refused_with_its_field(
    document: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(DecodingError) as caught:
        Recipe.parse(document)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert words in str(caught.value)
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "stop_strings", "values": ["ä" * MAX_STRING_BYTES]},
        {"rule": "stop_strings", "values": [str(n) for n in range(MAX_STOP_STRINGS + 1)]},
        {"rule": "banned_strings", "values": ["x" * 1000 + str(n) for n in range(10)]},
        {"rule": "token_weights", "weights": {str(n): 1 for n in range(MAX_WEIGHTS + 1)}},
        {"rule": "logit_bias", "ids": dict.fromkeys(range(MAX_WEIGHTS + 1), 1)},
        {"rule": "token_weights", "weights": {"a": 1e9}},
    ],
)
def test_sizes_are_limited(rule: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecipe):
        Recipe.parse({"rules": [rule]})


def test_the_number_of_rules_is_limited() -> None:
    with pytest.raises(InvalidRecipe, match=f"at most {MAX_RULES} rules"):
        Recipe.parse({"rules": [{"rule": "top_k", "k": 1}] * (MAX_RULES + 1)})


def test_all_violations_of_a_rule_are_listed() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        Recipe.parse({"rules": [{"rule": "eos_ramp", "weigth": 1}]})
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["rules[0].weigth", "rules[0].weight", "rules[0].over"]


def test_unquoted_yaml_words_are_token_strings() -> None:
    recipe = Recipe.parse("rules: [{rule: token_weights, weights: {no: -1, on: 2}}]")
    assert recipe.document()["rules"][0]["weights"] == {"no": -1.0, "on": 2.0}


def test_recipes_cannot_be_changed() -> None:
    recipe = Recipe.parse(FULL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_overrides_replace_single_parameters_and_append_new_rules() -> None:
    base = Recipe.parse(
        {"rules": [{"rule": "eos_ramp", "weight": 1, "over": 5}, {"rule": "top_p", "p": 0.5}]}
    )
    changed = base.with_overrides(
        [{"rule": "eos_ramp", "weight": 2}, {"rule": "min_tokens", "value": 1.0}]
    )
    assert changed.document()["rules"] == [
        {"rule": "eos_ramp", "weight": 2.0, "over": 5},
        {"rule": "top_p", "p": 0.5},
        {"rule": "min_tokens", "value": 1},
    ]
    assert base.with_overrides([]) == base
    assert base.document()["rules"][0]["weight"] == 1.0


def test_a_new_temperature_takes_its_default_place() -> None:
    base = Recipe.parse(
        {"rules": [{"rule": "min_tokens", "value": 1}, {"rule": "top_p", "p": 0.5}]}
    )
    changed = base.with_overrides([{"rule": "temperature", "value": 0.5}])
    assert [rule.name for rule in changed.rules] == ["min_tokens", "temperature", "top_p"]
    assert [
        rule.name
        for rule in Recipe.parse({}).with_overrides([{"rule": "temperature", "value": 1}]).rules
    ] == ["temperature"]


def test_an_old_temperature_stays_where_the_recipe_has_it() -> None:
    base = Recipe.parse(
        {"rules": [{"rule": "top_p", "p": 0.5}, {"rule": "temperature", "value": 1}]}
    )
    changed = base.with_overrides([{"rule": "temperature", "value": 0.5}])
    assert [rule.name for rule in changed.rules] == ["top_p", "temperature"]


def test_bad_overrides_name_their_own_place() -> None:
    base = Recipe.parse(FULL)
    with pytest.raises(InvalidRecipe) as caught:
        base.with_overrides([{"rule": "top_k", "k": 5}, {"rule": "top_p", "q": 0.5}])
    assert caught.value.field == "overrides[1].q"
    with pytest.raises(UnknownName) as unknown:
        base.with_overrides([{"rule": "topk", "k": 5}])
    assert unknown.value.field == "overrides[0].rule"
    with pytest.raises(InvalidRecipe, match="'top_k' is given twice"):
        base.with_overrides([{"rule": "top_k", "k": 5}, {"rule": "top_k", "k": 6}])
    with pytest.raises(InvalidRecipe, match="must be a mapping"):
        base.with_overrides(["top_k"])  # type: ignore[list-item]


def test_the_shipped_recipes_are_there_and_name_their_source() -> None:
    recipes = load_shipped()
    assert sorted(recipes) == [
        "contrastive",
        "guided",
        "in-context",
        "nudged",
        "plain",
        "proxy",
        "rules",
        "steered",
    ]
    assert all(recipe.description and recipe.name == name for name, recipe in recipes.items())
    assert recipes["plain"].rules == ()
    ramp = recipes["rules"].document()["rules"][0]
    assert ramp == {"rule": "eos_ramp", "weight": 15.0, "over": 250}


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("rules: [{rule: top_k, k: 3}]")
    (tmp_path / "two.json").write_text('{"name": "other", "scaffold": {"kind": "raw"}}')
    (tmp_path / "notes.txt").write_text("not a recipe")
    assert sorted(load_folder(tmp_path)) == ["one", "other"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rules: [{rule: topk}]", "no rule is called 'topk'"),
        (b"- a", "must be a mapping"),
        (b"\xff", "not UTF-8"),
        (b"name: one", "'one' is in the folder twice"),
        (b"name: inline", "what a recipe inside a request is called"),
    ],
)
def test_a_bad_file_in_a_folder_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "one.yaml").write_text("scaffold: {kind: raw}")
    (tmp_path / "wrong.yaml").write_bytes(content)
    with pytest.raises(DecodingError) as caught:
        load_folder(tmp_path)
    assert "wrong.yaml" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("num_digits", [21, 5000])
def test_a_giant_token_id_is_no_integer(num_digits: int) -> None:
    rule = {"rule": "logit_bias", "ids": {"9" * num_digits: 1}}
    with pytest.raises(InvalidRecipe, match="should be a valid integer") as failure:
        Recipe.parse({"rules": [rule]})
    assert failure.value.field is not None
    assert failure.value.field.startswith("rules[0].ids[")
    assert len(failure.value.field) < 100


def test_lists_are_called_lists() -> None:
    rules = [{"rule": "banned_strings", "values": [f"w{i}" for i in range(10_000)]}]
    with pytest.raises(InvalidRecipe, match=r"values: list should have at most 64 items"):
        Recipe.parse({"rules": rules})
