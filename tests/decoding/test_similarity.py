"""BM25 against its formula written out, and the examples a request is shown."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.errors import InvalidRecipe
from bosal_decoding.recipe import Recipe, load_folder
from bosal_decoding.scaffolds import Message, read_scaffold
from bosal_decoding.scaffolds.similarity import Similarity
from bosal_decoding.vocabulary import Vocabulary

WORDS = st.lists(st.sampled_from(["river", "lake", "Name", "a", "the", "goods", "of"]), max_size=8)
TEXTS = st.lists(WORDS.map(" ".join), min_size=1, max_size=6)


def bm25(texts: list[str], question: str, place: int) -> float:
    """The formula of the paper, one text and word at a time."""
    split = [re.findall(r"\w+", text.lower()) for text in texts]
    mean = sum(map(len, split)) / len(split) or 1
    total = 0.0
    for word in set(re.findall(r"\w+", question.lower())):
        holders = sum(word in one for one in split)
        frequency = split[place].count(word)
        if holders:
            rarity = math.log(1 + (len(split) - holders + 0.5) / (holders + 0.5))
            norm = 1.2 * (0.25 + 0.75 * len(split[place]) / mean)
            total += rarity * frequency * 2.2 / (frequency + norm)
    return total


@given(texts=TEXTS, question=WORDS.map(" ".join))
def test_scores_are_the_formulas(texts: list[str], question: str) -> None:
    found = Similarity(texts).scores(question)
    assert found == pytest.approx([bm25(texts, question, place) for place in range(len(texts))])
    best = Similarity(texts).best(question, 3)
    assert [found[at] for at in best] == sorted(found, reverse=True)[:3]
    assert Similarity(["a"] * 5).best("a", 3) == [0, 1, 2]


EXAMPLES = [
    {"instruction": "Name a river.", "answer": "The Rhine."},
    {"instruction": "What are the goods of Oslo?", "answer": "Fish."},
    {"instruction": "Who wrote Faust?", "answer": "Goethe."},
    {"instruction": "Name a lake.", "answer": "Como."},
]
CHOOSING = {"kind": "in_context", "preamble": "An almanac.", "examples": EXAMPLES, "choose": 2}


def ask(text: str) -> list[Message]:
    return [Message(role="user", text=text)]


def test_the_examples_most_like_the_question_stand_nearest_to_it() -> None:
    scaffold = read_scaffold(CHOOSING, "scaffold")
    (rendered,) = scaffold.render(ask("What are the goods of that river?"))
    assert rendered.text == (
        "An almanac.\n\nQ: Name a river.\nA: The Rhine.\n\nQ: What are the goods of Oslo?\n"
        "A: Fish.\n\nQ: What are the goods of that river?\nA:"
    )
    assert rendered.text[: rendered.stable_chars] == "An almanac.\n\n"
    # Nothing alike: the first ones. And the last message decides, not what was said before.
    (other,) = scaffold.render(ask("¿Qué?"))
    assert [word in other.text for word in ("Rhine", "Fish", "Goethe", "Como")] == [1, 1, 0, 0]
    turns = [*ask("Name a lake."), Message(role="assistant", text="Garda."), *ask("Faust?")]
    (later,) = scaffold.render(turns)
    assert "A: Goethe.\n\nQ: Name a lake.\nA: Garda." in later.text


def test_without_the_instruction_the_same_examples_are_shown(vocabulary: Vocabulary) -> None:
    scaffold = read_scaffold(CHOOSING, "scaffold")
    asked, unasked = scaffold.render(ask("Faust?"))[0], scaffold.render_instead(ask("Faust?"), "")
    assert asked.text.removesuffix("Faust?\nA:") + "\nA:" == unasked.text
    plan = compile_recipe(Recipe.parse({"scaffold": CHOOSING}), vocabulary, context_tokens=256)
    (prompt,) = plan.prompts(ask("Faust?"))
    assert prompt.pin_tokens <= len(vocabulary.encode("An almanac.\n\n"))


@pytest.mark.parametrize(
    ("rule", "question", "shown"),
    [
        ({"rule": "guidance"}, "Who wrote Faust?", ""),
        ({"rule": "guidance", "negative": "Name a lake."}, "Who wrote Faust?", "Name a lake."),
        (
            {"rule": "context_aware"},
            "Goethe wrote it, on a lake.\n\nName a river.",
            "Name a river.",
        ),
    ],
)
def test_all_streams_show_the_examples_of_what_was_asked(
    vocabulary: Vocabulary, rule: dict[str, Any], question: str, shown: str
) -> None:
    recipe = Recipe.parse({"scaffold": CHOOSING, "rules": [rule]})
    plan = compile_recipe(recipe, vocabulary, context_tokens=512)
    asked, other = (prompt.text for prompt in plan.prompts(ask(question)))
    assert other == asked.removesuffix(f"{question}\nA:") + f"{shown}\nA:"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"choose": 0}, "scaffold.choose"),
        ({"choose": 65}, "scaffold.choose"),
        ({"examples": []}, "scaffold"),
        ({"examples": EXAMPLES * 17, "choose": None}, "scaffold"),
        ({"examples": EXAMPLES * 251}, "scaffold.examples"),
        ({"examples_file": "x.jsonl"}, "scaffold.examples_file"),
    ],
)
def test_limits(changes: dict[str, Any], field: str) -> None:
    entry = {key: value for key, value in {**CHOOSING, **changes}.items() if value is not None}
    with pytest.raises(InvalidRecipe) as caught:
        read_scaffold(entry, "scaffold")
    assert (caught.value.field or "").startswith(field)


def write(folder: Path, lines: str, scaffold: dict[str, Any]) -> None:
    (folder / "mine.json").write_text(json.dumps({"scaffold": {"kind": "in_context", **scaffold}}))
    (folder / "mine.jsonl").write_text(lines)


def test_a_folders_recipe_takes_its_examples_from_a_file_beside_it(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(one) for one in EXAMPLES)
    write(tmp_path, f"{lines}\n\n", {"examples_file": "mine.jsonl", "choose": 2})
    recipe = load_folder(tmp_path)["mine"]
    whole = {key: value for key, value in CHOOSING.items() if key != "preamble"}
    assert recipe.version == Recipe.parse({"scaffold": whole}).version
    # The document is whole: it can be sent anywhere.
    assert Recipe.parse(recipe.document()) == recipe


@pytest.mark.parametrize(
    ("lines", "scaffold", "message"),
    [
        ("", {"examples_file": "other.jsonl"}, "only mine.jsonl"),
        ("", {"examples_file": "../mine.jsonl"}, "no such .jsonl file"),
        ("{}\n{", {"examples_file": "mine.jsonl"}, "line 2 is not JSON"),
        ('{"instruction": "a"}', {"examples_file": "mine.jsonl"}, "answer"),
        ("{}\n" * 1001, {"examples_file": "mine.jsonl"}, "more than 1000"),
        (" " * 262_145, {"examples_file": "mine.jsonl"}, "larger than 262144 bytes"),
        ("", {"examples_file": "mine.jsonl", "examples": EXAMPLES}, "exclude each other"),
    ],
)
def test_files_that_are_none_are_refused(
    lines: str, scaffold: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, lines, scaffold)
    with pytest.raises(InvalidRecipe, match=message) as caught:
        load_folder(tmp_path)
    assert "mine.json" in (caught.value.field or "")
