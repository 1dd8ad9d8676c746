"""Rules found through entry points: the example package, and packages that are none."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.plugins import WORDPLAY, install, install_module

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.errors import DecodingError, InvalidRecipe, PluginUnusable, UnknownName
from bosal_decoding.pipeline import Pipeline
from bosal_decoding.recipe import Recipe
from bosal_decoding.reference import reference
from bosal_decoding.rules import describe, installed
from bosal_decoding.rules.installed import installed_rules
from bosal_decoding.vocabulary import Vocabulary

RULE = """
from bosal_decoding.rules import PluginRule, RuleStage
class Rule(PluginRule):
    name = "mine"
    stage = RuleStage.SHAPE
    summary = formula = source = "a test"
    @classmethod
    def act(cls, rows, turns):
        return rows * 0
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path where packages can be installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    installed_rules.cache_clear()
    yield folder
    installed_rules.cache_clear()
    for module in ("mine", "ours", "bosal_wordplay"):
        sys.modules.pop(module, None)


def test_the_example_package_works_as_its_page_says(site: Path, vocabulary: Vocabulary) -> None:
    install(WORDPLAY, site)
    found = {one.rule: one for one in describe() if one.package}
    assert list(found) == ["alliteration", "lipogram"]
    assert found["lipogram"].package == "bosal-wordplay 1.0"
    assert found["lipogram"].params_schema["properties"]["letters"]["maxLength"] == 26
    rules = [
        {"rule": "lipogram", "letters": "E", "scope": {"after": 1}},
        {"rule": "alliteration", "weight": 50},
        {"rule": "temperature", "value": 0},
    ]
    plan = compile_recipe(Recipe.parse({"rules": rules}), vocabulary, context_tokens=512)
    assert [(rule.rule, rule.stage) for rule in plan.rules][:2] == [
        ("lipogram", "mask"),
        ("alliteration", "shape"),
    ]
    pipeline = Pipeline(vocabulary.size, 1)
    pipeline.slots.add(0, plan, history=[], seed=0, choice=0)
    the = vocabulary.ids_of(" the")[0]
    text = b""
    for token in (the, None, None, None):
        controlled = pipeline.apply(torch.zeros(1, vocabulary.size), [0])
        drawn = int(pipeline.sample(controlled).tokens[0]) if token is None else token
        assert pipeline.take_faults() == {}
        pipeline.slots.commit([0], [[drawn]])
        text += vocabulary.token_bytes[drawn]
    assert text.startswith(b" the t")
    assert b"e" not in text[4:].lower()


def test_the_generated_page_has_the_built_in_rules_alone(site: Path) -> None:
    before = reference()
    install(WORDPLAY, site)
    installed_rules.cache_clear()
    assert reference() == before


def test_errors_of_a_plugins_parameters_name_the_field(site: Path) -> None:
    install(WORDPLAY, site)
    with pytest.raises(InvalidRecipe) as wrong:
        Recipe.parse({"rules": [{"rule": "lipogram", "letter": "e"}]})
    assert wrong.value.field == "rules[0].letter"
    assert "did you mean 'letters'?" in str(wrong.value)
    with pytest.raises(UnknownName, match="did you mean 'lipogram'"):
        Recipe.parse({"rules": [{"rule": "lipogramm", "letters": "e"}]})


def test_a_plugin_may_refuse_or_fail_at_its_parameters(site: Path) -> None:
    code = (
        RULE
        + """
    words: list[str] = []
    def model_post_init(self, context):
        if self.words == ["boom"]:
            raise RuntimeError("no such luck")
"""
    )
    install_module(site, "mine", code, {"mine": "mine:Rule"})
    assert Recipe.parse({"rules": [{"rule": "mine"}]}).rules[0].name == "mine"
    with pytest.raises(
        DecodingError, match="rule 'mine' of mine 0.1 failed.*no such luck"
    ) as error:
        Recipe.parse({"rules": [{"rule": "mine", "words": ["boom"]}]})
    assert (error.value.reason, error.value.field) == ("PLUGIN_FAULT", "rules[0]")


@pytest.mark.parametrize(
    ("code", "rules", "why"),
    [
        ("import nothing_of_that_name", {"mine": "mine:Rule"}, "No module named 'nothing_of"),
        ("x = 1", {"mine": "mine:Rule"}, "has no attribute 'Rule'"),
        ("class Rule: pass", {"mine": "mine:Rule"}, "it is no subclass of"),
        (RULE.replace("act", "acts"), {"mine": "mine:Rule"}, "it lacks the method act"),
        (RULE.replace("formula = ", ""), {"mine": "mine:Rule"}, "'formula' is not set"),
        (RULE.replace("SHAPE", "STOP"), {"mine": "mine:Rule"}, "its stage is 'stop'"),
        (RULE, {"other": "mine:Rule"}, "the class calls itself 'mine'"),
        (RULE.replace('"mine"', '"Mine!"'), {"Mine!": "mine:Rule"}, "small letters"),
        (
            RULE.replace('"mine"', '"top_p"'),
            {"top_p": "mine:Rule"},
            "a built-in rule has that name",
        ),
        (RULE + "    where: type = int\n", {"mine": "mine:Rule"}, "no JSON Schema"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_name_and_package(
    site: Path, code: str, rules: dict[str, str], why: str
) -> None:
    install_module(site, "mine", code, rules)
    with pytest.raises(PluginUnusable) as unusable:
        installed()
    (name,) = rules
    assert f"rule '{name}' of mine 0.1 (mine:Rule) cannot be used" in str(unusable.value)
    assert why in str(unusable.value)
    # Recipes without it go on.
    assert Recipe.parse({"rules": [{"rule": "top_k", "k": 3}]}).rules[0].name == "top_k"


def test_two_packages_cannot_have_one_name(site: Path) -> None:
    install_module(site, "mine", RULE, {"mine": "mine:Rule"})
    install_module(site, "ours", RULE, {"mine": "ours:Rule"})
    with pytest.raises(PluginUnusable, match=r"(mine|ours) 0.1 has a rule of that name too"):
        installed()
