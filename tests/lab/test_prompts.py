"""Prompt files of the user's own, and the patterns that judge their answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.lab import records

from bosal_client import assistant, user
from bosal_lab.evaluation_errors import ArmError, PromptError
from bosal_lab.item import Answer, Item
from bosal_lab.patterns import PatternScorer
from bosal_lab.prompts import read_prompts
from bosal_lab.recipe_files import RecipeFile, read_recipe
from bosal_lab.suites import load_scorer, load_suite


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_a_prompt_alone_is_enough(tmp_path: Path) -> None:
    suite = read_prompts(write(tmp_path / "mine.jsonl", {"prompt": "Who?"}, "", {"prompt": "Why?"}))
    assert suite.name == "mine"
    assert [(item.id, item.category, item.split) for item in suite.items] == [
        ("1", "all", "test"),
        ("3", "all", "test"),
    ]
    assert suite.items[1].messages == (user("Why?"),)


def test_every_field_is_read(tmp_path: Path) -> None:
    line = {
        "id": "one",
        "category": "names",
        "split": "dev",
        "messages": [
            {"role": "user", "text": "Hi\u2028there"},
            {"role": "assistant", "text": "Hello."},
            {"role": "user", "text": "Who?"},
        ],
        "checks": {"exact": "Ann"},
        "reference": "Ann",
        "cluster": "people",
    }
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")
    assert read_prompts(path).items == (
        Item(
            id="one",
            category="names",
            split="dev",
            messages=(user("Hi\u2028there"), assistant("Hello."), user("Who?")),
            checks={"exact": "Ann"},
            reference="Ann",
            cluster="people",
        ),
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: not JSON"),
        ([[1]], "line 1: not an object"),
        ([{"prompt": "a"}, {"promt": "b"}], "line 2: no field is named 'promt'"),
        ([{"prompt": " "}], "prompt is no text"),
        ([{"category": "a"}], "either 'prompt' or 'messages'"),
        ([{"prompt": "a", "messages": []}], "either 'prompt' or 'messages'"),
        ([{"messages": []}], "end with the user's"),
        ([{"messages": [{"role": "assistant", "text": "a"}]}], "end with the user's"),
        ([{"messages": [{"role": "system", "text": "a"}]}], "not a message"),
        ([{"prompt": "a", "split": "train"}], "neither 'dev' nor 'test'"),
        ([{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}], "line 2: id 'x' is taken"),
        ([{"prompt": "a", "checks": {"exactly": "b"}}], "no check is named 'exactly'"),
        ([{"prompt": "a", "checks": {"regex": "("}}], "check 'regex'"),
        ([{"prompt": "a", "checks": {"max_words": "9"}}], "cannot be '9'"),
        ([{"prompt": "a", "checks": {"max_words": True}}], "cannot be True"),
        ([{"prompt": "a", "checks": {"contains": [1]}}], "list of texts"),
        ([{"prompt": "a", "checks": []}], "checks is no object"),
        ([{"prompt": "a", "category": 1}], "category is no text"),
        ([], "no prompt"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = write(tmp_path / "mine.jsonl", *lines)
    with pytest.raises(PromptError, match=message):
        read_prompts(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="none.jsonl"):
        read_prompts(tmp_path / "none.jsonl")
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"prompt": "für"}'.encode("latin-1"))
    with pytest.raises(PromptError, match="utf-8"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("checks", "text", "followed", "right"),
    [
        ({"exact": "Ann"}, " ann\n", True, True),
        ({"exact": "Ann"}, "Ann.", True, False),
        ({"contains": ["a", "B"]}, "b and A", True, True),
        ({"contains": ["a", "c"]}, "b and A", True, False),
        ({"excludes": ["x"]}, "X marks", True, False),
        ({"regex": r"\b\d{4}\b"}, "in 1871.", True, True),
        ({"form_regex": r"(- .+\n?)+"}, "- a\n- b", True, None),
        ({"form_regex": r"- .+"}, "a", False, None),
        ({"max_words": 2}, "one two three", False, None),
        ({"min_words": 2}, "one", False, None),
        ({"max_lines": 1}, "one\ntwo", False, None),
        ({"json": True}, "[1]", True, None),
        ({"json": True}, "[1", False, None),
        ({"json": ["a", "b"]}, '{"b": 1, "a": 2}', True, None),
        ({"json": ["a"]}, '{"b": 1, "a": 2}', False, None),
        ({"exact": "", "max_words": 5}, "", False, True),
        ({}, "anything", None, None),
    ],
)
def test_patterns_judge_content_and_form(
    checks: dict[str, Any], text: str, followed: bool | None, right: bool | None
) -> None:
    item = Item(id="a", category="a", split="test", messages=(user("?"),), checks=checks)
    score = PatternScorer().score(item, Answer(text=text))
    assert (score.followed, score.right) == (followed, right)


def test_an_answer_that_was_cut_is_no_success() -> None:
    item = Item(id="a", category="a", split="test", messages=(user("?"),), checks={"exact": "b"})
    score = PatternScorer().score(item, Answer(text="b", finish_reason="max_tokens"))
    assert (score.right, score.stopped, score.success) == (True, False, False)


def test_a_scorer_is_found_by_module_and_name() -> None:
    assert isinstance(load_scorer("tests.lab.records:Right"), records.Right)
    for name, message in (
        ("tests.lab.records", "MODULE:NAME"),
        ("tests.lab.nowhere:Right", "nowhere"),
        ("tests.lab.records:Wrong", "Wrong"),
        ("tests.lab.records:ARM", "no score"),
    ):
        with pytest.raises(ArmError, match=message):
            load_scorer(name)


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ArmError, match="did you mean 'ifeval'"):
        load_suite("ifevl")
    with pytest.raises(ArmError, match="ifeval:FILE"):
        load_suite("ifeval")


def test_a_recipe_file_is_its_text_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rules: [{rule: top_p, p: 0.9}]", encoding="utf-8")
    assert read_recipe(str(path)) == RecipeFile("mine", "rules: [{rule: top_p, p: 0.9}]")
    assert read_recipe("steered@0123") == "steered@0123"
    path.write_bytes(b"\xff")
    for refused in (path, tmp_path / "none.yaml"):
        with pytest.raises(ArmError, match=refused.name):
            read_recipe(str(refused))
